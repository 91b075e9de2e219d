"""The data that flows through tailseg.

Shape legend used throughout the package:

    N  objects (ground truth) in one image      C  foreground classes
    R  regions of interest                      L  logits per region: C, C + 1 or C + 2
    D  detections in one image                  A  anchors

Coordinates are absolute pixels, continuous: a box is ``x1, y1, x2, y2`` with ``x2 - x1`` its width, and pixel (0, 0)
covers the unit square from (0, 0) to (1, 1). Labels are ``0 .. C-1``; ``C`` is background.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from pycocotools import mask as coco
from torch import Tensor

from tailseg.annotations.types import (
    ClassCounts,
    Group,
    ImageInfo,
    Polygons,
    RunLengths,
    Segmentation,
    frequency_group,
)

__all__ = [
    "Batch",
    "ClassFrequency",
    "Detections",
    "Frame",
    "Group",
    "ImageInfo",
    "Polygons",
    "RunLengths",
    "Segmentation",
    "Target",
    "frequency_group",
    "sent",
]


@dataclass(frozen=True)
class Frame:
    """How pixels of the annotated file map to the image at hand: ``x' = scale_x * x + shift_x``, the same for y.

    A horizontal flip has a negative ``scale_x``. Boxes are moved by the transforms; masks stay as annotated, and the
    frame says where they are, so that no mask is rasterized before the mask head asks for its 28 x 28 target.
    """

    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on ``device``; to a GPU through pinned memory, which the processor does not wait for."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Target:
    """Ground truth of one image.

    Attributes:
        boxes: absolute xyxy in the image at hand.
        labels: ``0 .. C-1``.
        masks: one segmentation an object, in pixels of the annotated file (see ``frame``).
        frame: maps the annotated file's pixels to the image at hand.
        ignore_boxes: crowd and ignore regions: no region inside one of them serves as background.
        seed: of the regions that training draws in this image; None draws from the default generator.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    masks: tuple[Segmentation, ...]
    frame: Frame
    ignore_boxes: Float[Tensor, "K 4"]
    seed: int | None = None

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.labels) == len(self.masks):
            raise ValueError(
                f"a target needs as many boxes as labels and masks, got {len(self.boxes)} boxes, "
                f"{len(self.labels)} labels, {len(self.masks)} masks"
            )

    @classmethod
    def from_torchvision(cls, target: Mapping[str, Tensor], num_classes: int) -> "Target":
        """Torchvision's target of one image: boxes, labels and masks in the pixels of the image that the model sees.

        Args:
            target: ``boxes`` [N, 4] as absolute xyxy; ``labels`` [N]; optionally ``masks`` [N, h, w] of the image's
                size, bool or uint8; optionally ``iscrowd`` [N]: crowd regions are ignored in training. Other entries
                are not read.
            num_classes: C. Labels are 0 .. C-1, without background. Torchvision's own detectors count them from 1:
                subtract 1 from such labels.

        Returns:
            The target. Without ``masks`` no mask is learned from it.

        Raises:
            ValueError: boxes or labels are missing, shapes do not fit, or a label is not in 0 .. C-1.
        """
        if missing := [name for name in ("boxes", "labels") if name not in target]:
            raise ValueError(
                f"a target needs boxes and labels, {' and '.join(missing)} missing: it has {', '.join(target)}"
            )
        boxes, labels = target["boxes"].float().reshape(-1, 4), target["labels"].long()
        if bool((boxes[:, 2:] < boxes[:, :2]).any()):
            raise ValueError("boxes must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2: convert x, y, width, height")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(f"a target of {len(boxes)} boxes needs labels [{len(boxes)}], got {list(labels.shape)}")
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
            raise ValueError(
                f"labels must be 0 .. {num_classes - 1} for {num_classes} classes, without background, got "
                f"{int(labels.min())} .. {int(labels.max())}: subtract 1 if yours count from 1, as torchvision's do"
            )
        masks: list[Segmentation] = [()] * len(boxes)
        if "masks" in target:
            bitmaps = target["masks"].detach().cpu().numpy()
            if bitmaps.ndim != 3 or len(bitmaps) != len(boxes) or bitmaps.dtype.kind not in "bui":
                raise ValueError(
                    f"masks must be bool or uint8 [{len(boxes)}, height, width], got {target['masks'].dtype} "
                    f"{list(bitmaps.shape)}"
                )
            masks = [_encode_bitmap(bitmap) for bitmap in bitmaps]
        crowds = target["iscrowd"].bool() if "iscrowd" in target else torch.zeros_like(labels, dtype=torch.bool)
        objects = (~crowds).nonzero()[:, 0]
        return cls(
            boxes=boxes[objects],
            labels=labels[objects],
            masks=tuple(masks[i] for i in objects.tolist()),
            frame=Frame(),
            ignore_boxes=boxes[crowds],
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> "Target":
        """The same target with its tensors on ``device``; masks stay in main memory until they are rasterized."""
        return replace(
            self,
            boxes=sent(self.boxes, device),
            labels=sent(self.labels, device),
            ignore_boxes=sent(self.ignore_boxes, device),
        )


def _encode_bitmap(bitmap: np.ndarray) -> Segmentation:
    """Run lengths of a bitmap; nothing for one without a pixel."""
    if not bitmap.any():
        return ()
    encoded = coco.encode(np.asfortranarray(bitmap != 0, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


@dataclass(frozen=True)
class Batch:
    """Images (uint8 RGB ``[3, h, w]``, each of its own size), their targets and their origin.

    ``replaced`` says what was wrong with the files that could not be used: in training others were taken in their
    place, in an evaluation none.
    """

    images: tuple[Tensor, ...]
    targets: tuple[Target, ...]
    infos: tuple[ImageInfo, ...]
    replaced: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def split(self, parts: int) -> "list[Batch]":
        """The same images in ``parts`` equal parts, in order; ``parts`` divides their number."""
        assert len(self) % parts == 0
        size = len(self) // parts
        return [
            Batch(self.images[i : i + size], self.targets[i : i + size], self.infos[i : i + size])
            for i in range(0, len(self), size)
        ]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            images=tuple(sent(image, device) for image in self.images),
            targets=tuple(target.to(device) for target in self.targets),
        )


@dataclass(frozen=True)
class Detections:
    """What a model found in one image, best score first, in pixels of the original file.

    Attributes:
        boxes: absolute xyxy.
        scores: in ``[0, 1]``.
        labels: ``0 .. C-1``.
        masks: run lengths of the whole image, one a detection; ``None`` from a detector without masks.
        height, width: of the original file.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int64[Tensor, " D"]
    masks: tuple[RunLengths, ...] | None
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class ClassFrequency:
    """How often each class occurs in the training set: all that a loss may know about the data.

    Attributes:
        image_counts: training images in which the class occurs.
        instance_counts: training objects of the class.
        num_images: training images that carry at least one annotation (99,388 for LVIS v1).
        groups: LVIS frequency group of each class.
    """

    image_counts: Int64[Tensor, " C"]
    instance_counts: Int64[Tensor, " C"]
    num_images: int
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        if not len(self.image_counts) == len(self.instance_counts) == len(self.groups):
            raise ValueError(
                f"class frequency needs one entry a class, got {len(self.image_counts)} image counts, "
                f"{len(self.instance_counts)} instance counts, {len(self.groups)} groups"
            )

    @classmethod
    def from_counts(
        cls,
        image_counts: Tensor,
        instance_counts: Tensor,
        num_images: int,
        groups: tuple[Group, ...] | None = None,
    ) -> "ClassFrequency":
        """Frequencies with LVIS's groups derived from the image counts unless given."""
        if groups is None:
            groups = tuple(frequency_group(int(count)) for count in image_counts)
        return cls(image_counts.long(), instance_counts.long(), num_images, groups)

    @classmethod
    def of(cls, counts: ClassCounts) -> "ClassFrequency":
        """The counts of an annotation file as tensors."""
        images, instances = torch.from_numpy(counts.image_counts), torch.from_numpy(counts.instance_counts)
        return cls(images, instances, counts.num_images, counts.groups)

    def counts(self) -> ClassCounts:
        """The counts as arrays, as an annotation file has them."""
        return ClassCounts(
            self.image_counts.cpu().numpy(), self.instance_counts.cpu().numpy(), self.num_images, self.groups
        )

    @property
    def num_classes(self) -> int:
        return len(self.image_counts)

    @property
    def image_fraction(self) -> Float[Tensor, " C"]:
        """f_j = image_count_j / num_images, the frequency that EQL, DropLoss and repeat factors speak of."""
        return self.image_counts.double() / max(self.num_images, 1)
