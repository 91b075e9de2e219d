"""Ranks what is most likely wrong in an annotation file: by region features, outlines and overlaps.

Shapes: R regions, K objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from pycocotools import mask as coco

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.types import Group, RunLengths
from tailseg.data.verified import find_unverified
from tailseg.label_errors.classes import FLOOR, ClassEstimates, estimate_classes, find_similar
from tailseg.label_errors.regions import Regions, compute_iou
from tailseg.ops.masks import segmentation_to_rle

Kind = Literal["class", "missing", "outline", "duplicate"]
KINDS: Final[tuple[Kind, ...]] = ("class", "missing", "outline", "duplicate")
KIND_NAMES: Final[Mapping[Kind, str]] = {
    "class": "wrong class",
    "missing": "missing object",
    "outline": "bad outline",
    "duplicate": "duplicate",
}
BACKGROUND_IOU: Final = 0.3
"""A detection with a smaller IoU with every object is an example of the background."""
BACKGROUND_SHARE: Final = 3
"""Examples of the background for each object, at most."""
MISSING_IOU: Final = 0.5
"""A detection with a smaller IoU with every object may be a missing object."""
SAME_IOU: Final = 0.5
"""Two objects of one class with at least this IoU may be one."""
OTHER_IOU: Final = 0.8
"""Two objects of different classes with at least this IoU may be one."""
SIMILAR: Final = 5
"""Similar objects in other images that an outline is compared with."""


@dataclass(frozen=True)
class Suspect:
    """A suspected label error, and the change that would repair it.

    Attributes:
        kind: what may be wrong.
        score: in 0 .. 1, higher is more suspicious. Scores of different kinds cannot be compared.
        image_id: the image.
        index: the position of the image in the file.
        annotation_id: the annotation; None for a missing object.
        category_id: the category as annotated; of a missing object, the proposed one.
        group: the frequency group of this category.
        box: xyxy of the object as annotated; of a missing object, the proposed one.
        row: the position of the annotation in ``Annotations.objects``; -1 for a missing object.
        new_category_id: the category that is proposed, if another one.
        new_box: xyxy, the box that is proposed, if another one.
        new_mask: the mask that is proposed, if another one.
        other_row: of a duplicate, the position of the other annotation in ``Annotations.objects``.
    """

    kind: Kind
    score: float
    image_id: int
    index: int
    annotation_id: int | None
    category_id: int
    group: Group
    box: tuple[float, float, float, float]
    row: int = -1
    new_category_id: int | None = None
    new_box: tuple[float, float, float, float] | None = None
    new_mask: RunLengths | None = None
    other_row: int = -1


def find_suspects(
    annotations: Annotations, regions: Regions, *, folds: int = 5, seed: int = 0, kinds: Sequence[Kind] = KINDS
) -> dict[Kind, list[Suspect]]:
    """Ranks the suspected errors of each kind, the most suspicious first.

    Args:
        annotations: the data set.
        regions: what the network sees in it.
        folds: of the class estimates.
        seed: of the folds.
        kinds: the kinds to look for.

    Returns:
        The suspects by kind.
    """
    makers = {
        "class": lambda: _find_wrong_classes(annotations, regions, estimates),
        "missing": lambda: _find_missing(annotations, regions, estimates),
        "outline": lambda: _find_bad_outlines(annotations, regions, estimate_places(regions, folds=folds, seed=seed)),
        "duplicate": lambda: _find_duplicates(annotations),
    }
    if {"class", "missing"} & {*kinds}:
        estimates = estimate_regions(regions, annotations.num_classes, folds=folds, seed=seed)
    return {kind: sorted(makers[kind](), key=lambda suspect: -suspect.score) for kind in kinds}


def estimate_regions(regions: Regions, num_classes: int, *, folds: int, seed: int) -> ClassEstimates:
    """Estimates the classes of the objects, and of the detections as background.

    Detections that lie near an object are neither: they are estimated, but their label is background, so that their
    class is free. They are few among the background that the classifiers learn.

    Args:
        regions: R regions.
        num_classes: C.
        folds: number of folds.
        seed: of the folds, and of the examples of the background if there are too many.

    Returns:
        The estimates of the R regions.
    """
    labels = np.where(regions.is_object, regions.labels, num_classes)
    background = np.flatnonzero(~regions.is_object & (regions.overlaps < BACKGROUND_IOU))
    limit = max(1, BACKGROUND_SHARE * int(regions.is_object.sum()))
    if len(background) > limit:
        background = np.random.default_rng(seed).choice(background, limit, replace=False)
    learned = regions.is_object.copy()
    learned[background] = True
    return estimate_classes(regions.x, labels, regions.images, num_classes, learned=learned, folds=folds, seed=seed)


def score_classes(estimates: ClassEstimates) -> np.ndarray:
    """``other / (own + other)``: 0 where the own class is certain, 1 where another one is.

    An object whose class has no other image cannot be judged: 0.
    """
    own, other = np.maximum(estimates.own, FLOOR), np.maximum(estimates.other, FLOOR)
    return np.where(estimates.support > 0, other / (own + other), 0.0)


def score_missing(regions: Regions, estimates: ClassEstimates, covered: np.ndarray) -> np.ndarray:
    """``p(class) * score^(1/4) * (1 - covered)``: likely of a class, found by the network, and no part of an object.

    Args:
        regions: R regions.
        estimates: of their classes.
        covered: ``[R]``, see `compute_covered`.

    Returns:
        Float ``[R]`` in 0 .. 1.
    """
    return estimates.other * np.clip(regions.scores, 0, 1) ** 0.25 * (1 - covered)


def compute_covered(annotations: Annotations, regions: Regions) -> np.ndarray:
    """How much each detection and an object of its image contain each other, by their boxes.

    The largest of two shares over all objects: that of the detection inside the object, and that of the object inside
    the detection. A part of an annotated object, and a group of objects, is no missing object.

    Args:
        annotations: the data set.
        regions: R regions.

    Returns:
        Float ``[R]`` in 0 .. 1; 0 for objects.
    """
    covered, objects = np.zeros(len(regions.x)), annotations.objects
    found = np.flatnonzero(~regions.is_object)
    order = found[np.argsort(regions.images[found], kind="stable")]
    starts = np.searchsorted(regions.images[order], np.arange(annotations.num_images + 1))
    for index in range(annotations.num_images):
        here = order[starts[index] : starts[index + 1]]
        boxes = objects.boxes[objects.offsets[index] : objects.offsets[index + 1]]
        if len(here) and len(boxes):
            inside = compute_iou(regions.boxes[here], boxes, np.ones(len(boxes), bool)).max(axis=1)
            around = compute_iou(boxes, regions.boxes[here], np.ones(len(here), bool)).max(axis=0)
            covered[here] = np.maximum(inside, around)
    return covered


def score_outlines(regions: Regions, misplaced: np.ndarray) -> np.ndarray:
    """The mean of three signs: the network draws another mask, it draws another box, the box looks like a moved one.

    The first two are how much lower the IoU of the object with what the network draws is than the median of the
    `SIMILAR` most similar objects in other images: the network draws some kinds of objects worse than others.

    Args:
        regions: the regions of K objects.
        misplaced: ``[K]``, the probability that the box was moved, see `estimate_places`.

    Returns:
        Float ``[K]`` in 0 .. 1.
    """
    objects = np.flatnonzero(regions.is_object)
    if not len(objects):
        return np.zeros(0)
    pairs = zip(regions.boxes[objects, None], regions.refined[objects, None], strict=True)
    overlaps = np.stack([regions.overlaps[objects], [compute_iou(*pair)[0, 0] for pair in pairs]])
    similar = find_similar(regions.x[objects], regions.images[objects], SIMILAR)
    other = np.clip(np.median(overlaps[:, similar], axis=2) - overlaps, 0, 1)
    return (other.sum(axis=0) + misplaced) / 3


def estimate_places(regions: Regions, *, folds: int, seed: int) -> np.ndarray:
    """The probability that the box of each object is a moved one, by classifiers that did not see its image.

    They learn from all boxes, as right, and from moved copies of them, as wrong.

    Args:
        regions: the regions of K objects.
        folds: number of folds.
        seed: of the folds.

    Returns:
        Float32 ``[K]``.
    """
    number, copies, _ = regions.places.shape
    labels = np.tile(np.arange(copies) > 0, number).astype(np.int64)
    images = np.repeat(regions.images[regions.is_object], copies)
    x = regions.places.reshape(number * copies, -1)
    return estimate_classes(x, labels, images, 1, folds=folds, seed=seed).background[::copies]


def _find_wrong_classes(annotations: Annotations, regions: Regions, estimates: ClassEstimates) -> list[Suspect]:
    scores = score_classes(estimates)
    return [
        _describe_object(
            annotations,
            "class",
            float(scores[r]),
            int(regions.rows[r]),
            int(regions.images[r]),
            new_category_id=annotations.categories[int(estimates.other_labels[r])].id,
        )
        for r in np.flatnonzero(regions.is_object & (scores > 0)).tolist()
    ]


def _find_missing(annotations: Annotations, regions: Regions, estimates: ClassEstimates) -> list[Suspect]:
    """Detections without an object. In an LVIS file, only of classes that were looked for in the image."""
    ids = np.array([category.id for category in annotations.categories], np.int64)
    scores = score_missing(regions, estimates, compute_covered(annotations, regions))
    suspects = []
    for r in np.flatnonzero(~regions.is_object & (regions.overlaps < MISSING_IOU)).tolist():
        index, label = int(regions.images[r]), int(estimates.other_labels[r])
        if annotations.format == "lvis" and find_unverified(annotations, index, ids)[label]:
            continue
        box = tuple(regions.boxes[r].tolist())
        category = annotations.categories[label]
        image_id = int(annotations.image_ids[index])
        suspects.append(
            Suspect(
                "missing",
                float(scores[r]),
                image_id,
                index,
                None,
                category.id,
                category.group,
                box,
                new_category_id=category.id,
                new_box=box,
                new_mask=regions.masks[r],
            )
        )
    return suspects


def _find_bad_outlines(annotations: Annotations, regions: Regions, misplaced: np.ndarray) -> list[Suspect]:
    places = np.flatnonzero(regions.is_object)
    scores = score_outlines(regions, misplaced)
    return [
        _describe_object(
            annotations,
            "outline",
            float(score),
            int(regions.rows[r]),
            int(regions.images[r]),
            new_box=tuple(regions.refined[r].tolist()),
            new_mask=regions.masks[r],
        )
        for r, score in zip(places.tolist(), scores.tolist(), strict=True)
        if score > 0
    ]


def _find_duplicates(annotations: Annotations) -> list[Suspect]:
    """Pairs of objects that overlap; the later one of the file is the suspect."""
    objects = annotations.objects
    suspects = []
    for index in range(annotations.num_images):
        rows = np.arange(objects.offsets[index], objects.offsets[index + 1])
        rows = rows[~objects.ignored[rows]]
        overlaps = np.triu(compute_iou(objects.boxes[rows], objects.boxes[rows]), 1)
        for first, second in np.argwhere(overlaps >= SAME_IOU).tolist():
            pair = int(rows[first]), int(rows[second])
            same = objects.labels[pair[0]] == objects.labels[pair[1]]
            overlap = (
                _compare_masks(annotations, index, *pair) if objects.masked[[*pair]].all() else overlaps[first, second]
            )
            if overlap < (SAME_IOU if same else OTHER_IOU):
                continue
            other, row = pair
            suspects.append(
                _describe_object(
                    annotations,
                    "duplicate",
                    overlap if same else overlap - SAME_IOU,
                    row,
                    index,
                    other_row=other,
                )
            )
    return suspects


def _compare_masks(annotations: Annotations, index: int, first: int, second: int) -> float:
    masks = [read_mask(annotations, row, index) for row in (first, second)]
    return float(coco.iou(masks[:1], masks[1:], [0])[0, 0])


def read_mask(annotations: Annotations, row: int, index: int) -> RunLengths:
    """Reads the mask of an object.

    Args:
        annotations: the data set.
        row: the position of the object in ``Annotations.objects``.
        index: the position of its image.

    Returns:
        Its run lengths.
    """
    height, width = annotations.sizes[index].tolist()
    return segmentation_to_rle(annotations.get_segmentation(row, index), height, width)


def _describe_object(
    annotations: Annotations,
    kind: Kind,
    score: float,
    row: int,
    index: int,
    **proposed: Any,  # noqa: ANN401
) -> Suspect:
    objects = annotations.objects
    category = annotations.categories[int(objects.labels[row])]
    return Suspect(
        kind,
        score,
        int(annotations.image_ids[index]),
        index,
        int(objects.ids[row]),
        category.id,
        category.group,
        tuple(objects.boxes[row].tolist()),
        row=row,
        **proposed,
    )
