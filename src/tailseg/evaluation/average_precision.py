"""Average precision, with the checks that the engines leave out.

Shapes: T IoU thresholds (0.50, 0.55 .. 0.95), P recall points (0, 0.01 .. 1), K categories in order of id,
4 ranges of object area (all, small, medium, large), n result records.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tailseg.annotations.json_file import pause_garbage_collector
from tailseg.annotations.types import Group
from tailseg.deprecated import renamed_arguments
from tailseg.evaluation.detections import get_areas, select_best_of_each_image
from tailseg.evaluation.engines import ENGINES, Engine
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.image_numbering import describe_image_numbering
from tailseg.evaluation.metrics import ROW_NAMES, ClassScore, IouType, Metrics, format_percent
from tailseg.evaluation.numbering import describe_category_names, describe_category_numbering
from tailseg.evaluation.plausible import describe_crowded_images, describe_doubts, describe_untested_images
from tailseg.evaluation.precision import Curves
from tailseg.evaluation.reading import read_sources
from tailseg.evaluation.results import Results
from tailseg.evaluation.sources import (
    AnnotationSource,
    GroupsSource,
    ResultsSource,
    get_sources,
    open_annotations,
    read_truth,
)
from tailseg.evaluation.survey import Source
from tailseg.words import count_noun, verb_form

MAX_DETECTIONS = {"lvis": 300, "coco": 100}
GROUPS: tuple[Group, ...] = ("r", "c", "f")


@renamed_arguments(annotations_json="annotations")
@pause_garbage_collector()
def evaluate(
    annotations: AnnotationSource,
    results: ResultsSource,
    *,
    train: AnnotationSource | None = None,
    groups: GroupsSource | None = None,
    iou_types: Sequence[IouType] | None = None,
    max_detections: int | None = None,
    engine: Engine = "tailseg",
) -> Metrics:
    """Scores results: LVIS AP (federated) if the annotation file has LVIS's lists, COCO AP if not.

    LVIS: equal to lvis-api; the best ``max_detections`` of an image count, whatever their class, and detections without
    area are dropped. COCO: equal to pycocotools, a mask's area taken from the mask; the best ``max_detections`` of each
    class in an image count. Crowds: see `tailseg.evaluation`.

    Args:
        annotations: the ground truth: the path of an annotation file, its content as a dict, or `Annotations`.
        results: the path of a results file, a list of COCO-style result records, or a dict of these with the keys
            ``"bbox"`` and ``"segm"``. Without any record all scores are 0.
        train: the training set, like ``annotations``. Its image counts make classes rare, common and frequent, unless
            the annotations or the training set state groups (LVIS's ``frequency``).
        groups: bounds of the frequency groups: rare up to the first number of training images, common up to the second
            one, frequent above. They need ``train`` and replace groups that a file states. None uses stated groups,
            else LVIS's bounds (10, 100). Or a dict from category id to group, for classes with training images.
        iou_types: what is scored: ``"bbox"``, ``"segm"`` or both; None scores what the first records have.
        max_detections: None is the protocol's own number: 300 (LVIS), 100 (COCO).
        engine: what computes precision and recall; see `tailseg.evaluation.engines`.

    Returns:
        The scores; a notebook shows them as a table.

    Raises:
        TypeError: the annotations or the results are of a type that is not listed above.
        FileNotFoundError: a file does not exist.
        ValueError: the files are malformed or do not belong together; the message says where and what to do.
    """
    check_max_detections(max_detections)
    opened = open_annotations(annotations)
    sources = get_sources(results, iou_types, opened)
    truth = read_truth(opened, masks="segm" in sources, train=train, groups=groups)
    return evaluate_truth(truth, sources, max_detections=max_detections, engine=engine)


@pause_garbage_collector()
def evaluate_truth(
    truth: GroundTruth,
    sources: Mapping[IouType, Source],
    *,
    max_detections: int | None = None,
    engine: Engine = "tailseg",
) -> Metrics:
    """Does the work of `evaluate` after the annotation file has been read.

    Args:
        truth: the ground truth, with masks if masks are scored.
        sources: the results file or the records for each kind of overlap.
        max_detections: see `evaluate`.
        engine: see `evaluate`.

    Returns:
        The scores.

    Raises:
        FileNotFoundError, ValueError: as `evaluate`.
    """
    cap = max_detections or MAX_DETECTIONS[truth.protocol]
    detections = read_sources(sources, truth, cap=cap)
    best = {
        key: select_best_of_each_image(records, truth, cap) for key, records in _without_repeats(detections).items()
    }
    curves = {
        iou_type: Curves.of_all(*ENGINES[engine](truth, records, best[id(records)], iou_type))
        for iou_type, records in detections.items()
    }
    return compute_metrics(truth, detections, curves, sources=sources, max_detections=cap, engine=engine)


def _without_repeats(detections: Mapping[IouType, Results]) -> dict[int, Results]:
    """The results by their identity: boxes and masks are often of the same ones."""
    return {id(records): records for records in detections.values()}


def check_max_detections(max_detections: int | None) -> None:
    """Raises ValueError if no detection would count."""
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections should be at least 1, got {max_detections}")


def compute_metrics(
    truth: GroundTruth,
    found: Mapping[IouType, Results],
    curves: Mapping[IouType, Curves],
    *,
    sources: Mapping[IouType, Source],
    max_detections: int,
    engine: Engine,
) -> Metrics:
    """Computes the scores from precision and recall, and the notes on annotations and results.

    Args:
        truth: the ground truth.
        found: the results by kind of overlap.
        curves: precision and recall by kind of overlap.
        sources: where the results came from.
        max_detections: how many detections of an image (LVIS), or of each class in an image (COCO), count.
        engine: what computed the curves.

    Returns:
        The scores, with those of each class.
    """
    figures = {iou_type: compute_scores(some, truth) for iou_type, some in curves.items()}
    kind: IouType = "bbox" if "bbox" in found else "segm"
    AP50 = figures[kind]["AP50"]
    lines = [*truth.notes, *describe_results(found, truth)]
    if isinstance(sources[kind], str | Path):
        lines.append(describe_untested_images(found[kind], truth))
    if max_detections >= MAX_DETECTIONS[truth.protocol]:  # fewer were asked for
        lines.append(describe_crowded_images(truth, max_detections))
    if AP50 is not None:
        asked = truth, found[kind], sources[kind], kind, AP50, max_detections
        lines.append(
            describe_category_numbering(*asked)
            or describe_image_numbering(*asked)
            or describe_category_names(truth, sources[kind])
        )
    lines.append(describe_ungrouped(truth, curves, figures))
    if engine == "lvis-api" and truth.objects.crowds.any():
        lines.append(
            f"lvis-api has no crowds: tailseg gives it the {count_noun(int(truth.objects.crowds.sum()), 'crowd')} of "
            "this file as ignored objects. Of several detections in one crowd it ignores one and counts the others as "
            "false"
        )
    return Metrics(
        scores=figures,
        per_class={iou_type: compute_class_scores(some, truth) for iou_type, some in curves.items()},
        protocol=truth.protocol,
        max_detections=max_detections,
        num_images=len(truth.sizes),
        num_detections=max(map(len, found.values())),
        notes=tuple(filter(None, lines)),
    )


def compute_scores(curves: Curves, truth: GroundTruth) -> dict[str, float | None]:
    """The scores of `Metrics`."""
    return summarize(curves.precision, curves.recall, [truth.class_groups[index] for index in curves.classes.tolist()])


def summarize(precision: np.ndarray, recall: np.ndarray, groups: Sequence[Group | None]) -> dict[str, float | None]:
    """The scores of `Metrics` from precision and recall.

    Args:
        precision: ``[T, P, K, A]``.
        recall: ``[T, K, A]``.
        groups: the frequency groups of the K classes.

    Returns:
        The scores by name.
    """
    known, of_all = _select_scored(precision, recall, 0)
    scores = {"AP": _mean(of_all), "AP50": _mean(of_all[0]), "AP75": _mean(of_all[5])}
    for group in GROUPS:
        members = [index for index, other in enumerate(known) if groups[other] == group]
        scores[f"AP{group}"] = _mean(of_all[..., members])
        if group == "f":
            scores["AP50f"] = _mean(of_all[0][:, members])
    for index, size in enumerate("sml", start=1):
        scores[f"AP{size}"] = _mean(_select_scored(precision, recall, index)[1])
    for index, size in enumerate(("", "s", "m", "l")):
        values = recall[..., index]
        scores[f"AR{size}"] = _mean(values[values > -1])
    return scores


def _select_scored(precision: np.ndarray, recall: np.ndarray, area: int) -> tuple[list[int], np.ndarray]:
    """The classes that have objects of an area range, and their precision ``[T, P, classes]``."""
    known = np.flatnonzero(recall[0, :, area] > -1)
    return known.tolist(), precision[:, :, known, area]


def _mean(values: np.ndarray) -> float | None:
    """None if there are no values."""
    return float(values.ravel().mean()) if values.size else None


def describe_ungrouped(
    truth: GroundTruth, curves: Mapping[IouType, Curves], figures: Mapping[IouType, Mapping[str, float | None]]
) -> str:
    """The classes with objects that are in no frequency group where others are, and what they change.

    Args:
        truth: the ground truth.
        curves: precision and recall by kind of overlap.
        figures: the scores by kind of overlap.

    Returns:
        The note, or nothing.
    """
    classes = [index for index, group in enumerate(truth.class_groups) if not group and truth.object_counts[index]]
    if not classes or not truth.groups:
        return ""
    names = [list(truth.categories.values())[index] for index in classes]
    as_rare = [group or "r" for group in truth.class_groups]
    changes = []
    for iou_type, (precision, recall, of) in curves.items():
        known, of_all = _select_scored(precision, recall, 0)
        rare = [place for place, index in enumerate(known) if as_rare[of[index]] == "r"]
        found, other = format_percent(figures[iou_type]["APr"]), format_percent(_mean(of_all[..., rare]))
        changes.append(f"APr of {ROW_NAMES[iou_type]} {found} ({other} with them)")
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return (
        f"{count_noun(len(names), 'class')} with objects here {verb_form(len(names), 'has', 'have')} no object in the "
        f"training set ({', '.join(names[:5])}{more}): {verb_form(len(names), 'it counts', 'they count')} in AP and "
        f"{verb_form(len(names), 'is', 'are')} in no frequency group. {', '.join(changes)}"
    )


def compute_class_scores(curves: Curves, truth: GroundTruth) -> tuple[ClassScore, ...]:
    """Those of each class."""
    precision, recall, classes = curves
    known, of_all = _select_scored(precision, recall, 0)
    of_each = np.ascontiguousarray(of_all.transpose(2, 0, 1))
    recalls = np.ascontiguousarray(recall[:, known, 0].T)
    whole = of_each.reshape(len(known), of_all.shape[0] * of_all.shape[1])
    columns = whole.mean(1), of_each[:, 0].mean(1), recalls.mean(1)
    figures = dict(
        zip(classes[known].tolist(), zip(*(column.tolist() for column in columns), strict=True), strict=True)
    )
    nothing = None, None, None
    return tuple(
        ClassScore(
            category_id=key,
            name=name,
            group=truth.groups.get(key),
            num_objects=int(truth.object_counts[index]),
            **dict(zip(("AP", "AP50", "AR"), figures.get(index, nothing), strict=True)),
        )
        for index, (key, name) in enumerate(truth.categories.items())
    )


def describe_results(found: Mapping[IouType, Results], truth: GroundTruth) -> tuple[str, ...]:
    """What the reader should know about the results."""
    fate = "dropped, as lvis-api does" if truth.protocol == "lvis" else "counted as false, as pycocotools does"
    lines = []
    if len(truth.objects) and not truth.object_counts.any():
        count = len(truth.objects)
        every = "the only annotation is a crowd or ignore region"
        every = every if count == 1 else f"all {count:,} annotations are crowd or ignore regions"
        lines.append(f"{every}: there is no object to find, and AP is undefined (were masks exported as crowds?)")
    for iou_type, results in found.items():
        empty = int((get_areas(results, iou_type) <= 0).sum())
        noun, lacking = ("box", "area") if iou_type == "bbox" else ("mask", "a pixel")
        lines += [f"{count_noun(empty, noun)} without {lacking}: {fate}"] if empty else []
    for results in {id(results): results for results in found.values()}.values():
        lines += [*results.notes, *describe_doubts(results, truth)]
        if duplicates := _count_duplicates(results):
            lines.append(
                f"{count_noun(duplicates, 'record')} {verb_form(duplicates, 'repeats', 'repeat')} another one exactly, "
                f"and {verb_form(duplicates, 'counts', 'count')} as false: were images tested twice?"
            )
        if not len(results):
            lines.append("no detections at all: everything scores 0")
    return tuple(lines)


def _count_duplicates(found: Results) -> int:
    """Records that equal an earlier one in image, class, score, and box or mask."""
    columns = [found.image_ids, found.category_ids, found.scores.view(np.int64)]
    if found.boxes is not None:
        columns.extend(found.boxes.view(np.int64).T)
    if found.mask_areas is not None:
        columns.append(found.mask_areas.astype(np.int64))
    digest = np.zeros(len(found), dtype=np.uint64)
    for column in columns:  # equal records have equal digests; one sort instead of eight
        digest ^= column.view(np.uint64)
        digest *= np.uint64(0x9E3779B97F4A7C15)
        digest ^= digest >> np.uint64(29)
    ordered = np.sort(digest)
    if not (ordered[1:] == ordered[:-1]).any():
        return 0
    order = np.argsort(digest, kind="stable")
    earlier, later = order[:-1], order[1:]
    near = digest[earlier] == digest[later]
    earlier, later = earlier[near], later[near]
    for column in columns:
        same = column[earlier] == column[later]
        earlier, later = earlier[same], later[same]
    if found.runs is None:
        return len(later)
    places = found.runs.places
    pairs = zip(places[later].tolist(), places[earlier].tolist(), strict=True)
    return sum(found.runs.text(a) == found.runs.text(b) for a, b in pairs)
