"""Samples the proposals that are trained, and their labels.

Shapes: R sampled RoIs of one image, the P positive ones first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.ops import box_iou

from tailseg.models.config import BoxHeadConfig
from tailseg.ops.boxes import intersection_over_area
from tailseg.ops.matching import IGNORED, NEGATIVE, match, sample
from tailseg.structures import Target

CROWD_OVERLAP = 0.5
"""A box with this share of its area inside a crowd or ignore region is no background."""


@dataclass(frozen=True)
class RoISample:
    """RoIs of one image chosen for training, positives first.

    Attributes:
        boxes: absolute xyxy.
        labels: class of each, ``C`` is background.
        objects: index into the target of each positive.
        object_boxes: the target's box of each positive.
        added: which positives are objects' own boxes, put among the proposals.
        unverified: classes that are no negatives in the image, see `tailseg.structures.Target`.
    """

    boxes: Float[Tensor, "R 4"]
    labels: Int64[Tensor, " R"]
    objects: Int64[Tensor, " P"]
    object_boxes: Float[Tensor, "P 4"]
    added: Bool[Tensor, " P"]
    unverified: Bool[Tensor, " C"] | None = None

    @property
    def num_positive(self) -> int:
        return len(self.objects)

    @property
    def positive_boxes(self) -> Float[Tensor, "P 4"]:
        return self.boxes[: len(self.objects)]

    @property
    def positive_labels(self) -> Int64[Tensor, " P"]:
        return self.labels[: len(self.objects)]


def ignore_crowds(
    matches: Int64[Tensor, " R"], boxes: Float[Tensor, "R 4"], ignore_boxes: Float[Tensor, "K 4"]
) -> Int64[Tensor, " R"]:
    """``matches`` with negatives that lie in a crowd or ignore region (half their area or more) changed to IGNORED.

    Args:
        matches: of `tailseg.ops.matching.match`.
        boxes: that were matched.
        ignore_boxes: crowd and ignore regions.

    Returns:
        The changed matches.
    """
    if len(ignore_boxes) == 0:
        return matches
    inside = intersection_over_area(boxes, ignore_boxes).amax(1) >= CROWD_OVERLAP
    return matches.masked_fill(inside & (matches == NEGATIVE), IGNORED)


def generator_for(target: Target) -> torch.Generator | None:
    """The random generator of an image: its samples do not depend on the other images of the batch.

    None, the device's default generator, for a target without a seed.
    """
    return None if target.seed is None else torch.Generator(target.boxes.device).manual_seed(target.seed)


@torch.no_grad()
def sample_rois(
    proposals: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target], num_classes: int, config: BoxHeadConfig
) -> list[RoISample]:
    """Draws training RoIs for each image from its objects and its proposals.

    As published, proposals are matched first (IoU 0.5, low-quality matches) and the objects' own boxes are put in
    front afterwards, so that an object's box does not take the low-quality match from its proposals.

    Args:
        proposals: boxes of each image, in its pixels.
        targets: ground truth of each image.
        num_classes: C, the label of background.
        config: IoU thresholds and number of RoIs.

    Returns:
        The RoIs of each image, positives first.
    """
    samples = []
    for boxes, target in zip(proposals, targets, strict=True):
        matches = match(
            box_iou(target.boxes, boxes),
            positive=config.positive_iou,
            negative=config.positive_iou,
            minimum_positive=config.positive_iou,
            allow_low_quality_matches=config.allow_low_quality_matches,
        )
        matches = ignore_crowds(matches, boxes, target.ignore_boxes)
        matches = torch.cat([torch.arange(len(target), device=matches.device), matches])
        positive, negative = sample(
            matches,
            num=config.rois_per_image,
            positive_fraction=config.positive_fraction,
            generator=generator_for(target),
        )
        objects = matches[positive]
        background = target.labels.new_full((len(negative),), num_classes)
        samples.append(
            RoISample(
                boxes=torch.cat([target.boxes, boxes])[torch.cat([positive, negative])],
                labels=torch.cat([target.labels[objects], background]),
                objects=objects,
                object_boxes=target.boxes[objects],
                added=positive < len(target),
                unverified=target.unverified,
            )
        )
    return samples
