"""Box heads in a row: what Cascade Mask R-CNN and Hybrid Task Cascade share.

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
    """Box heads in a row: each classifies, and refines, the boxes that the one before made of the proposals.

    Every head trains a copy of ``loss`` of its own: a loss may count what it sees, and stages see different boxes.

    Args:
        in_channels: of the pyramid.
        config: the first head's settings.
        later_stages: what each later head does otherwise.
        loss: trains and reads the classifiers; it stays as it is.

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

    def head(self, stage: int) -> BoxHead:
        """The head of a stage, counted from 0; -1 is the last."""
        head = self.heads[stage]
        assert isinstance(head, BoxHead)
        return head

    def sample(
        self, stage: int, proposals: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target]
    ) -> list[RoISample]:
        """RoIs matched at the stage's IoU, the objects' own boxes among them."""
        head = self.head(stage)
        return sample_rois(proposals, targets, head.loss.num_classes, head.config)

    def train_stage(
        self,
        stage: int,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        samples: Sequence[RoISample],
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, Float[Tensor, ""]], list[Float[Tensor, "_ 4"]]]:
        """A box head's losses, not yet weighted, and the boxes that it makes of its samples.

        Of the objects' own boxes none are made: the next stage's sampler adds the objects again. The boxes carry no
        gradient.
        """
        head = self.head(stage)
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
        """Detections of each image: the last stage's boxes, scored by the mean of the stages' logits."""
        boxes, logits = proposals, []
        for stage in range(len(self.heads)):
            head = self.head(stage)
            hidden = head(pyramid, boxes)
            logits.append(head.classifier(hidden).float())
            boxes = head.decode(hidden, boxes, sizes)
        # the copies of the loss differ in what they counted; how logits become scores is the same for all
        scores = self.head(-1).loss.scores(torch.stack(logits).mean(0))
        return best_detections(boxes, scores.split([len(part) for part in boxes]), sizes, original_sizes, config)


def stage_losses(losses: dict[str, Float[Tensor, ""]], stage: int, weight: float) -> dict[str, Float[Tensor, ""]]:
    """A stage's losses with its weight and under its name: ``loss_cls`` of the first stage becomes ``loss_cls_0``."""
    return {f"{name}_{stage}": weight * value for name, value in losses.items()}
