"""Mask R-CNN: boxes, classes and masks."""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from tailseg.losses.base import ClassificationLoss
from tailseg.models.box_head import BoxHead
from tailseg.models.config import ModelConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.models.mask_head import MaskHead, detect_masks
from tailseg.models.sampling import sample_rois
from tailseg.structures import Detections, Target


@final
class MaskRCNN(TwoStageDetector):
    """Mask R-CNN with FPN whose classifier is trained with ``loss``.

    Raises:
        ValueError: the config has no mask head, or it is that of a cascade.

    Source: He et al. 2017, "Mask R-CNN".
    """

    def __init__(self, config: ModelConfig, loss: ClassificationLoss) -> None:
        if config.mask is None:
            raise ValueError("Mask R-CNN needs the settings of its mask head: use FasterRCNN for mask=None")
        if config.cascade is not None:
            raise ValueError(
                f"Mask R-CNN has one stage, got cascade={config.cascade}: use build_detector, or cascade=None"
            )
        super().__init__(config, loss)
        self.box_head = BoxHead(config.fpn.channels, config.box, loss)
        self.mask_head = MaskHead(config.fpn.channels, loss.num_classes, config.mask)

    def roi_losses(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],  # noqa: ARG002 (for cascades, which clip the boxes that they refine)
    ) -> dict[str, Tensor]:
        samples = sample_rois(proposals, targets, self.num_classes, self.config.box)
        return {**self.box_head.losses(pyramid, samples), **self.mask_head.losses(pyramid, samples, targets)}

    def detect(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        boxes = self.box_head.detect(pyramid, proposals, sizes, original_sizes, self.config.postprocess)
        return detect_masks(
            self.mask_head.probabilities,
            pyramid,
            boxes,
            sizes,
            original_sizes,
            threshold=self.config.postprocess.mask_threshold,
        )
