"""From settings to a detector."""

from tailseg.losses.base import ClassificationLoss
from tailseg.models.config import ModelConfig
from tailseg.models.detector import Detector
from tailseg.models.faster_rcnn import FasterRCNN
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.weights import load_backbone


def build_detector(config: ModelConfig, loss: ClassificationLoss, *, load_weights: bool = True) -> Detector:
    """Mask R-CNN, or Faster R-CNN for ``mask=None``, with the backbone weights that the config names.

    Args:
        config: every setting of the detector.
        loss: trains and reads the classifier; decides the number of logits and their first bias.
        load_weights: False leaves the backbone at random, for a detector whose weights come from a checkpoint.

    Raises:
        ValueError: the backbone's weights cannot be had, or do not fit (see ``load_backbone``).
    """
    detector = FasterRCNN(config, loss) if config.mask is None else MaskRCNN(config, loss)
    if load_weights:
        load_backbone(detector.backbone, config.backbone.weights)
    return detector
