"""Which detection finds which object: the matching of lvis-api and pycocotools, on which every figure stands.

Shapes: n detections that count, M objects, T IoU thresholds (0.50, 0.55 .. 0.95), A ranges of object area (all, small,
medium, large), K classes in order of id, P pairs.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tailseg.evaluation.ground_truth import GroundTruth, is_member
from tailseg.evaluation.overlaps import Pairs

IOUS = np.linspace(0.5, 0.95, 10)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
FALSE, FOUND, LEFT_ALONE = 0, 1, 2


@dataclass(frozen=True)
class Candidates:
    """Detections that count, ordered by class, then score (descending), image id and place in the file.

    Attributes:
        rows: int64 ``[n]``, places in the results.
        classes, images: int64 ``[n]`` positions in order of id.
        scores: float64 ``[n]``.
        areas: float64 ``[n]``, of boxes or masks.
        pairs: overlapping detections and objects of one class and image.
    """

    rows: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    pairs: Pairs

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: np.ndarray) -> "Candidates":
        """Those at some rows of the results (ascending)."""
        kept = is_member(self.rows, rows)
        if kept.all():
            return self
        pairs = self.pairs.take(np.flatnonzero(kept[self.pairs.detections]))
        pairs = replace(pairs, detections=(np.cumsum(kept) - 1)[pairs.detections])
        columns = (self.rows, self.classes, self.images, self.scores, self.areas)
        return Candidates(*(column[kept] for column in columns), pairs)


@dataclass(frozen=True)
class Matches(Candidates):
    """The fate of each detection that counts.

    Attributes:
        states: uint8 ``[A, T, n]``: `FALSE` (a false positive), `FOUND` (an object), `LEFT_ALONE` (neither).
        matched: int64 ``[n]``, the object found at IoU 0.5 among all sizes, or -1.
        wanted: bool ``[A, M]``, objects that are to be found.
        object_classes, object_images: int64 ``[M]``.
        num_classes, num_images: K, and the images.
    """

    states: np.ndarray
    matched: np.ndarray
    wanted: np.ndarray
    object_classes: np.ndarray
    object_images: np.ndarray
    num_classes: int
    num_images: int

    def num_objects(self, area: int = 0) -> np.ndarray:
        """int64 ``[K]``: objects of an area range that are to be found."""
        return np.bincount(self.object_classes[self.wanted[area]], minlength=self.num_classes)

    def segments(self) -> list[slice]:
        """K slices: the detections of each class."""
        edges = np.searchsorted(self.classes, np.arange(self.num_classes + 1)).tolist()
        return [slice(low, high) for low, high in pairwise(edges)]


def order_of_match(classes: np.ndarray, images: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Positions by class, then score (descending), image and place."""
    return np.lexsort((images, -scores, classes))


def match(truth: GroundTruth, candidates: Candidates) -> Matches:
    """Matches detections, best score first, each with the free object of its class that it overlaps most."""
    objects = truth.objects
    low, high = np.asarray(AREAS).T[..., None]
    wanted = ~objects.crowds & (objects.areas >= low) & (objects.areas <= high)
    keys = candidates.images * len(truth.categories) + candidates.classes
    alone = (candidates.areas < low) | (candidates.areas > high) | is_member(keys, truth.not_exhaustive)
    states = np.repeat(np.where(alone, LEFT_ALONE, FALSE).astype(np.uint8)[:, None], len(IOUS), axis=1)
    matched = np.full(len(candidates), -1)
    near = candidates.pairs.take(np.flatnonzero(candidates.pairs.overlaps >= IOUS[0]))
    rank = _rank_among_rivals(near, keys)
    for area in range(len(AREAS)):
        ordered, ranks = _by_preference(near, rank, wanted[area])
        found = _match_in_rounds(ordered, ranks, objects.crowds, len(candidates))
        hit = found >= 0
        states[area][hit] = np.where(wanted[area][found[hit]], FOUND, LEFT_ALONE)
        if area == 0:
            matched[:] = np.where(hit[0] & (states[0, 0] == FOUND), found[0], -1)
    return Matches(
        **vars(candidates),
        states=states,
        matched=matched,
        wanted=wanted,
        object_classes=objects.classes,
        object_images=objects.images,
        num_classes=len(truth.categories),
        num_images=len(truth.sizes),
    )


def _rank_among_rivals(near: Pairs, keys: np.ndarray) -> np.ndarray:
    """``[P]``: how many detections of the same image and class, with an object near, precede the pair's detection."""
    detections = np.unique(near.detections)
    order = np.lexsort((detections, keys[detections]))
    ordered = keys[detections[order]]
    rank = np.empty(len(detections), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return rank[np.searchsorted(detections, near.detections)]


def _by_preference(near: Pairs, rank: np.ndarray, wanted: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """Pairs in rounds of equal rank, a detection's as it prefers: wanted objects, most overlap, the later one."""
    order = np.lexsort((-near.objects, -near.overlaps, ~wanted[near.objects], near.detections, rank))
    return near.take(order), rank[order]


def _match_in_rounds(pairs: Pairs, rank: np.ndarray, crowds: np.ndarray, num_detections: int) -> np.ndarray:
    """``[T, n]``: the object of each detection, or -1.

    A round matches one detection of each image and class: no two of them want the same object.
    """
    found = np.full((len(IOUS), num_detections), -1)
    taken = np.zeros((len(IOUS), len(crowds)), dtype=bool)
    enough = pairs.overlaps >= np.minimum(IOUS, 1 - 1e-10)[:, None]
    edges = np.flatnonzero(np.diff(rank, prepend=-1, append=-1))
    for low, high in pairwise(edges.tolist()):
        objects, detections = pairs.objects[low:high], pairs.detections[low:high]
        free = enough[:, low:high] & (~taken[:, objects] | crowds[objects])
        starts = np.flatnonzero(np.diff(detections, prepend=-1))
        first = np.minimum.reduceat(np.where(free, np.arange(high - low), high - low), starts, axis=1)
        threshold, which = np.nonzero(first < high - low)
        chosen = objects[first[threshold, which]]
        found[threshold, detections[starts[which]]] = chosen
        taken[threshold, chosen] = True
    return found
