"""Kinds of error and what each costs, after TIDE, under LVIS's federated rules.

A false positive at IoU 0.5 is, by the first that holds (s: its best overlap with an object of its class, o: with an
object of another class, both of the same image):

- localisation: 0.1 <= s <= 0.5
- classification: o >= 0.5
- duplicate: s >= 0.5 with an object that a better detection has found
- background: s <= 0.1 and o <= 0.1
- both (wrong class and place): all others

missed: an object that is not found, and that no localisation or classification error points at. Detections that LVIS
leaves alone (their class was not looked for in the image, or not all objects of it are annotated) are no errors.

D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020.

Shapes: n detections, M objects, P pairs, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tailseg.annotations.types import Group
from tailseg.evaluation.detections import overlaps
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.matches import FALSE, FOUND, Matches, order_of_match
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.overlaps import Pairs, pairs_of_equal
from tailseg.evaluation.precision import precision_curve
from tailseg.evaluation.results import Results

Kind = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
CORRECT, BACKGROUND_BELOW = 0.5, 0.1
Part = Literal["all", "r", "c", "f"]
PARTS: tuple[Part, ...] = get_args(Part)
CHUNK = 100_000
"""Detections whose overlaps with all objects of their images are computed at a time."""


@dataclass(frozen=True)
class ErrorKinds:
    """How many errors of each kind there are in a part of the classes, and what they cost.

    Attributes:
        counts: by kind, of false positives by their own class, of missed objects by theirs.
        cost: by kind, the AP50 (0..1, mean over the part's classes) to be won if none of this kind were made. Costs do
            not add up: fixing one kind changes what another costs. None where the part has no object.
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
class Labelled:
    """What is wrong with each detection, and what would mend it.

    Attributes:
        kinds: int64 ``[n]``, a position in `KINDS`, or -1 where nothing is wrong.
        targets: int64 ``[n]``, the object that a localisation or classification error means, or -1.
        missed: bool ``[M]``.
    """

    kinds: np.ndarray
    targets: np.ndarray
    missed: np.ndarray


def error_kinds(truth: GroundTruth, found: Results, matches: Matches, iou_type: IouType) -> Errors:
    """Sorts the errors of an evaluation by kind and group, and says what each kind costs.

    Args:
        truth, found, iou_type: what was matched.
        matches: by `match_results`.
    """
    labelled = label(truth, found, matches, iou_type)
    per_class = np.zeros((matches.num_classes, len(KINDS)), dtype=np.int64)
    wrong = labelled.kinds >= 0
    np.add.at(per_class, (matches.classes[wrong], labelled.kinds[wrong]), 1)
    np.add.at(per_class, (matches.object_classes[labelled.missed], MISSED), 1)
    state = matches.states[0, 0]
    current = _ap50(matches.classes, state == FOUND, state == FALSE, matches.num_objects())
    fixed = np.stack([_fixed_ap50(matches, labelled, kind, current) for kind in range(len(KINDS))])
    found_per_class = np.bincount(matches.object_classes[_found(matches)], minlength=matches.num_classes)
    parts = {
        part: ErrorKinds(
            counts=dict(zip(KINDS, per_class[members].sum(0).tolist(), strict=True)),
            cost={kind: _cost(fixed[index, members], current[members]) for index, kind in enumerate(KINDS)},
            found=int(found_per_class[members].sum()),
            num_objects=int(matches.num_objects()[members].sum()),
            AP50=_mean(current[members]),
        )
        for part, members in members_of_parts(truth.class_groups).items()
    }
    return Errors(parts, per_class)


def members_of_parts(groups: tuple[Group | None, ...]) -> dict[Part, np.ndarray]:
    """Which classes belong to each part, bool ``[K]``; parts without a class are left out."""
    members: dict[Part, np.ndarray] = {"all": np.ones(len(groups), dtype=bool)}
    members |= {part: np.array([group == part for group in groups]) for part in PARTS[1:]}
    return {part: rows for part, rows in members.items() if rows.any()}


def label(truth: GroundTruth, found: Results, matches: Matches, iou_type: IouType) -> Labelled:
    """The kind of every false positive, and the objects that nothing points at."""
    false = matches.states[0, 0] == FALSE
    wanted = matches.wanted[0]
    own = matches.pairs.take(np.flatnonzero(false[matches.pairs.detections] & wanted[matches.pairs.objects]))
    same, same_object = _best(own, len(matches))
    kinds = np.full(len(matches), -1)
    poor = false & (same >= BACKGROUND_BELOW) & (same <= CORRECT)
    kinds[poor] = LOCALISATION
    rest = np.flatnonzero(false & ~poor)
    other, other_object = _best_of_other_classes(truth, found, matches, iou_type, rest)
    kinds[rest] = np.select(
        [other[rest] >= CORRECT, same[rest] >= CORRECT, np.maximum(same, other)[rest] <= BACKGROUND_BELOW],
        [CLASSIFICATION, DUPLICATE, BACKGROUND],
        BOTH,
    )
    targets = np.select([kinds == LOCALISATION, kinds == CLASSIFICATION], [same_object, other_object], -1)
    pointed_at = np.zeros(len(wanted), dtype=bool)
    pointed_at[targets[targets >= 0]] = True
    return Labelled(kinds, targets, wanted & ~_found(matches) & ~pointed_at)


def _found(matches: Matches) -> np.ndarray:
    """Objects found at IoU 0.5, bool ``[M]``."""
    found = np.zeros(len(matches.object_classes), dtype=bool)
    found[matches.matched[matches.matched >= 0]] = True
    return found


def _best(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest overlap of each detection, and its object (the first of equals); 0 and -1 without."""
    order = np.lexsort((pairs.objects, -pairs.overlaps, pairs.detections))
    detections = pairs.detections[order]
    first = order[np.flatnonzero(np.diff(detections, prepend=-1))]
    overlap, which = np.zeros(num_detections), np.full(num_detections, -1)
    overlap[pairs.detections[first]] = pairs.overlaps[first]
    which[pairs.detections[first]] = pairs.objects[first]
    return overlap, which


def _best_of_other_classes(
    truth: GroundTruth, found: Results, matches: Matches, iou_type: IouType, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `_best`, among the wanted objects of other classes, for the detections ``rest``."""
    overlap, which = np.zeros(len(matches)), np.full(len(matches), -1)
    objects = np.flatnonzero(matches.wanted[0])
    rest = rest[np.argsort(matches.images[rest], kind="stable")]
    for start in range(0, len(rest), CHUNK):
        some = rest[start : start + CHUNK]
        at, among = pairs_of_equal(matches.images[some], matches.object_images[objects])
        detections, others = some[at], objects[among]
        differ = matches.classes[detections] != matches.object_classes[others]
        detections, others = detections[differ], others[differ]
        pairs = overlaps(truth, found, matches.rows, detections, others, matches.images[detections], iou_type)
        best, best_object = _best(pairs, len(matches))
        overlap[some], which[some] = best[some], best_object[some]
    return overlap, which


def _fixed_ap50(matches: Matches, labelled: Labelled, kind: int, current: np.ndarray) -> np.ndarray:
    """AP50 ``[K]`` without the errors of one kind, NaN for a class without objects, where ``current`` is.

    As in TIDE: the best of the detections that point at an object not found finds it, with the right class and place;
    all others of the kind go, and missed objects are no longer asked for.
    """
    state = matches.states[0, 0]
    correct, false = state == FOUND, state == FALSE
    num_objects = matches.num_objects()
    if kind == MISSED:
        missed = np.bincount(matches.object_classes[labelled.missed], minlength=matches.num_classes)
        # a class whose objects were all missed stays at 0, as in TIDE: the mean is over the same classes
        return np.where(
            num_objects == missed, 0 * current, _ap50(matches.classes, correct, false, num_objects - missed)
        )
    wrong = labelled.kinds == kind
    mended = wrong & _points_best(matches, labelled)
    classes = matches.classes.copy()
    classes[mended] = matches.object_classes[labelled.targets[mended]]
    order = order_of_match(classes, matches.images, matches.scores)
    return _ap50(classes[order], (correct | mended)[order], (false & ~wrong)[order], num_objects)


def _points_best(matches: Matches, labelled: Labelled) -> np.ndarray:
    """Whether a detection is the best of those that point at an object not found, bool ``[n]``."""
    points = np.flatnonzero(labelled.targets >= 0)
    points = points[~_found(matches)[labelled.targets[points]]]
    order = points[np.lexsort((-matches.scores[points], labelled.targets[points]))]
    best = np.zeros(len(matches), dtype=bool)
    best[order[np.flatnonzero(np.diff(labelled.targets[order], prepend=-1))]] = True
    return best


def _ap50(classes: np.ndarray, correct: np.ndarray, false: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    """AP of each class, ``[K]``, from detections in order; NaN without objects."""
    values = np.full(len(num_objects), np.nan)
    state = np.where(correct, FOUND, FALSE)
    counts = correct | false
    classes, state = classes[counts], state[counts]
    edges = np.searchsorted(classes, np.arange(len(num_objects) + 1))
    for index in np.flatnonzero(num_objects > 0).tolist():
        curve, _ = precision_curve(state[edges[index] : edges[index + 1]], int(num_objects[index]))
        values[index] = curve.mean()
    return values


def _cost(fixed: np.ndarray, current: np.ndarray) -> float | None:
    before, after = _mean(current), _mean(fixed)
    return None if before is None or after is None else after - before


def _mean(values: np.ndarray) -> float | None:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if scored.size else None
