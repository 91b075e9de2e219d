"""Kinds of error and what each costs, after TIDE, under LVIS's federated rules.

A false positive at IoU 0.5 is, by the first that holds (s: its best overlap with an object of its class, o: with an
object of another class, both of the same image):

- localization: 0.1 <= s <= 0.5
- classification: o >= 0.5
- duplicate: s >= 0.5 with an object that a better detection has found
- background: s <= 0.1 and o <= 0.1
- both (wrong class and place): all others

missed: an object that is not found, and that no localization or classification error points at. Detections that LVIS
leaves alone (their class was not looked for in the image, or not all objects of it are annotated) are no errors.

D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020.

Shapes: n detections, M objects, P pairs, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tailseg.annotations.types import Group
from tailseg.evaluation.detections import find_surroundings
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import FALSE, FOUND, LEFT_ALONE, Matches, sort_best_first
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import Pairs, argsort_ascending
from tailseg.evaluation.precision import compute_precision_curves, count_objects_needed
from tailseg.evaluation.results import Results

Kind = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
CORRECT, BACKGROUND_BELOW = 0.5, 0.1
Part = Literal["all", "r", "c", "f"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class ErrorKinds:
    """The number of errors of each kind in a part of the classes, and what they cost.

    Attributes:
        counts: by kind, of false positives by their own class, of missed objects by theirs.
        cost: by kind, the AP50 (0..1, mean over the part's classes) to be won if none of this kind were made. Costs do
            not add up: fixing one kind changes what another costs. None where the part has no object, and of missed
            objects where they are all that is wrong in every class: no class is left to take the mean of.
        found, num_objects: objects found at IoU 0.5, and all of them.
        AP50: as it is.
    """

    counts: dict[Kind, int]
    cost: dict[Kind, float | None]
    found: int
    num_objects: int
    AP50: float | None


@dataclass(frozen=True)
class Errors:
    """Errors of one evaluation.

    Attributes:
        parts: all classes, rare, common and frequent ones; groups without a class are left out.
        per_class: int64 ``[K, 6]``: counts, the kinds in the order of `KINDS`, classes in order of id.
    """

    parts: Mapping[Part, ErrorKinds]
    per_class: np.ndarray


@dataclass(frozen=True)
class Labeled:
    """What is wrong with each detection, and what would correct it.

    Attributes:
        kinds: int64 ``[n]``, a position in `KINDS`, or -1 where nothing is wrong.
        targets: int64 ``[n]``, the object that a localization or classification error means, or -1.
        missed: bool ``[M]``.
    """

    kinds: np.ndarray
    targets: np.ndarray
    missed: np.ndarray


def sort_errors(truth: GroundTruth, found: Results, matches: Matches, iou_type: IouType) -> Errors:
    """Sorts the errors of an evaluation by kind and group, and computes what each kind costs.

    Args:
        truth: the ground truth.
        found: the results.
        matches: by `match_results`.
        iou_type: what overlaps: boxes or masks.

    Returns:
        The errors of all classes and of each frequency group.
    """
    around = matches.around
    if around is None:
        around = find_surroundings(truth, found, matches.rows, matches.images, iou_type)
    labeled = label_errors(matches, around)
    per_class = np.zeros((matches.num_classes, len(KINDS)), dtype=np.int64)
    wrong = labeled.kinds >= 0
    np.add.at(per_class, (matches.classes[wrong], labeled.kinds[wrong]), 1)
    np.add.at(per_class, (matches.object_classes[labeled.missed], MISSED), 1)
    state = matches.states[0, 0]
    current = _compute_ap50(matches.classes, state == FOUND, state == FALSE, matches.num_objects())
    places = _rank_detections(matches)
    fixed = np.stack([_compute_fixed_ap50(matches, labeled, kind, places) for kind in range(len(KINDS))])
    found_per_class = np.bincount(matches.object_classes[_is_found(matches)], minlength=matches.num_classes)
    parts = {
        part: ErrorKinds(
            counts=dict(zip(KINDS, per_class[members].sum(0).tolist(), strict=True)),
            cost={kind: _compute_cost(fixed[index, members], current[members]) for index, kind in enumerate(KINDS)},
            found=int(found_per_class[members].sum()),
            num_objects=int(matches.num_objects()[members].sum()),
            AP50=_mean(current[members]),
        )
        for part, members in find_members(truth.class_groups).items()
    }
    return Errors(parts, per_class)


def find_members(groups: tuple[Group | None, ...]) -> dict[Part, np.ndarray]:
    """Which classes belong to each part, bool ``[K]``; parts without a class are left out."""
    members: dict[Part, np.ndarray] = {"all": np.ones(len(groups), dtype=bool)}
    members |= {part: np.array([group == part for group in groups]) for part in PARTS[1:]}
    return {part: rows for part, rows in members.items() if rows.any()}


def label_errors(matches: Matches, around: Pairs) -> Labeled:
    """The kind of every false positive, and the objects that nothing points at.

    Args:
        matches: by `match_results`.
        around: detections and objects of one image that overlap, whatever their classes.
    """
    false = matches.states[0, 0] == FALSE
    wanted = matches.wanted[0]
    near = around.take(np.flatnonzero(false[around.detections] & wanted[around.objects]))
    own = matches.classes[near.detections] == matches.object_classes[near.objects]
    same, same_object = _find_best_overlap(near.take(np.flatnonzero(own)), len(matches))
    other, other_object = _find_best_overlap(near.take(np.flatnonzero(~own)), len(matches))
    kinds = np.full(len(matches), -1)
    poor = false & (same >= BACKGROUND_BELOW) & (same <= CORRECT)
    kinds[poor] = LOCALIZATION
    rest = np.flatnonzero(false & ~poor)
    kinds[rest] = np.select(
        [other[rest] >= CORRECT, same[rest] >= CORRECT, np.maximum(same, other)[rest] <= BACKGROUND_BELOW],
        [CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    targets = np.select([kinds == LOCALIZATION, kinds == CLASSIFICATION], [same_object, other_object], -1)
    pointed_at = np.zeros(len(wanted), dtype=bool)
    pointed_at[targets[targets >= 0]] = True
    return Labeled(kinds, targets, wanted & ~_is_found(matches) & ~pointed_at)


def _is_found(matches: Matches) -> np.ndarray:
    """Objects found at IoU 0.5, bool ``[M]``."""
    found = np.zeros(len(matches.object_classes), dtype=bool)
    found[matches.matched[matches.matched >= 0]] = True
    return found


def _find_best_overlap(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest overlap of each detection, and its object (the first of equals); 0 and -1 without."""
    order = np.lexsort((pairs.objects, -pairs.overlaps, pairs.detections))
    detections = pairs.detections[order]
    first = order[np.flatnonzero(np.diff(detections, prepend=-1))]
    overlap, which = np.zeros(num_detections), np.full(num_detections, -1)
    overlap[pairs.detections[first]] = pairs.overlaps[first]
    which[pairs.detections[first]] = pairs.objects[first]
    return overlap, which


def _rank_detections(matches: Matches) -> np.ndarray:
    """Where each detection stands by score (descending), image and place, whatever its class: ``[n]``."""
    by_image = argsort_ascending(matches.images)
    places = np.empty(len(matches), dtype=np.int64)
    places[by_image[sort_best_first(matches.scores[by_image])]] = np.arange(len(matches))
    return places


def _compute_fixed_ap50(matches: Matches, labeled: Labeled, kind: int, places: np.ndarray) -> np.ndarray:
    """AP50 ``[K]`` without the errors of one kind, NaN for a class without objects.

    As in TIDE: the best of the detections that point at an object not found finds it, with the right class and place;
    all others of the kind go, and missed objects are left out. A class that is then without objects is NaN
    if it has no detection either, and leaves the mean; its false detections keep it at 0.
    """
    state = matches.states[0, 0]
    correct, false = state == FOUND, state == FALSE
    num_objects = matches.num_objects()
    if kind == MISSED:
        missed = np.bincount(matches.object_classes[labeled.missed], minlength=matches.num_classes)
        num_left = num_objects - missed
        fixed = _compute_ap50(matches.classes, correct, false, num_left)
        has_false = np.bincount(matches.classes[false], minlength=matches.num_classes) > 0
        return np.where((num_objects > 0) & (num_left == 0) & has_false, 0, fixed)
    wrong = labeled.kinds == kind
    corrected = wrong & _is_best_pointer(matches, labeled)
    correct, false = correct | corrected, false & ~wrong
    moved = np.flatnonzero(corrected)
    classes = matches.object_classes[labeled.targets[moved]]
    differ = classes != matches.classes[moved]
    if not differ.any():
        return _compute_ap50(matches.classes, correct, false, num_objects)
    order, classes = _move_detections(matches, moved[differ], classes[differ], places)
    return _compute_ap50(classes, correct[order], false[order], num_objects)


def _move_detections(
    matches: Matches, moved: np.ndarray, classes: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`sort_for_matching` of detections of which some (positions, ascending) move to other classes; and all classes."""
    rest = np.delete(np.arange(len(matches)), moved)
    keys = classes * len(matches) + places[moved]
    order = np.argsort(keys)
    at = np.searchsorted(matches.classes[rest] * len(matches) + places[rest], keys[order])
    return np.insert(rest, at, moved[order]), np.insert(matches.classes[rest], at, classes[order])


def _is_best_pointer(matches: Matches, labeled: Labeled) -> np.ndarray:
    """Whether a detection is the best of those that point at an object not found, bool ``[n]``."""
    points = np.flatnonzero(labeled.targets >= 0)
    points = points[~_is_found(matches)[labeled.targets[points]]]
    order = points[np.lexsort((-matches.scores[points], labeled.targets[points]))]
    best = np.zeros(len(matches), dtype=bool)
    best[order[np.flatnonzero(np.diff(labeled.targets[order], prepend=-1))]] = True
    return best


def _compute_ap50(classes: np.ndarray, correct: np.ndarray, false: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    """AP of each class, ``[K]``, from detections in order; NaN without objects."""
    state = np.where(correct, np.uint8(FOUND), np.where(false, np.uint8(FALSE), np.uint8(LEFT_ALONE)))
    curves, _ = compute_precision_curves(classes, state, num_objects, count_objects_needed(num_objects))
    return np.where(num_objects > 0, curves.mean(1), np.nan)


def _compute_cost(fixed: np.ndarray, current: np.ndarray) -> float | None:
    before, after = _mean(current), _mean(fixed)
    return None if before is None or after is None else after - before


def _mean(values: np.ndarray) -> float | None:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if scored.size else None
