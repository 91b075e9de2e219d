"""The data that flows through tailseg.

Shape legend used throughout the package:

    N  objects (ground truth) in one image      C  foreground classes
    R  regions of interest                      L  logits per region: C, C + 1 or C + 2
    D  detections in one image                  A  anchors

Coordinates are absolute pixels, continuous: a box is ``x1, y1, x2, y2`` with ``x2 - x1`` its width, and pixel (0, 0)
covers the unit square from (0, 0) to (1, 1). Labels are ``0 .. C-1``; ``C`` is background.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor

from tailseg.annotations.run_lengths import check_run_lengths
from tailseg.annotations.types import (
    ClassCounts,
    Group,
    ImageInfo,
    Polygons,
    RunLengths,
    Segmentation,
    frequency_group,
)
from tailseg.lazy import needs_extra
from tailseg.words import count_noun

if TYPE_CHECKING:
    import supervision as sv

__all__ = [
    "Batch",
    "ClassFrequency",
    "Detections",
    "Frame",
    "Group",
    "ImageInfo",
    "ImageMaps",
    "Polygons",
    "RunLengths",
    "Segmentation",
    "Target",
    "frequency_group",
    "to_device",
]


MAX_NAMED_CLASSES = 5
"""The largest number of classes that the short text of detections names."""


@dataclass(frozen=True)
class Frame:
    """Maps pixels of the annotated file to the transformed image: ``x' = scale_x * x + shift_x``, the same for y.

    A horizontal flip has a negative ``scale_x``. The transforms move boxes. Masks stay as annotated, and the frame
    says where they are: a mask is rasterized only when the mask head needs its 28 x 28 target.
    """

    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Moves a tensor to ``device``. To a GPU it goes through pinned memory, and the CPU does not wait."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Target:
    """Ground truth of one image.

    Attributes:
        boxes: absolute xyxy in the transformed image.
        labels: ``0 .. C-1``.
        masks: one segmentation for each object, in pixels of the annotated file (see ``frame``).
        frame: maps the annotated file's pixels to the transformed image.
        ignore_boxes: crowd and ignore regions. A region inside one of them is not used as background.
        seed: seeds the sampling of regions in this image; None uses the default generator.
        frames: maps the pixels of each mask to the transformed image, if they differ, as after copy-paste: a mask that
            was pasted or covered is in pixels of a part of the transformed image. None takes ``frame`` for all.
        unverified: classes that are no negatives in this image, because nobody looked for them (LVIS); a region with
            such a label is an object of the class all the same. None: every class was looked for.
    """

    boxes: Float[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    masks: tuple[Segmentation, ...]
    frame: Frame
    ignore_boxes: Float[Tensor, "K 4"]
    seed: int | None = None
    frames: tuple[Frame, ...] | None = None
    unverified: Bool[Tensor, " C"] | None = None

    def __post_init__(self) -> None:
        if self.frames is not None and len(self.frames) != len(self.masks):
            raise ValueError(
                f"a target needs as many frames as masks, got {len(self.frames)} frames and {len(self.masks)} masks"
            )
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

    def get_frame(self, index: int) -> Frame:
        """Returns the frame of the mask of object ``index``."""
        return self.frame if self.frames is None else self.frames[index]

    def to(self, device: torch.device | str) -> "Target":
        """Returns the target with its tensors on ``device``. Masks stay in main memory until they are rasterized."""
        return replace(
            self,
            boxes=to_device(self.boxes, device),
            labels=to_device(self.labels, device),
            ignore_boxes=to_device(self.ignore_boxes, device),
            unverified=None if self.unverified is None else to_device(self.unverified, device),
        )


def _encode_bitmap(bitmap: np.ndarray) -> Segmentation:
    """Run lengths of a bitmap; nothing for one without a pixel."""
    if not bitmap.any():
        return ()
    from pycocotools import mask as coco  # imported here: the losses use this module and no masks

    encoded = coco.encode(np.asfortranarray(bitmap != 0, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


@dataclass(frozen=True)
class ImageMaps:
    """The maps C2, C3, C4, C5 that a frozen backbone computed from one image, in place of the image.

    Attributes:
        values: float16, the maps one after the other. Each is ``[H / s, W / s, C]`` with the stride s = 4, 8, 16, 32,
            where H and W are the smallest multiples of 32 that hold the image.
        size: ``(height, width)`` of the image without padding.
        channels: of each map.
    """

    values: Float16[Tensor, " n"]
    size: tuple[int, int]
    channels: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        return self.values.device

    @staticmethod
    def compute_shapes(size: tuple[int, int], channels: Sequence[int]) -> list[tuple[int, int, int]]:
        """Returns rows, columns and channels of each map.

        Args:
            size: ``(height, width)`` of the image.
            channels: of each map.
        """
        rows, columns = -(-size[0] // 32), -(-size[1] // 32)
        return [(rows * scale, columns * scale, count) for scale, count in zip((8, 4, 2, 1), channels, strict=True)]

    @classmethod
    def count_values(cls, size: tuple[int, int], channels: Sequence[int]) -> int:
        """Returns how many numbers the maps of an image have.

        Args:
            size: ``(height, width)`` of the image.
            channels: of each map.
        """
        return sum(rows * columns * count for rows, columns, count in cls.compute_shapes(size, channels))

    @classmethod
    def from_maps(cls, maps: Sequence[Float[Tensor, "_ _ _"]], size: tuple[int, int]) -> "ImageMaps":
        """Converts the four maps of one padded image of this ``(height, width)``."""
        values = torch.cat([level.permute(1, 2, 0).flatten() for level in maps]).half()
        return cls(values, size, tuple(len(level) for level in maps))

    def split(self) -> list[Float16[Tensor, "_ _ _"]]:
        """Returns the four maps, each ``[rows, columns, channels]``."""
        shapes = self.compute_shapes(self.size, self.channels)
        parts = self.values.split([rows * columns * count for rows, columns, count in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def to(self, device: torch.device | str) -> "ImageMaps":
        """Returns the maps on ``device``."""
        return replace(self, values=to_device(self.values, device))


@dataclass(frozen=True)
class Batch:
    """Images (uint8 RGB ``[3, h, w]``, each of its own size, or their kept maps), their targets and their origin.

    ``replaced`` has the reason for each file that could not be used. Training uses other images instead of them; an
    evaluation leaves them out.
    """

    images: tuple[Tensor, ...] | tuple[ImageMaps, ...]
    targets: tuple[Target, ...]
    infos: tuple[ImageInfo, ...]
    replaced: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def split(self, parts: int) -> "list[Batch]":
        """Splits the batch into ``parts`` equal batches, in order. ``parts`` must divide the number of images."""
        assert len(self) % parts == 0
        size = len(self) // parts
        return [
            Batch(self.images[i : i + size], self.targets[i : i + size], self.infos[i : i + size])
            for i in range(0, len(self), size)
        ]

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with its tensors on ``device``."""
        return replace(
            self,
            images=tuple(
                image.to(device) if isinstance(image, ImageMaps) else to_device(image, device) for image in self.images
            ),
            targets=tuple(target.to(device) for target in self.targets),
        )


@dataclass(frozen=True, repr=False)
class Detections:
    """The objects that a model detected in one image, best score first, in pixels of the original image.

    Attributes:
        boxes: absolute xyxy.
        scores: in ``[0, 1]``.
        labels: ``0 .. C-1``.
        masks: run lengths of the whole image, one for each detection; ``None`` from a detector without masks.
        height, width: size of the original image.
        class_names: the name of each label, if it is known; a `Predictor` sets it.
    """

    boxes: Float[Tensor, "D 4"]
    scores: Float[Tensor, " D"]
    labels: Int64[Tensor, " D"]
    masks: tuple[RunLengths, ...] | None
    height: int
    width: int
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        classes = Counter(self.labels.tolist()).most_common()
        counts = [f"{count} {self.get_class_name(label)}" for label, count in classes[:MAX_NAMED_CLASSES]]
        more = ", ..." if len(classes) > MAX_NAMED_CLASSES else ""
        scores = f", scores {float(self.scores.max()):.2f} to {float(self.scores.min()):.2f}" if len(self) else ""
        size = f"{self.width} x {self.height} pixels"
        listed = f": {', '.join(counts)}{more}" if counts else ""
        return f"Detections({count_noun(len(self), 'object')} in {size}{scores}{listed})"

    def get_class_name(self, label: int) -> str:
        """Returns the name of a label, or ``class 7`` if the names are not known."""
        return f"class {label}" if self.class_names is None else self.class_names[label]

    def select(self, rows: Bool[Tensor, " D"] | Int64[Tensor, " S"]) -> "Detections":
        """Returns some of the detections.

        Args:
            rows: a flag for each detection, or the indices of the detections to keep, in the new order.

        Returns:
            The selected detections.
        """
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        return replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=None if self.masks is None else tuple(self.masks[i] for i in index.tolist()),
        )

    def above(self, threshold: float | Sequence[float]) -> "Detections":
        """Returns the detections whose score is at least ``threshold``: one number, or one for each label."""
        if isinstance(threshold, int | float):
            return self.select(self.scores >= threshold)
        return self.select(self.scores >= self.scores.new_tensor(threshold)[self.labels])

    def decode_masks(self) -> Bool[np.ndarray, "D h w"]:
        """Decodes the masks to bitmaps of the image's size: D x height x width bytes.

        Raises:
            ValueError: the detector has no masks, or run lengths do not fit their size.
        """
        if self.masks is None:
            raise ValueError("these detections have no masks: the detector finds boxes only")
        from pycocotools import mask as coco

        bitmaps = np.empty((len(self), self.height, self.width), dtype=bool)
        for bitmap, mask in zip(bitmaps, self.masks, strict=True):
            bitmap[:] = coco.decode(check_run_lengths(mask))
        return bitmaps

    def to_torchvision(self, *, first_label: int = 1) -> dict[str, Tensor]:
        """Converts to the dictionary that torchvision's detectors return, in main memory.

        Args:
            first_label: the label of class 0. torchvision's detectors use 0 for background, and so their classes
                start at 1; 0 keeps tailseg's labels.

        Returns:
            ``boxes`` float32 ``[D, 4]`` xyxy, ``labels`` int64 ``[D]``, ``scores`` float32 ``[D]``; and ``masks`` uint8
            ``[D, 1, height, width]`` of zeros and ones, unless the detector has no masks. (torchvision's masks are
            probabilities; ``masks > 0.5`` gives the same for both.)
        """
        output = {
            "boxes": self.boxes.detach().cpu().float(),
            "labels": self.labels.cpu() + first_label,
            "scores": self.scores.detach().cpu().float(),
        }
        if self.masks is not None:
            output["masks"] = torch.from_numpy(self.decode_masks().view(np.uint8)).unsqueeze(1)
        return output

    def to_supervision(self) -> "sv.Detections":
        """Converts to ``supervision.Detections``, with the class names under ``data["class_name"]`` if they are known.

        ``class_id`` is the label, ``0 .. C-1``.
        """
        with needs_extra("train"):
            import supervision as sv

        labels = self.labels.cpu().numpy()
        names = {} if self.class_names is None else {"class_name": np.array(self.class_names, dtype=str)[labels]}
        return sv.Detections(
            xyxy=self.boxes.detach().cpu().float().numpy(),
            mask=None if self.masks is None else self.decode_masks(),
            confidence=self.scores.detach().cpu().float().numpy(),
            class_id=labels,
            data=names,
        )

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Converts to COCO result records, ready for JSON and for ``pycocotools.coco.COCO.loadRes``.

        Args:
            image_id: the image's id in its annotation file.
            category_ids: C ids: label j has the id ``category_ids[j]``.

        Returns:
            ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`` for each detection, and
            ``"segmentation": {"size", "counts"}`` if the detector has masks.

        Raises:
            ValueError: a label has no category id.
        """
        boxes = self.boxes.detach().cpu().double().numpy()
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        labels = self.labels.tolist()
        if labels and not 0 <= min(labels) <= max(labels) < len(category_ids):
            raise ValueError(
                f"labels {min(labels)} to {max(labels)} need as many category ids, got {len(category_ids)}"
            )
        records: list[dict[str, Any]] = [
            {"image_id": int(image_id), "category_id": int(category_ids[label]), "bbox": box, "score": score}
            for label, box, score in zip(labels, boxes, self.scores.tolist(), strict=True)
        ]
        for record, mask in zip(records, self.masks or (), strict=self.masks is not None):
            counts = mask["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            record["segmentation"] = {"size": list(mask["size"]), "counts": text}
        return records


@dataclass(frozen=True)
class ClassFrequency:
    """How often each class occurs in the training set. A loss knows nothing else about the data.

    Attributes:
        image_counts: training images in which the class occurs.
        instance_counts: training objects of the class.
        num_images: training images that have at least one annotation (99,388 for LVIS v1).
        groups: LVIS frequency group of each class.
    """

    image_counts: Int64[Tensor, " C"]
    instance_counts: Int64[Tensor, " C"]
    num_images: int
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        if not len(self.image_counts) == len(self.instance_counts) == len(self.groups):
            raise ValueError(
                f"class frequency needs one entry for each class, got {len(self.image_counts)} image counts, "
                f"{len(self.instance_counts)} instance counts, {len(self.groups)} groups"
            )

    @classmethod
    def from_counts(
        cls,
        image_counts: Tensor | Sequence[int],
        instance_counts: Tensor | Sequence[int],
        num_images: int,
        groups: tuple[Group, ...] | None = None,
    ) -> "ClassFrequency":
        """Makes frequencies from counts.

        Args:
            image_counts: training images in which each class occurs, ``[C]``.
            instance_counts: training objects of each class, ``[C]``.
            num_images: training images that have at least one annotation.
            groups: the frequency group of each class; made from the image counts by LVIS's bounds if None.

        Returns:
            The frequencies, with int64 counts.

        Raises:
            ValueError: the lengths differ, a count is negative, or a class has more images than ``num_images``.
        """
        image_counts, instance_counts = torch.as_tensor(image_counts), torch.as_tensor(instance_counts)
        if image_counts.numel() and not 0 <= int(image_counts.min()) <= int(image_counts.max()) <= num_images:
            raise ValueError(
                f"image_counts are 0 .. num_images = {num_images}, got {int(image_counts.min())} .. "
                f"{int(image_counts.max())}: num_images counts the training images that have any annotation"
            )
        if instance_counts.numel() and int(instance_counts.min()) < 0:
            raise ValueError(f"instance_counts are at least 0, got {int(instance_counts.min())}")
        if groups is None:
            groups = tuple(frequency_group(int(count)) for count in image_counts)
        return cls(image_counts.long(), instance_counts.long(), num_images, groups)

    @classmethod
    def from_class_counts(cls, counts: ClassCounts) -> "ClassFrequency":
        """Converts the counts of an annotation file to tensors."""
        images, instances = torch.from_numpy(counts.image_counts), torch.from_numpy(counts.instance_counts)
        return cls(images, instances, counts.num_images, counts.groups)

    def to_class_counts(self) -> ClassCounts:
        """Converts to arrays, as an annotation file has them."""
        return ClassCounts(
            self.image_counts.cpu().numpy(), self.instance_counts.cpu().numpy(), self.num_images, self.groups
        )

    @property
    def num_classes(self) -> int:
        return len(self.image_counts)

    @property
    def image_fraction(self) -> Float[Tensor, " C"]:
        """The frequency of EQL, DropLoss and repeat factors: f_j = image_count_j / num_images."""
        return self.image_counts.double() / max(self.num_images, 1)
