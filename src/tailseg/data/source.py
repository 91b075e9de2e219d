"""Your own data set in Python.

``data.source`` is a config whose ``build()`` returns the training and the validation set, or the training set and None:
then a tenth of the training images is held out. Each of the two is a map-style data set, as in torchvision's references
for detection:

    len(dataset)         number of images
    dataset.class_names  the names of the classes; a first name "__background__" is no class, as in torchvision's lists
    dataset[i]           an image and its target, the same ones each time

An image is a PIL image, a uint8 array [h, w, 3], or a tensor [3, h, w] of uint8 or of floats in 0 .. 1. A target is a
dictionary:

    boxes    [N, 4]: x1, y1, x2, y2 in pixels (``tv_tensors.BoundingBoxes`` may have another format)
    labels   [N]: positions in class_names
    masks    [N, h, w], one mask an object; a network without masks does not need them
    iscrowd  [N], optional: 1 for a crowd region

An image without objects has boxes of shape [0, 4]. Other entries are left alone.

A training goes through the data sets once at its start. It writes the targets into annotation files in the run's
folder, with which all else works as for a file. The images always come from the data sets.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import ImageInfo
from tailseg.data.workers import Workers
from tailseg.files import write_atomically
from tailseg.ops.masks import encode_mask

BACKGROUND: Final = "__background__"
"""Torchvision's first name in its lists of classes."""
TOLERANCE: Final = 1.0
"""Pixels by which a box may reach beyond its image."""

Item = tuple[dict[str, Any], list[dict[str, Any]]]
"""The record of an image and those of its objects, as COCO has them."""
Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Shows progress: gets items, a title and their number, returns the items."""


class SourcePart:
    """The training or the validation set of a user's data.

    Args:
        dataset: see `tailseg.data.source`.
        name: ``train`` or ``val``.

    Raises:
        ValueError: it is no map-style data set, is empty, or has no class names.
    """

    def __init__(self, dataset: object, name: str) -> None:
        self.dataset, self.name = cast("Any", dataset), name
        missing = [name for name in ("__len__", "__getitem__") if not hasattr(dataset, name)]
        if missing:
            raise ValueError(
                f"data.source: the {name} set is a {type(dataset).__name__} without {' and '.join(missing)}; expected "
                "a map-style data set: len(dataset), dataset[i] -> (image, target)"
            )
        if len(self.dataset) == 0:
            raise ValueError(f"data.source: the {name} set ({type(dataset).__name__}) has no images")
        names = _find_class_names(dataset)
        if names is None:
            raise ValueError(
                f"data.source: the {name} set ({type(dataset).__name__}) has no class_names: give it an attribute with "
                "the names of its classes, in the order of the labels"
            )
        self.first_label = int(names[:1] == (BACKGROUND,))
        self.class_names = names[self.first_label :]
        if not self.class_names or len(set(names)) != len(names):
            raise ValueError(
                f"data.source: class_names of the {name} set must be one or more different names, got {names!r:.200}"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, info: ImageInfo) -> UInt8[Tensor, "3 h w"]:
        """The image that an annotation file of `write_annotations` calls ``info``.

        Raises:
            ImageError: the data set cannot give it, or gives an image of another size than before.
        """
        index = info.image_id - 1
        try:
            image = to_pixels(self.dataset[index][0])
        except (OSError, ValueError) as error:
            raise ImageError(f"{self._describe(index)}: {error}") from error
        if image.shape[-2:] != (info.height, info.width):
            raise ImageError(
                f"{self._describe(index)}: the image is {image.shape[-1]} x {image.shape[-2]} pixels (width x height), "
                f"and was {info.width} x {info.height} when the run began: dataset[i] must return the same image each "
                "time. Augmentation belongs into data.augmentation"
            )
        return image

    def annotate(self, index: int) -> Item | ValueError:
        """The records of one item, or what is wrong with it; image ids count from 1, and so do category ids."""
        try:
            item = self.dataset[index]
            if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping)):
                raise ValueError(f"expected a tuple (image, target) with a dict as its target, got {_kind(item)}")
            height, width = to_pixels(item[0]).shape[-2:]
            objects = self._objects(item[1], height, width)
        except Exception as error:  # noqa: BLE001 - the user's code can raise any
            what = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            return ValueError(f"{self._describe(index)}: {what}")
        image = {"id": index + 1, "file_name": f"{self.name}/{index}", "height": height, "width": width}
        return image, [{"image_id": index + 1, **record} for record in objects]

    def _describe(self, index: int) -> str:
        return f"data.source, {self.name} set ({type(self.dataset).__name__}), item {index}"

    def _objects(self, target: Mapping[str, Any], height: int, width: int) -> list[dict[str, Any]]:
        if missing := [key for key in ("boxes", "labels") if key not in target]:
            raise ValueError(
                f"the target has no {' and no '.join(missing)}, only {', '.join(map(str, target)) or '{}'}"
            )
        boxes = _to_boxes(target["boxes"])
        labels = _to_labels(target["labels"], len(boxes)) - self.first_label
        masks = None if target.get("masks") is None else _to_masks(target["masks"], len(boxes), height, width)
        crowds = torch.as_tensor(target.get("iscrowd", torch.zeros(len(boxes)))).tolist()
        if len(crowds) != len(boxes):
            raise ValueError(f"iscrowd has {len(crowds)} entries, and there are {len(boxes)} boxes")
        if not len(boxes):
            return []
        if labels.min() < 0 or labels.max() >= len(self.class_names):
            first, last = self.first_label, len(self.class_names) + self.first_label - 1
            raise ValueError(
                f"labels must lie in {first} .. {last}, the positions in class_names, got "
                f"{int(labels.min()) + first} .. {int(labels.max()) + first}. "
                f"If your labels count from 1, let class_names begin with {BACKGROUND!r}"
            )
        _check_boxes(boxes, height, width, masks)
        areas = masks.flatten(1).sum(1).tolist() if masks is not None else None
        sizes = boxes[:, 2:] - boxes[:, :2]
        objects = []
        for i, (x, y, w, h) in enumerate(torch.cat([boxes[:, :2], sizes], dim=1).tolist()):
            record: dict[str, Any] = {
                "category_id": int(labels[i]) + 1,
                "bbox": [x, y, w, h],
                "area": areas[i] if areas else w * h,
                "iscrowd": int(bool(crowds[i])),
            }
            if masks is not None:
                rle = encode_mask(masks[i].numpy())
                counts = rle["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                record["segmentation"] = {"size": list(rle["size"]), "counts": text}
            objects.append(record)
        return objects


Source = tuple[SourcePart, SourcePart | None]
"""The training and the validation set."""


def open_source(config: object) -> Source:
    """The data sets of a config; equal configs of one process share them.

    Raises:
        ValueError: ``build()`` returns something else than two data sets, or they have different classes.
    """
    try:
        return _open_once(config)
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _open(config)


def _open(config: object) -> Source:
    built = cast("Any", config).build()
    if not (isinstance(built, tuple | list) and len(built) == 2):
        raise ValueError(
            f"data.source: {type(config).__name__}.build() returned {_kind(built)}, expected two data sets: "
            "(train, val), or (train, None) to hold out a tenth"
        )
    train = SourcePart(built[0], "train")
    val = None if built[1] is None else SourcePart(built[1], "val")
    if val and (val.class_names, val.first_label) != (train.class_names, train.first_label):
        raise ValueError(
            "data.source: class_names of the training and of the validation set differ: "
            f"{train.class_names!r:.100} and {val.class_names!r:.100}"
        )
    return train, val


_open_once = lru_cache(maxsize=2)(_open)


def source_files(folder: Path) -> tuple[Path, Path]:
    """The annotation files of the training and the validation set in a run's folder."""
    return folder / "data" / "source" / "train.json", folder / "data" / "source" / "val.json"


def is_source_file(path: Path) -> bool:
    """Whether `write_source` writes a file of this name."""
    return path.parts[-3:-1] == ("data", "source")


def write_source(source: Source, folder: Path, *, workers: int, track: Track, again: bool = True) -> None:
    """Writes the annotation files of a user's data into the folder of a run.

    Args:
        source: of `open_source`.
        folder: of the run.
        workers: processes that read the data sets; 0 reads in this one.
        track: shows the progress.
        again: write files that are there already; else they are taken if they have as many images and the same classes.

    Raises:
        ValueError: an item cannot be used; names it.
    """
    for part, path in zip(source, source_files(folder), strict=True):
        if part is None or (not again and _fits(part, path)):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        write_annotations(part, path, workers=workers, track=track)


def write_annotations(part: SourcePart, path: Path, *, workers: int, track: Track) -> None:
    """Writes the targets of a data set as an annotation file in COCO's format, whole or not at all.

    Args:
        part: the data set.
        path: the file; beside it ``NAME.summary.json`` keeps what it was made of.
        workers: processes that read the data set; 0 reads in this one.
        track: shows the progress.

    Raises:
        ValueError: an item cannot be used; names it.
    """
    images: list[str] = []
    count = 0
    title = f"reading the {'training' if part.name == 'train' else 'validation'} set"
    with write_atomically(path) as file, file.open("w", encoding="utf-8") as stream:
        stream.write('{"annotations": [')
        for item in track(_annotate(part, workers), title, len(part)):
            if isinstance(item, ValueError):
                raise item
            image, objects = item
            images.append(json.dumps(image))
            for record in objects:
                stream.write(",\n" * (count > 0) + json.dumps({"id": count + 1, **record}))
                count += 1
        categories = [{"id": number, "name": name} for number, name in enumerate(part.class_names, start=1)]
        stream.write('],\n"images": [' + ",\n".join(images) + '],\n"categories": ' + json.dumps(categories) + "}\n")
    with write_atomically(_summary_file(path)) as file:
        file.write_text(json.dumps(_summarize(part)))


def _annotate(part: SourcePart, workers: int) -> Iterator[Item | ValueError]:
    """The items in order."""
    if not workers:
        yield from map(part.annotate, range(len(part)))
        return
    pool = Workers(part.annotate, workers)
    try:
        yield from pool.map(range(len(part)), say=lambda _line: None, check=lambda: None)
    finally:
        pool.stop()


def _summarize(part: SourcePart) -> dict[str, Any]:
    return {"images": len(part), "classes": list(part.class_names)}


def _summary_file(path: Path) -> Path:
    return path.with_suffix(".summary.json")


def _fits(part: SourcePart, path: Path) -> bool:
    """Whether the file is there, and was made of as many images and the same classes."""
    try:
        return path.is_file() and json.loads(_summary_file(path).read_text()) == _summarize(part)
    except (OSError, ValueError):
        return False


def _find_class_names(dataset: object) -> tuple[str, ...] | None:
    """The names of the data set, or of the one that it is a part of (``torch.utils.data.Subset``)."""
    while not hasattr(dataset, "class_names"):
        if not hasattr(dataset, "dataset"):
            return None
        dataset = cast("Any", dataset).dataset
    names = cast("Any", dataset).class_names
    return tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else ()


def to_pixels(image: object) -> UInt8[Tensor, "3 h w"]:
    """An image of a user's data set as RGB.

    Args:
        image: a PIL image, an array ``[h, w]`` or ``[h, w, 3]`` of uint8, or a tensor ``[h, w]``, ``[1, h, w]`` or
            ``[3, h, w]`` of uint8 or of floats in 0 .. 1. A fourth channel is transparency, and is dropped.

    Returns:
        The pixels.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image))
        image = image.permute(2, 0, 1) if image.ndim == 3 else image
    if not isinstance(image, Tensor):
        raise ValueError(f"the image is {_kind(image)}, expected a PIL image, a tensor [3, h, w] or an array [h, w, 3]")
    pixels = image.as_subclass(Tensor)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"the image has the shape {[*image.shape]}, expected [3, h, w] for a tensor and [h, w, 3] for an array"
        )
    if pixels.is_floating_point():
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"the image has floats in {pixels.min():.3g} .. {pixels.max():.3g}, expected 0 .. 1, or uint8. tailseg "
                "subtracts the mean itself: return images that are not normalized"
            )
        pixels = (pixels * 255 + 0.5).to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"the image is of {str(pixels.dtype).removeprefix('torch.')}, expected uint8 or floats in 0 .. 1"
        )
    return pixels[:3].expand(3, -1, -1).contiguous()


def _to_boxes(boxes: object) -> Tensor:
    if isinstance(boxes, tv_tensors.BoundingBoxes):
        boxes = functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    tensor = torch.as_tensor(boxes).as_subclass(Tensor).to(torch.float64)
    if tensor.numel() == 0:
        return tensor.reshape(0, 4)
    if tensor.ndim != 2 or tensor.shape[1] != 4:
        raise ValueError(f"boxes have the shape {[*tensor.shape]}, expected [N, 4]")
    if not tensor.isfinite().all():
        raise ValueError("boxes hold NaN or infinity")
    return tensor


def _to_labels(labels: object, count: int) -> Tensor:
    tensor = torch.as_tensor(labels)
    if tensor.numel() and (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise ValueError(f"labels are of {str(tensor.dtype).removeprefix('torch.')}, expected whole numbers")
    if tensor.numel() != count or tensor.ndim != 1:
        raise ValueError(f"labels have the shape {[*tensor.shape]}, expected [{count}], one label a box")
    return tensor.long()


def _to_masks(masks: object, count: int, height: int, width: int) -> Tensor:
    tensor = torch.as_tensor(masks).as_subclass(Tensor)
    if tensor.numel() == 0 and count == 0:
        return torch.zeros(0, height, width, dtype=torch.bool)
    if tensor.shape != (count, height, width):
        hint = ""
        if tensor.shape == (height, width):
            hint = ". A map of object numbers is made into masks by: map == numbers[:, None, None]"
        raise ValueError(
            f"masks have the shape {[*tensor.shape]}, expected [{count}, {height}, {width}]: one mask a box, "
            f"each of the size of the image{hint}"
        )
    if tensor.is_floating_point():
        raise ValueError("masks are floats, expected bool or uint8: compare them with a threshold")
    return tensor != 0


def _check_boxes(boxes: Tensor, height: int, width: int, masks: Tensor | None) -> None:
    """Raises ValueError for boxes that are not x1, y1, x2, y2 in pixels of the image."""
    corners = "expected x1, y1, x2, y2 in pixels"
    negative = (boxes[:, 2:] < boxes[:, :2]).any(1)
    beyond = ((boxes < -TOLERANCE) | (boxes > boxes.new_tensor([width, height] * 2) + TOLERANCE)).any(1)
    remedy = "torchvision.ops.box_convert(boxes, 'xywh', 'xyxy') converts boxes of x, y, width, height"
    if negative.any():
        raise ValueError(f"box {_first(boxes, negative)} has x2 < x1 or y2 < y1; {corners}. {remedy}")
    if beyond.any():
        raise ValueError(
            f"box {_first(boxes, beyond)} reaches beyond the image of {width} x {height} pixels (width x height); "
            f"{corners}"
        )
    if boxes.max() <= 1 and min(height, width) > 2:
        raise ValueError(f"all coordinates of the boxes lie in 0 .. 1; {corners}: multiply them by width and height")
    if masks is None or not masks.flatten(1).any(1).all():
        return
    drawn = masks_to_boxes(masks).double() + boxes.new_tensor([0, 0, 1, 1])
    as_written = (boxes - drawn).abs().amax(1)
    as_sizes = (torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) - drawn).abs().amax(1)
    if (as_sizes <= 2).all() and (as_written > 2).all():
        raise ValueError(f"the boxes fit their masks as x, y, width, height; {corners}. {remedy}")


def _first(boxes: Tensor, which: Tensor) -> str:
    index = int(which.nonzero()[0, 0])
    return f"{index} ({', '.join(f'{value:g}' for value in boxes[index].tolist())})"


def _kind(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
