"""Faster R-CNN: boxes and classes."""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from tailseg.losses.base import ClassificationLoss
from tailseg.models.box_head import BoxHead, ImageBoxes
from tailseg.models.config import ModelConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.models.sampling import sample_rois
from tailseg.structures import Detections, Target


@final
class FasterRCNN(TwoStageDetector):
    """Faster R-CNN with FPN whose classifier is trained with ``loss``.

    Raises:
        ValueError: the config has a mask head, or it is that of a cascade.

    Source: Ren et al. 2015, "Faster R-CNN"; Lin et al. 2017 for the pyramid.
    """

    def __init__(self, config: ModelConfig, loss: ClassificationLoss) -> None:
        if config.mask is not None:
            raise ValueError("Faster R-CNN has no mask head: use MaskRCNN, or a model config with mask=None")
        if config.cascade is not None:
            raise ValueError(f"Faster R-CNN has one stage, got cascade={config.cascade}: set cascade=None")
        super().__init__(config, loss)
        self.box_head = BoxHead(config.fpn.channels, config.box, loss)

    def roi_losses(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],  # noqa: ARG002 (for cascades, which clip the boxes that they refine)
    ) -> dict[str, Tensor]:
        return self.box_head.losses(pyramid, sample_rois(proposals, targets, self.num_classes, self.config.box))

    def detect(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        boxes = self.box_head.detect(pyramid, proposals, sizes, original_sizes, self.config.postprocess)
        return without_masks(boxes, original_sizes)


def without_masks(boxes: Sequence[ImageBoxes], original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
    """The detections of a model without masks: the boxes of each image, whose file has this height and width."""
    return [
        Detections(image.boxes, image.scores, image.labels, None, height, width)
        for image, (height, width) in zip(boxes, original_sizes, strict=True)
    ]
