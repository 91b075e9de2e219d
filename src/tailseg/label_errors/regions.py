"""What a trained network sees in the images: region features of annotated objects and of its own detections.

The network runs once over each image. Nothing is trained. Shapes: R regions, D features of a region.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from pycocotools import mask as coco
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import nms, roi_align
from torchvision.tv_tensors import Image

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.types import RunLengths
from tailseg.data.images import read_annotated
from tailseg.data.transforms import evaluation_transform
from tailseg.inference import Predictor
from tailseg.models.box_head import BoxHead
from tailseg.models.faster_rcnn import FasterRCNN
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.precision import autocast
from tailseg.models.resnet import STRIDES
from tailseg.ops.boxes import scale_boxes
from tailseg.ops.masks import paste_masks, segmentation_to_rle
from tailseg.structures import Detections

MAX_DETECTIONS: Final = 30
"""Detections of an image that are looked at, after the suppression of overlaps over all classes."""
NMS_IOU: Final = 0.5
"""IoU of two detections of which only the better one is looked at."""
MAX_FEATURES: Final = 512
"""Features of a region; longer ones are projected."""
CELLS: Final = {4: 1, 8: 2, 16: 2, 32: 1}
"""Cells in which a map of each stride is pooled, along each side."""
PLACE_CELLS: Final = {8: 4, 16: 4}
"""Cells for the features that tell whether a box is in the right place."""
CONTEXT: Final = 1.5
"""Those are pooled in a box that is larger by this factor: what lies outside of the box decides, too."""
MOVED: Final = 3
"""Boxes in wrong places that are made from each object, as examples."""
MAX_DRAWS: Final = 20
"""Draws of a moved box; the last one is taken."""
MOVED_IOU: Final = (0.4, 0.65)
"""Their least and largest IoU with the object."""

Track = Callable[[int, int], None]
"""Called with the number of images that are done, and all."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Annotated objects and detections of a data set, ordered by image.

    Attributes:
        x: float32 ``[R, D]``, the features.
        images: int64 ``[R]``, positions of the images.
        boxes: float32 ``[R, 4]`` xyxy, in pixels of the image.
        labels: int64 ``[R]``: the annotated class of an object, the predicted class of a detection.
        rows: int64 ``[R]``: the position of an object in ``Annotations.objects``; -1 for a detection.
        scores: float32 ``[R]``: of detections; 1 for objects.
        overlaps: float32 ``[R]``: for an object, the IoU of its mask with the mask that the network draws for it (of
            its box, if there are no masks). For a detection, its largest box IoU with an object of the image, or the
            share of it in a crowd region if that is larger.
        masks: the mask that the network draws for the object, or the mask of the detection; None without a mask head.
        refined: float32 ``[R, 4]`` xyxy, the box that the network draws for the object; that of a detection.
        places: float32 ``[K, 1 + MOVED, D]``, for each object, in order, the features of its place: those of its box,
            then those of moved boxes.
    """

    x: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    overlaps: np.ndarray
    masks: tuple[RunLengths | None, ...]
    refined: np.ndarray
    places: np.ndarray

    @property
    def is_object(self) -> np.ndarray:
        """Whether each region is an annotated object, bool ``[R]``."""
        return self.rows >= 0


def require_box_head(predictor: Predictor) -> FasterRCNN | MaskRCNN:
    """Returns the model of a predictor.

    Raises:
        ValueError: the model has no single box head, such as a cascade or a detector of your own.
    """
    if not isinstance(predictor.model, FasterRCNN | MaskRCNN):
        raise ValueError(
            f"{predictor.file} holds a {type(predictor.model).__name__}. Label errors are found with the region "
            "features of Faster R-CNN or Mask R-CNN: name a run of one of these, such as custom_small"
        )
    return predictor.model


class RegionReader:
    """Runs the network of a predictor on images with given boxes.

    Args:
        predictor: of a run of Faster R-CNN or Mask R-CNN.

    Raises:
        ValueError: as `require_box_head`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.model = require_box_head(predictor)
        self.predictor = predictor
        data = predictor.recipe.data
        self._transform = evaluation_transform(data.test_short_side, data.max_long_side)
        self._projections: dict[int, Tensor] = {}

    @torch.no_grad()
    def read(self, pixels: Tensor, boxes: Float[Tensor, "K 4"], labels: Tensor, *, seed: int = 0) -> "Look":
        """Detects in an image, and looks at some boxes.

        Args:
            pixels: RGB ``[3, h, w]``.
            boxes: K boxes, xyxy in pixels of the image.
            labels: the class of each box, for its refinement and its mask.
            seed: of the moved boxes.

        Returns:
            What the network sees.
        """
        model, device = self.model, self.predictor.device
        height, width = pixels.shape[-2:]
        resized = self._transform(Image(pixels)).as_subclass(Tensor).to(device)
        size = (resized.shape[-2], resized.shape[-1])
        scale = size[1] / width, size[0] / height
        with autocast(device, self.predictor.precision):
            maps, sizes = model.compute_features([resized])
            pyramid = model.fpn(maps)
            proposals = model.rpn.proposals(model.rpn(pyramid), sizes)
            found = _suppress(model.detect(pyramid, proposals, sizes, [(height, width)])[0])
            regions = scale_boxes(torch.cat([boxes.to(device), found.boxes]), *scale)
            head = model.box_head
            hidden = head(pyramid, [regions])
            parts = [part.float() for part in (*_pool(maps, regions, size), hidden)]
            places = _pool_places(maps, scale_boxes(move_boxes(boxes, seed=seed).flatten(0, 1).to(device), *scale))
            refined = self._refine(head, hidden[: len(boxes)], regions[: len(boxes)], labels.to(device), size)
            masks: list[RunLengths | None] = [None] * len(boxes)
            if isinstance(model, MaskRCNN) and len(boxes):
                drawn = model.mask_head.probabilities(pyramid, [refined], labels.to(device))
                original = scale_boxes(refined, 1 / scale[0], 1 / scale[1])
                threshold = model.config.postprocess.mask_threshold
                masks = [*paste_masks(drawn, original, height, width, threshold=threshold)]
        return Look(
            x=self._join(parts),
            places=self._join(places).unflatten(0, (len(boxes), 1 + MOVED)),
            refined=scale_boxes(refined, 1 / scale[0], 1 / scale[1]),
            masks=masks,
            found=found,
        )

    @staticmethod
    def _refine(head: BoxHead, hidden: Tensor, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        decoded = head.decode_class_boxes(hidden, boxes, size)
        return (
            decoded if isinstance(decoded, Tensor) else decoded(torch.arange(len(boxes), device=boxes.device), labels)
        )

    def _join(self, parts: Sequence[Tensor]) -> Float[Tensor, "R D"]:
        """Gives each part the same length, and projects the whole if it is long.

        A random projection keeps distances: Johnson and Lindenstrauss 1984.
        """
        x = torch.cat([normalize(part) for part in parts], dim=1)
        if x.shape[1] <= MAX_FEATURES:
            return x
        if x.shape[1] not in self._projections:
            generator = torch.Generator().manual_seed(0)
            matrix = torch.randn(x.shape[1], MAX_FEATURES, generator=generator) / MAX_FEATURES**0.5
            self._projections[x.shape[1]] = matrix.to(x.device)
        return x @ self._projections[x.shape[1]]


@dataclass(frozen=True, eq=False)
class Look:
    """What the network sees in an image with K given boxes and M detections.

    Attributes:
        x: features of the boxes, then of the detections.
        places: features of the places of the boxes, and of moved ones.
        refined: the boxes, moved by the regressor.
        masks: the mask in each refined box; None without a mask head.
        found: the detections.
    """

    x: Float[Tensor, "R D"]
    places: Float[Tensor, "K J E"]
    refined: Float[Tensor, "K 4"]
    masks: list[RunLengths | None]
    found: Detections


def move_boxes(boxes: Float[Tensor, "K 4"], *, seed: int = 0) -> Float[Tensor, "K J 4"]:
    """Makes boxes in wrong places: shifted, enlarged and shrunk until the IoU is in `MOVED_IOU`.

    Args:
        boxes: xyxy.
        seed: of the draws.

    Returns:
        Each box unchanged, then `MOVED` others.
    """
    rng = np.random.default_rng(seed)
    moved = boxes[:, None].repeat(1, 1 + MOVED, 1).numpy()
    for k, j in np.ndindex(len(boxes), MOVED):
        box = moved[k, 0].astype(np.float64)
        sides, center = box[2:] - box[:2], (box[:2] + box[2:]) / 2
        for _ in range(MAX_DRAWS):
            if rng.random() < 0.5:
                new_center, new_sides = center + rng.uniform(-0.6, 0.6, 2) * sides, sides
            else:
                new_center, new_sides = center, sides * np.exp(rng.uniform(-0.5, 0.5))
            new = np.concatenate([new_center - new_sides / 2, new_center + new_sides / 2])
            if MOVED_IOU[0] <= compute_iou(box[None], new[None])[0, 0] <= MOVED_IOU[1]:
                break
        moved[k, 1 + j] = new
    return torch.from_numpy(moved)


def _pool_places(maps: Sequence[Tensor], boxes: Float[Tensor, "P 4"]) -> list[Float[Tensor, "P _"]]:
    """Pools the maps in enlarged boxes."""
    centers, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, CONTEXT * (boxes[:, 2:] - boxes[:, :2]) / 2
    regions = torch.cat([centers - halves, centers + halves], dim=1)
    return [
        roi_align(maps[STRIDES.index(stride)].float(), [regions], cells, 1 / stride, 1, aligned=True).flatten(1)
        for stride, cells in PLACE_CELLS.items()
    ]


def _pool(maps: Sequence[Tensor], boxes: Float[Tensor, "R 4"], size: tuple[int, int]) -> list[Float[Tensor, "R _"]]:
    """Pools the maps of the backbone in boxes, and the last one in the whole image."""
    whole = boxes.new_tensor([[0, 0, size[1], size[0]]])
    pooled = [
        roi_align(level.float(), [boxes], CELLS[stride], 1 / stride, sampling_ratio=2, aligned=True).flatten(1)
        for level, stride in zip(maps, STRIDES, strict=True)
    ]
    around = roi_align(maps[-1].float(), [whole], 1, 1 / STRIDES[-1], sampling_ratio=-1, aligned=True).flatten(1)
    return [*pooled, around.expand(len(boxes), -1)]


def _suppress(found: Detections) -> Detections:
    """The best detections, over all classes."""
    return found.select(nms(found.boxes.float(), found.scores.float(), NMS_IOU)[:MAX_DETECTIONS])


def read_regions(predictor: Predictor, annotations: Annotations, track: Track = lambda *_: None) -> Regions:
    """Runs the network over all images of a data set.

    Args:
        predictor: of the run.
        annotations: the data set; its classes must be those of the run.
        track: called with the progress.

    Returns:
        The objects and the detections.

    Raises:
        ImageError: an image cannot be read.
        ValueError: the classes differ, or the model has no single box head.
    """
    require_same_classes(predictor, annotations)
    reader = RegionReader(predictor)
    columns: list[list[np.ndarray]] = [[] for _ in range(9)]
    masks: list[RunLengths | None] = []
    for index in range(annotations.num_images):
        pixels, _ = read_annotated(annotations, annotations.get_info(index))
        rows = _list_objects(annotations, index)
        boxes = annotations.objects.boxes[rows]
        labels = annotations.objects.labels[rows]
        look = reader.read(pixels, torch.from_numpy(boxes), torch.from_numpy(labels), seed=index)
        found, drawn = look.found, look.masks
        found_boxes = found.boxes.float().cpu().numpy()
        refined_boxes = look.refined.float().cpu().numpy()
        height, width = pixels.shape[-2:]
        own = _compare(annotations, index, rows, boxes, refined_boxes, drawn, (height, width))
        values = (
            look.x.cpu().numpy(),
            np.full(len(look.x), index),
            np.concatenate([boxes, found_boxes]),
            np.concatenate([labels, found.labels.cpu().numpy()]),
            np.concatenate([rows, np.full(len(found), -1)]),
            np.concatenate([np.ones(len(rows), np.float32), found.scores.float().cpu().numpy()]),
            np.concatenate([own, _find_overlaps(annotations, index, found_boxes)]),
            np.concatenate([refined_boxes, found_boxes]),
            look.places.cpu().numpy(),
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        masks += [*drawn, *(found.masks or [None] * len(found))]
        track(index + 1, annotations.num_images)
    x, images, boxes, labels, rows, scores, overlaps, refined, places = map(np.concatenate, columns)
    return Regions(x, images, boxes, labels, rows, scores, overlaps, tuple(masks), refined, places)


def require_same_classes(predictor: Predictor, annotations: Annotations) -> None:
    """Checks that a data set has the classes of a run.

    Raises:
        ValueError: an id or a name differs.
    """
    mine, theirs = (
        [(category.id, category.name) for category in categories]
        for categories in (annotations.categories, predictor.categories)
    )
    if mine != theirs:
        differ = sorted({*mine} ^ {*theirs})[:3]
        raise ValueError(
            f"{annotations.path} has other classes than the run: {differ} "
            f"{'is' if len(differ) == 1 else 'are'} not in both. Name a file with the classes of the run"
        )


def _list_objects(annotations: Annotations, index: int) -> np.ndarray:
    """Rows of the objects of an image that can be looked at: not ignored, and at least one pixel wide and high."""
    objects = annotations.objects
    rows = np.arange(objects.offsets[index], objects.offsets[index + 1])
    return rows[objects.trainable[rows]]


def _compare(
    annotations: Annotations,
    index: int,
    rows: np.ndarray,
    boxes: np.ndarray,
    refined: np.ndarray,
    drawn: Sequence[RunLengths | None],
    size: tuple[int, int],
) -> np.ndarray:
    """The IoU of each object with what the network draws for it."""
    overlaps = np.zeros(len(rows), np.float32)
    for place, row in enumerate(rows.tolist()):
        mask = drawn[place]
        if mask is None or not annotations.objects.masked[row]:
            overlaps[place] = compute_iou(boxes[place : place + 1], refined[place : place + 1])[0, 0]
        else:
            truth = segmentation_to_rle(annotations.get_segmentation(row, index), *size)
            overlaps[place] = coco.iou([dict(mask)], [dict(truth)], [0])[0, 0]
    return overlaps


def _find_overlaps(annotations: Annotations, index: int, boxes: np.ndarray) -> np.ndarray:
    """The largest IoU of each box with an object, or its share in a crowd region if that is larger."""
    objects = annotations.objects
    rows = np.arange(objects.offsets[index], objects.offsets[index + 1])
    return compute_iou(boxes, objects.boxes[rows], objects.ignored[rows]).max(axis=1, initial=0).astype(np.float32)


def compute_iou(first: np.ndarray, second: np.ndarray, crowds: np.ndarray | None = None) -> np.ndarray:
    """The IoU of boxes.

    Args:
        first: ``[A, 4]`` xyxy.
        second: ``[B, 4]`` xyxy.
        crowds: bool ``[B]``: for these the shared area is divided by the area of the first box.

    Returns:
        ``[A, B]``.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    pairs = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1).astype(np.float64) for b in (first, second)]
    flags = np.zeros(len(second), np.uint8) if crowds is None else crowds.astype(np.uint8)
    return coco.iou(*pairs, flags)
