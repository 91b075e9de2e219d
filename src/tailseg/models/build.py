"""From settings to a detector."""

from dataclasses import replace

from tailseg.losses.base import ClassificationLoss
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.config import CascadeConfig, HTCConfig, ModelConfig
from tailseg.models.detector import Detector
from tailseg.models.faster_rcnn import FasterRCNN
from tailseg.models.htc import HybridTaskCascade
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.timm_weights import with_own_normalization
from tailseg.models.weights import load_backbone


def build_detector(config: ModelConfig, loss: ClassificationLoss, *, load_weights: bool = True) -> Detector:
    """The detector that the config describes, with the backbone weights that it names.

    Args:
        config: every setting of the detector; see ``ModelConfig`` for how it chooses the detector.
        loss: trains and reads the classifier; decides the number of logits and their first bias. Each stage of a
            cascade has a copy of its own.
        load_weights: False leaves the backbone at random, for a detector whose weights come from a checkpoint. With
            weights of timm's the images are normalized as they were for these, unless the config says otherwise.

    Raises:
        ValueError: settings that do not go together, or the backbone's weights cannot be had or do not fit (see
            ``load_backbone``).
    """
    if load_weights:
        config = replace(config, backbone=with_own_normalization(config.backbone))
    detector = _detector(config, loss)
    if load_weights:
        load_backbone(detector.backbone, config.backbone.weights)
    return detector


def _detector(config: ModelConfig, loss: ClassificationLoss) -> Detector:
    match config.cascade:
        case CascadeConfig():
            return CascadeMaskRCNN(config, loss)
        case HTCConfig():
            return HybridTaskCascade(config, loss)
        case None:
            return FasterRCNN(config, loss) if config.mask is None else MaskRCNN(config, loss)
