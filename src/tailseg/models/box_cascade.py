"""Box heads in sequence, shared by Cascade Mask R-CNN and Hybrid Task Cascade.

Shapes: R RoIs of all images together, K hidden units, L logits.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tailseg.losses.base import ClassificationLoss
from tailseg.models.box_head import BoxHead, ImageBoxes, best_detections
from tailseg.models.config import BoxHeadConfig, CascadeStageConfig, PostprocessConfig
from tailseg.models.sampling import RoISample, sample_rois
from tailseg.structures import Target


class BoxCascade(nn.Module):
    """Box heads in sequence: each classifies and refines the boxes of the head before it; the first, the proposals.

    Every head has its own copy of ``loss``, because a loss may count labels and the stages see different boxes.

    Args:
        in_channels: of the pyramid.
        config: the first head's settings.
        later_stages: settings in which each later head differs.
        loss: is copied for each head; not changed.

    Attributes:
        loss_weights: of each stage.

    Raises:
        ValueError: the box regression is not class-agnostic.

    Source: Cai and Vasconcelos 2018, "Cascade R-CNN".
    """

    def __init__(
        self,
        in_channels: int,
        config: BoxHeadConfig,
        later_stages: Sequence[CascadeStageConfig],
        loss: ClassificationLoss,
    ) -> None:
        super().__init__()
        if not config.class_agnostic:
            raise ValueError(
                "a cascade hands on one box a RoI and needs box.class_agnostic=True, got False: see "
                "tailseg.models.config.cascade_mask_rcnn for the published settings"
            )
        later = [
            replace(config, positive_iou=stage.positive_iou, target_stds=stage.target_stds) for stage in later_stages
        ]
        self.heads = nn.ModuleList(BoxHead(in_channels, settings, deepcopy(loss)) for settings in [config, *later])
        self.loss_weights = (1.0, *(stage.loss_weight for stage in later_stages))

    def get_head(self, stage: int) -> BoxHead:
        """The head of a stage, counted from 0; -1 is the last."""
        head = self.heads[stage]
        assert isinstance(head, BoxHead)
        return head

    def sample(
        self, stage: int, proposals: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target]
    ) -> list[RoISample]:
        """Samples RoIs that are matched at the stage's IoU; the objects' own boxes are among them.

        Args:
            stage: counted from 0.
            proposals: boxes of each image, in its pixels.
            targets: ground truth of each image.

        Returns:
            The RoIs of each image, positives first.
        """
        head = self.get_head(stage)
        return sample_rois(proposals, targets, head.loss.num_classes, head.config)

    def train_stage(
        self,
        stage: int,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        samples: Sequence[RoISample],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, Float[Tensor, ""]], list[Float[Tensor, "_ 4"]]]:
        """Computes the losses of a box head, not yet weighted, and refines the boxes of its samples.

        The objects' own boxes are left out, because the sampler of the next stage adds them again. The boxes have no
        gradient.

        Args:
            stage: counted from 0.
            pyramid: feature maps P2, P3 ... of all images.
            samples: of `sample` for this stage.
            sizes: ``(height, width)`` of each image without padding.

        Returns:
            Losses by name; and the refined boxes of each image.
        """
        head = self.get_head(stage)
        boxes = [sample.boxes for sample in samples]
        hidden = head(pyramid, boxes)
        refined = head.decode(hidden, boxes, sizes)
        return head.hidden_losses(hidden, samples), [
            torch.cat([part[: sample.num_positive][~sample.added], part[sample.num_positive :]])
            for part, sample in zip(refined, samples, strict=True)
        ]

    @torch.no_grad()
    def detect(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
        config: PostprocessConfig,
    ) -> list[ImageBoxes]:
        """Detections of each image: the last stage's boxes, scored by the mean of the stages' logits.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            proposals: boxes of each image, in its pixels.
            sizes: ``(height, width)`` of each image without padding.
            original_sizes: ``(height, width)`` of each original file.
            config: score threshold, IoU threshold of NMS, and number of detections.

        Returns:
            Boxes, scores and labels of each image, best first.
        """
        boxes, logits = proposals, []
        for stage in range(len(self.heads)):
            head = self.get_head(stage)
            hidden = head(pyramid, boxes)
            logits.append(head.classifier(hidden).float())
            boxes = head.decode(hidden, boxes, sizes)
        # the copies of the loss differ only in their counts: all compute the same scores from logits
        scores = self.get_head(-1).loss.scores(torch.stack(logits).mean(0))
        return best_detections(boxes, scores.split([len(part) for part in boxes]), sizes, original_sizes, config)


def stage_losses(losses: dict[str, Float[Tensor, ""]], stage: int, weight: float) -> dict[str, Float[Tensor, ""]]:
    """Multiplies the losses of a stage by its weight and renames them: ``loss_cls`` of stage 0 becomes ``loss_cls_0``.

    Args:
        losses: of one stage, by name.
        stage: counted from 0.
        weight: the stage's weight.

    Returns:
        Weighted losses by their new names.
    """
    return {f"{name}_{stage}": weight * value for name, value in losses.items()}
