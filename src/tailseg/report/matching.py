"""What became of every detection and of every object, at one IoU.

The rules are those of the AP (`tailseg.evaluation`): within a class, a better score chooses first; a region that is to
be left alone swallows what lies in it; in an LVIS file a class that was not looked for in an image is unknown there.

Shapes: n detections, m objects and regions (the rows of ``Annotations.objects``), D and G those of one image.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from pycocotools import mask as coco

from tailseg.data.annotations import Annotations
from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.results import Results
from tailseg.ops.masks import segmentation_to_rle

TRUE: Final = 1
FALSE: Final = 0
UNKNOWN: Final = -1
"""A detection that counts neither for nor against: the file cannot say whether it is right."""


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections, best of each image first as far as the protocol lets them count, beside the objects.

    Attributes:
        annotations: the objects.
        detections: n detections, in order of image; masks are compressed run lengths.
        kind: what overlaps.
        images: int64 ``[n]``, positions in the annotation file.
        labels: int64 ``[n]``, 0 .. C-1.
        fates: int8 ``[n]``: TRUE (the first to find an object of its class), FALSE or UNKNOWN.
        overlapped: int64 ``[n]``, the object that the detection overlaps most, of any class; -1 if it overlaps none.
        overlaps: float64 ``[n]``, their IoU.
        found_by: int64 ``[m]``, the detection that found the object, -1 if none did.
    """

    annotations: Annotations
    detections: Results
    kind: Literal["bbox", "segm"]
    images: np.ndarray
    labels: np.ndarray
    fates: np.ndarray
    overlapped: np.ndarray
    overlaps: np.ndarray
    found_by: np.ndarray

    def __len__(self) -> int:
        return len(self.detections)

    @property
    def scores(self) -> np.ndarray:
        """float64 ``[n]``."""
        return self.detections.scores


def match(annotations: Annotations, results: Results, *, iou: float = 0.5) -> Matches:
    """Finds each detection's object.

    Args:
        annotations: what there is.
        results: detections; by their masks where they have masks, else by their boxes.
        iou: the overlap that makes a find, in (0, 1].

    Raises:
        ValueError: a detection is of an image or a class that the annotation file lacks.
    """
    kind = "bbox" if results.masks is None else "segm"
    images = _positions(results.image_ids, annotations.image_ids, "image_id", results, annotations)
    ids = np.array([category.id for category in annotations.categories], np.int64)
    labels = _positions(results.category_ids, ids, "category_id", results, annotations)
    rows = _counting(images, labels, results.scores, annotations.format)
    detections, images, labels = _compressed(results.take(rows)), images[rows], labels[rows]
    n, m = len(rows), len(annotations.objects)
    fates = np.full(n, FALSE, np.int8)
    overlapped, overlaps = np.full(n, -1), np.zeros(n)
    found_by = np.full(m, -1)
    bounds = np.searchsorted(images, np.arange(annotations.num_images + 1))
    for image in np.unique(images).tolist():
        mine = slice(bounds[image], bounds[image + 1])
        first, last = annotations.objects.offsets[image : image + 2].tolist()
        table = _overlaps(annotations, image, detections.take(np.arange(mine.start, mine.stop)))
        regions = annotations.objects.ignored[first:last]
        real = np.where(regions, 0, table)
        if last > first:
            best = real.argmax(axis=1)
            overlaps[mine] = real[np.arange(len(real)), best]
            overlapped[mine] = np.where(overlaps[mine] > 0, best + first, -1)
        fates[mine], found = _fates(annotations, image, labels[mine], table, regions, iou)
        found_by[first:last] = np.where(found >= 0, found + mine.start, -1)
    return Matches(annotations, detections, kind, images, labels, fates, overlapped, overlaps, found_by)


def _positions(ids: np.ndarray, known: np.ndarray, key: str, results: Results, annotations: Annotations) -> np.ndarray:
    """Where each id stands in ``known``."""
    order = np.argsort(known)
    places = np.searchsorted(known, ids, sorter=order).clip(max=len(known) - 1)
    positions = order[places]
    wrong = known[positions] != ids
    if wrong.any():
        raise ValueError(
            f"{results.source}: the {key} of {int(wrong.sum()):,} of {len(ids):,} records is not in "
            f"{annotations.path} (such as {ids[wrong][0]}): were they made for another file? Name it with --val, or "
            "evaluate again with `tailseg test`"
        )
    return positions


def _counting(
    images: np.ndarray, labels: np.ndarray, scores: np.ndarray, protocol: Literal["lvis", "coco"]
) -> np.ndarray:
    """Rows of the detections that count, by image, best first: 300 an image (LVIS), 100 an image and class (COCO)."""
    order = np.lexsort((-scores, images))
    owners = images if protocol == "lvis" else images * (labels.max(initial=0) + 1) + labels
    by_owner = order[np.argsort(owners[order], kind="stable")]
    rank = np.arange(len(order)) - np.searchsorted(owners[by_owner], owners[by_owner])
    kept = np.zeros(len(order), bool)
    kept[by_owner[rank < MAX_DETECTIONS[protocol]]] = True
    return order[kept[order]]


def _overlaps(annotations: Annotations, image: int, detections: Results) -> np.ndarray:
    """IoU ``[D, G]`` of an image's detections with its objects and regions; with a region, the part that lies in it."""
    objects = annotations.objects
    rows = np.arange(objects.offsets[image], objects.offsets[image + 1])
    if not len(rows):
        return np.zeros((len(detections), 0))
    crowds = objects.ignored[rows].astype(np.uint8)
    if detections.masks is None:
        boxes = objects.boxes[rows].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        assert detections.boxes is not None
        return np.asarray(coco.iou(detections.boxes, boxes, crowds))
    height, width = annotations.sizes[image].tolist()
    masks = [segmentation_to_rle(annotations.segmentation(row, image), height, width) for row in rows.tolist()]
    return np.asarray(coco.iou(detections.masks, masks, crowds))


def _compressed(results: Results) -> Results:
    """The results with all masks as compressed run lengths; records may have lists of counts."""
    if results.masks is None:
        return results
    masks = [
        coco.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask for mask in results.masks
    ]
    return replace(results, masks=masks)


def _fates(
    annotations: Annotations, image: int, labels: np.ndarray, table: np.ndarray, regions: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """The detections' fates ``[D]``, and the detection that found each object ``[G]`` (-1: none)."""
    rows = slice(annotations.objects.offsets[image], annotations.objects.offsets[image + 1])
    classes = annotations.objects.labels[rows]
    unknown = _unknown_classes(annotations, image)
    fates, found = np.full(len(labels), FALSE, np.int8), np.full(len(classes), -1)
    for d, label in enumerate(labels.tolist()):
        same = classes == label
        free = np.flatnonzero(same & ~regions & (found < 0) & (table[d] >= iou))
        if len(free):
            best = free[::-1][table[d, free[::-1]].argmax()]  # of equal overlaps the last, as in pycocotools
            fates[d], found[best] = TRUE, d
        elif unknown[label] or (same & regions & (table[d] >= iou)).any():
            fates[d] = UNKNOWN
    return fates, found


def _unknown_classes(annotations: Annotations, image: int) -> np.ndarray:
    """Classes, bool ``[C]``, whose unmatched detections in the image may be right.

    In LVIS those that were not looked for, and those of which not every object is annotated; in COCO none.
    """
    if annotations.format == "coco":
        return np.zeros(annotations.num_classes, bool)
    labels = {category.id: label for label, category in enumerate(annotations.categories)}
    known = np.zeros(annotations.num_classes, bool)
    known[annotations.classes_of(image)] = True
    known[[labels[key] for key in annotations.negative[image].tolist()]] = True
    known[[labels[key] for key in annotations.not_exhaustive[image].tolist()]] = False
    return ~known
