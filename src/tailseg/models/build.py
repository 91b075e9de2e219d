"""From settings to a detector."""

from dataclasses import replace

from tailseg.losses.base import ClassificationLoss
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.config import CascadeConfig, DetectorConfig, HTCConfig, ModelConfig
from tailseg.models.detector import Detector, TwoStageDetector
from tailseg.models.faster_rcnn import FasterRCNN
from tailseg.models.htc import HybridTaskCascade
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.ranges import require_build


def build_detector(config: DetectorConfig, loss: ClassificationLoss, *, load_weights: bool = True) -> Detector:
    """The detector that the settings describe, with the pretrained weights of its backbone.

    Args:
        config: every setting of the detector, see `ModelConfig`; or your own settings, see `DetectorConfig`.
        loss: trains the classifier and turns its logits into scores; decides the number of logits and their initial
            bias. Each stage of a cascade has a copy of its own.
        load_weights: False leaves the backbone with random initialization, for a detector whose weights come from a
            checkpoint. With weights of timm, images are normalized as these weights need, unless the settings say
            otherwise.

    Returns:
        The detector, in training mode, on the CPU.

    Raises:
        ValueError: settings that do not go together, the backbone's weights cannot be read or do not fit (see
            `load_backbone`), or ``config.build`` does not return a `Detector`.
    """
    require_build(config, "model", "build(loss, load_weights=True)", returns="a detector")
    detector: object = config.build(loss, load_weights=load_weights)
    if not isinstance(detector, Detector):
        raise ValueError(
            f"{type(config).__name__}.build() returned an object of type {type(detector).__name__}, expected a "
            "detector: give its class the base class tailseg.models.Detector, and see its forward"
        )
    detector.has_masks, detector.num_classes = config.has_masks, loss.num_classes
    return detector


def build_two_stage(config: ModelConfig, loss: ClassificationLoss, *, load_weights: bool = True) -> TwoStageDetector:
    """`build_detector` for the built-in detectors.

    Args:
        config: every setting of the detector.
        loss: trains the classifier and turns its logits into scores.
        load_weights: load the pretrained weights of the backbone.

    Returns:
        The detector, in training mode, on the CPU.
    """
    if load_weights and (complete := getattr(config.backbone, "with_normalization_of_weights", None)):
        config = replace(config, backbone=complete())
    detector = _build_random(config, loss)
    if load_weights and (load := getattr(config.backbone, "load_weights", None)):
        load(detector.backbone)
    return detector


def _build_random(config: ModelConfig, loss: ClassificationLoss) -> TwoStageDetector:
    match config.cascade:
        case CascadeConfig():
            return CascadeMaskRCNN(config, loss)
        case HTCConfig():
            return HybridTaskCascade(config, loss)
        case None:
            return FasterRCNN(config, loss) if config.mask is None else MaskRCNN(config, loss)
        case other:
            raise ValueError(
                f"model.cascade is {other!r}, expected a CascadeConfig, an HTCConfig or None. For a detector of your "
                "own, give model your own settings, see tailseg.models.DetectorConfig"
            )
