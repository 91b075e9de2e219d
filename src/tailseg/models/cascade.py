"""Cascade R-CNN: three box heads in sequence; Cascade Mask R-CNN has as many mask heads.

Shapes: B images; R boxes of all images together; masks have side S.
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tailseg.losses.base import ClassificationLoss
from tailseg.models.box_cascade import BoxCascade, stage_losses
from tailseg.models.config import CascadeConfig, ModelConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.models.faster_rcnn import without_masks
from tailseg.models.mask_head import MaskHead, detect_masks
from tailseg.structures import Detections, Target


@final
class CascadeMaskRCNN(TwoStageDetector):
    """Cascade Mask R-CNN with FPN whose classifiers are trained with copies of ``loss``; Cascade R-CNN without masks.

    Training: the proposals are matched and sampled, the first stage's box and mask head learn from the samples, and the
    boxes that the box head makes of them are the next stage's proposals, matched at a higher IoU.

    Test: class logits averaged over the stages, boxes of the last one, masks the mean of all stages' probabilities.

    Raises:
        ValueError: the config has no ``CascadeConfig``, or its boxes are not class-agnostic.

    Source: Cai and Vasconcelos 2021, "Cascade R-CNN: High Quality Object Detection and Instance Segmentation".
    """

    def __init__(self, config: ModelConfig, loss: ClassificationLoss) -> None:
        if not isinstance(config.cascade, CascadeConfig):
            raise ValueError(
                f"Cascade Mask R-CNN needs a model config with a CascadeConfig, got cascade={config.cascade}: start "
                "from cascade_mask_rcnn()"
            )
        super().__init__(config, loss)
        self.box_cascade = BoxCascade(config.fpn.channels, config.box, config.cascade.later_stages, loss)
        mask, channels = config.mask, config.fpn.channels
        self.mask_heads = nn.ModuleList(
            MaskHead(channels, loss.num_classes, mask) for _ in self.box_cascade.heads if mask is not None
        )

    def mask_head(self, stage: int) -> MaskHead:
        """The mask head of a stage, counted from 0."""
        head = self.mask_heads[stage]
        assert isinstance(head, MaskHead)
        return head

    def roi_losses(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        losses = {}
        for stage, weight in enumerate(self.box_cascade.loss_weights):
            samples = self.box_cascade.sample(stage, proposals, targets)
            box_losses, proposals = self.box_cascade.train_stage(stage, pyramid, samples, sizes)
            if self.config.mask is not None:
                box_losses = {**box_losses, **self.mask_head(stage).losses(pyramid, samples, targets)}
            losses |= stage_losses(box_losses, stage, weight)
        return losses

    def detect(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        test = self.config.postprocess
        boxes = self.box_cascade.detect(pyramid, proposals, sizes, original_sizes, test)
        if self.config.mask is None:
            return without_masks(boxes, original_sizes)
        return detect_masks(
            self.mask_probabilities, pyramid, boxes, sizes, original_sizes, threshold=test.mask_threshold
        )

    @torch.no_grad()
    def mask_probabilities(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Int64[Tensor, " R"],
    ) -> Float[Tensor, "R S S"]:
        """The mean of the stages' mask probabilities of the boxes of every image, each for its own label.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            boxes: boxes of each image, in its pixels.
            labels: class of each box, images one after the other.

        Returns:
            Probabilities in 0 .. 1.
        """
        stages = [self.mask_head(stage).probabilities(pyramid, boxes, labels) for stage in range(len(self.mask_heads))]
        return torch.stack(stages).mean(0)
