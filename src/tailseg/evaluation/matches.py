"""Which detection finds which object: the matching of lvis-api and pycocotools, on which every figure stands.

Shapes: n detections that count, M objects, T IoU thresholds (0.50, 0.55 .. 0.95), A ranges of object area (all, small,
medium, large), K classes in order of id, P pairs.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from tailseg.evaluation.ground_truth import GroundTruth, is_member
from tailseg.evaluation.overlaps import NO_PAIRS, Pairs, argsort_ascending

IOUS = np.linspace(0.5, 0.95, 10)
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
FALSE, FOUND, LEFT_ALONE = 0, 1, 2
_COLUMNS = "rows", "classes", "images", "scores", "areas", "matched"
"""One value for each detection; `Matches.states` has one more for each threshold and range of area."""


@dataclass(frozen=True)
class Candidates:
    """Detections that count, ordered by class, then score (descending), image id and place in the file.

    Attributes:
        rows: int64 ``[n]``, places in the results.
        classes, images: int64 ``[n]`` positions in order of id.
        scores: float64 ``[n]``.
        areas: float64 ``[n]``, of boxes or masks.
        pairs: overlapping detections and objects of one class and image.
        around: the same of one image, whatever their classes; None where nobody asked.
    """

    rows: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    pairs: Pairs
    around: Pairs | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)


def _keep_detections(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """The pairs of the detections that are kept, which get new positions."""
    pairs = pairs.take(np.flatnonzero(kept[pairs.detections]))
    return replace(pairs, detections=(np.cumsum(kept) - 1)[pairs.detections])


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

    def select(self, rows: np.ndarray) -> "Matches":
        """Those at some rows of the results (ascending), as if they had been matched alone.

        What is left out must have the lowest scores of its class in its image: it was matched last.
        """
        kept = is_member(self.rows, rows)
        if kept.all():
            return self
        return replace(
            self,
            **{name: getattr(self, name)[kept] for name in _COLUMNS},
            pairs=_keep_detections(self.pairs, kept),
            around=None if self.around is None else _keep_detections(self.around, kept),
            states=self.states.take(np.flatnonzero(kept), axis=-1),
        )

    def select_images(self, images: np.ndarray) -> "Matches":
        """Those of some images (bool ``[images]``), as if there were no others; overlaps are left out."""
        kept = self.take(np.flatnonzero(images[self.images]))
        wanted = images[self.object_images]
        positions, objects = np.cumsum(images) - 1, np.cumsum(wanted) - 1
        return replace(
            kept,
            images=positions[kept.images],
            matched=np.where(kept.matched >= 0, objects[kept.matched], -1),
            wanted=self.wanted[:, wanted],
            object_classes=self.object_classes[wanted],
            object_images=positions[self.object_images[wanted]],
            num_images=int(images.sum()),
        )

    def take(self, positions: np.ndarray) -> "Matches":
        """Those at some positions (ascending), whatever found the objects; overlaps are left out."""
        columns = {name: getattr(self, name)[positions] for name in _COLUMNS}
        return replace(self, **columns, pairs=NO_PAIRS, around=None, states=self.states.take(positions, axis=-1))

    def num_objects(self, area: int = 0) -> np.ndarray:
        """int64 ``[K]``: objects of an area range that are to be found."""
        return np.bincount(self.object_classes[self.wanted[area]], minlength=self.num_classes)

    def segments(self) -> list[slice]:
        """K slices: the detections of each class."""
        edges = np.searchsorted(self.classes, np.arange(self.num_classes + 1)).tolist()
        return [slice(low, high) for low, high in pairwise(edges)]


def sort_for_matching(classes: np.ndarray, images: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Positions by class, then score (descending), image and place.

    Args:
        classes: int64 ``[n]``.
        images: int64 ``[n]``.
        scores: float64 ``[n]``.

    Returns:
        int64 ``[n]``.
    """
    by_image = argsort_ascending(images)
    order = by_image[sort_best_first(scores[by_image])]
    return order[argsort_ascending(classes[order])]


def sort_best_first(scores: np.ndarray) -> np.ndarray:
    """Positions by score (descending), equal ones as they come: a stable sort, in a fifth of its time."""
    order = np.argsort(-scores)
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[order] = np.cumsum(np.diff(scores[order], prepend=scores[order[:1]]) != 0)
    bits = len(scores).bit_length()
    ranks <<= bits
    ranks |= np.arange(len(scores))
    ranks.sort()
    return ranks & ((1 << bits) - 1)


def match(truth: GroundTruth, candidates: Candidates) -> Matches:
    """Matches detections, best score first, each with the free object of its class that it overlaps most."""
    objects = truth.objects
    low, high = np.asarray(AREAS).T[..., None]
    wanted = ~objects.crowds & (objects.areas >= low) & (objects.areas <= high)
    keys = candidates.images * len(truth.categories) + candidates.classes
    alone = (candidates.areas < low) | (candidates.areas > high) | is_member(keys, truth.not_exhaustive)
    states = np.repeat(np.where(alone, np.uint8(LEFT_ALONE), np.uint8(FALSE))[:, None], len(IOUS), axis=1)
    matched = np.full(len(candidates), -1)
    near = candidates.pairs.take(np.flatnonzero(candidates.pairs.overlaps >= IOUS[0]))
    rivals, places = np.unique(near.detections, return_inverse=True)
    near = replace(near, detections=places)
    near, rank = _sort_by_preference(near, _rank_among_rivals(keys[rivals])[places])
    for area in range(len(AREAS)):
        found = _match_in_rounds(_sort_wanted_first(near, wanted[area]), rank, objects.crowds, len(rivals))
        threshold, which = np.nonzero(found >= 0)
        of_wanted = wanted[area][found[threshold, which]]
        states[area, threshold, rivals[which]] = np.where(of_wanted, FOUND, LEFT_ALONE)
        if area == 0:
            matched[rivals] = np.where(states[0, 0, rivals] == FOUND, found[0], -1)
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


def _rank_among_rivals(keys: np.ndarray) -> np.ndarray:
    """How many detections of the same image and class (key) precede each."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return rank


def _sort_by_preference(near: Pairs, rank: np.ndarray) -> tuple[Pairs, np.ndarray]:
    """Pairs in rounds of equal rank, a detection's as it prefers: most overlap, then the later object."""
    order = np.lexsort((-near.objects, -near.overlaps, near.detections, rank))
    return near.take(order), rank[order]


def _sort_wanted_first(near: Pairs, wanted: np.ndarray) -> Pairs:
    """Each detection's pairs with wanted objects before its others."""
    groups = np.cumsum(np.diff(near.detections, prepend=-1) != 0)
    return near.take(argsort_ascending(2 * groups + ~wanted[near.objects]))


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
