"""The arguments of `evaluate`, `analyze` and `compare`: annotations, results, and the training set for the groups."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tailseg.annotations.dataset import Annotations, get_scored_groups, with_group_bounds
from tailseg.annotations.formats.registry import exists
from tailseg.annotations.read import add_classes, describe_other_names, judge, open_content, open_file
from tailseg.annotations.types import Group, GroupBounds
from tailseg.evaluation.ground_truth import GroundTruth, read_ground_truth
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.results import find_iou_types
from tailseg.evaluation.survey import Source
from tailseg.words import count_noun, verb_form

AnnotationSource = str | Path | Mapping[str, Any] | Annotations
"""The path of an annotation file, its content as a dict, or what tailseg has read of it."""
ResultsSource = Source | Mapping[IouType, Source]
"""The path of a results file, a list of result records, or one of these for boxes and for masks."""
GroupsSource = GroupBounds | Mapping[int, Group]
"""The bounds of the frequency groups in training images, or the group of each category id."""


@dataclass(frozen=True)
class Grouped:
    """Annotations and the frequency groups of their classes.

    Attributes:
        annotations: the annotations, with the classes that the training set has in addition.
        groups: category id -> group; None where the file's own groups are used.
        notes: what the reader should know.
    """

    annotations: Annotations
    groups: Mapping[int, Group] | None = None
    notes: tuple[str, ...] = ()


def open_annotations(source: object, name: str = "annotations") -> Annotations:
    """Opens annotations, whatever their problems.

    Args:
        source: the path of an annotation file, its content as a dict, or `Annotations`.
        name: the argument's name, for messages.

    Returns:
        The annotations.

    Raises:
        TypeError: it is something else.
        FileNotFoundError: there is no such file.
        DatasetError: it is not in COCO or LVIS format.
    """
    if isinstance(source, Annotations):
        return source
    if isinstance(source, str | Path):
        if not exists(Path(source)):
            raise FileNotFoundError(f"no such file: {source}")
        return open_file(Path(source))
    if isinstance(source, Mapping):
        return open_content(json.dumps(source, default=_to_plain).encode(), name)
    raise TypeError(
        f"{name} should be the path of an annotation file, its content as a dict, or Annotations; got "
        f"{_describe_type(source)}"
    )


def get_sources(
    results: object, iou_types: Sequence[IouType] | None, annotations: Annotations
) -> dict[IouType, Source]:
    """Says where the boxes and the masks of results are read.

    Args:
        results: the path of a results file, a list of records, or a dict of these by kind of overlap.
        iou_types: the kinds of overlap that are scored; None scores those that the results have.
        annotations: the annotations; they decide what is scored where there are no records.

    Returns:
        The file or the records for each kind of overlap.

    Raises:
        TypeError: the results are something else.
        ValueError: a kind of overlap is unknown, or no results are given for it.
    """
    check_iou_types(iou_types)
    if isinstance(results, Mapping):
        return _sources_by_kind(results, iou_types)
    source = check_source(results)
    if iou_types is None:
        iou_types = find_iou_types(source) or (("bbox", "segm") if annotations.has_masks else ("bbox",))
    return dict.fromkeys(iou_types, source)


def check_source(results: object, name: str = "results") -> Source:
    """The results, if they are the path of a file or a list of records.

    Raises:
        TypeError: they are something else.
    """
    if isinstance(results, str | Path) or (isinstance(results, Sequence) and not isinstance(results, bytes)):
        return results
    raise TypeError(
        f"{name} should be the path of a results file, a list of result records, or a dict with the keys 'bbox' and "
        f"'segm'; got {_describe_type(results)}"
    )


def check_iou_types(iou_types: object) -> None:
    """Raises ValueError if there is nothing to score, or an unknown kind of overlap."""
    if iou_types is None:
        return
    wrong = isinstance(iou_types, str) or not isinstance(iou_types, Sequence)  # a word is a sequence of letters
    if wrong or not iou_types or not set(iou_types) <= set(get_args(IouType)):
        raise ValueError(f"iou_types is a tuple that names 'bbox', 'segm' or both, got {iou_types!r}")


def read_truth(
    annotations: Annotations,
    *,
    masks: bool,
    train: AnnotationSource | None = None,
    groups: GroupsSource | None = None,
) -> GroundTruth:
    """Prepares annotations for scoring, with the frequency groups of their classes.

    Args:
        annotations: the annotations, as opened.
        masks: whether every object needs a mask.
        train: the training set, for the frequency groups.
        groups: bounds of the groups, or the group of each category id; see `evaluate`.

    Returns:
        The ground truth.

    Raises:
        TypeError, ValueError: the annotations, the training set or the groups cannot be used.
    """
    if isinstance(groups, Mapping):
        if train is not None:
            raise ValueError("groups gives the group of each category, so that train is not used: give one of the two")
        return read_ground_truth(annotations, masks=masks, groups=groups)
    grouped = group_by_training_set(annotations, train, check_bounds(groups))
    truth = read_ground_truth(grouped.annotations, masks=masks, groups=grouped.groups)
    return replace(truth, notes=(*grouped.notes, *truth.notes))


def check_bounds(bounds: object) -> GroupBounds | None:
    """The bounds of frequency groups, if they are two ascending numbers of images.

    Raises:
        ValueError: they are something else.
    """
    if bounds is None:
        return None
    numbers = list(bounds) if isinstance(bounds, tuple | list) else []
    whole = all(isinstance(number, Integral) and not isinstance(number, bool) and number > 0 for number in numbers)
    if len(numbers) == 2 and whole and all(first < second for first, second in pairwise(numbers)):
        return int(numbers[0]), int(numbers[1])
    raise ValueError(
        "groups should be two numbers of training images in ascending order, such as (10, 100), or a dict of category "
        f"ids and their groups 'r', 'c' or 'f'; got {bounds!r:.100}"
    )


def group_by_training_set(
    annotations: Annotations, train: AnnotationSource | None, bounds: GroupBounds | None
) -> Grouped:
    """Finds the frequency groups of the classes that are scored.

    Groups that the annotations state (LVIS's ``frequency``) are used unless bounds are given; then those that the
    training set states; then those by its image counts, with LVIS's bounds. Many tools write only the classes that a
    split has objects of, so the training set may have more classes.

    Args:
        annotations: the annotations that are scored.
        train: the training set; None uses the groups that the annotations state.
        bounds: the most training images of a rare and of a common class.

    Returns:
        The annotations with the classes of both files, and the groups.

    Raises:
        ValueError: bounds are given without a training set, or the training set cannot be used.
    """
    if train is None:
        if bounds is not None:
            raise ValueError(f"groups={bounds} are bounds of training images: name the training set with train=")
        return Grouped(annotations)
    training = judge(
        open_annotations(train, "train"), ["training"]
    )  # the sizes, which the pictures may hold, are not needed
    if bounds is not None:
        training = with_group_bounds(training, bounds)
    name = training.path
    known = {category.id for category in annotations.categories}
    unknown = sorted({category.id for category in training.categories} - known)
    notes: tuple[str, ...] = ()
    if unknown:
        first = ", ".join(map(str, unknown[:5])) + (" .." if len(unknown) > 5 else "")
        has = verb_form(len(unknown), "is", "are")
        notes += (
            f"{count_noun(len(unknown), 'class')} of {name} {has} not in {annotations.path} and not scored ({first})",
        )
    if difference := describe_other_names(annotations.categories, training.categories):
        notes += (f"{difference} {name}: are the frequency groups those of other classes?",)
    groups = None if annotations.states_groups and bounds is None else get_scored_groups(training)
    return Grouped(add_classes(annotations, training.categories), groups, notes)


def _sources_by_kind(results: Mapping[Any, Any], iou_types: Sequence[IouType] | None) -> dict[IouType, Source]:
    if "annotations" in results and "images" in results:
        raise TypeError(
            "results is the content of an annotation file: expected the path of a results file or a list of result "
            "records. The annotations are the first argument, the results the second one"
        )
    known: tuple[IouType, ...] = get_args(IouType)
    unknown = [key for key in results if key not in known]
    if unknown or not results:
        raise ValueError(f"a dict of results should have the keys 'bbox', 'segm' or both; got {list(results)!s:.100}")
    missing = [iou_type for iou_type in iou_types or () if iou_type not in results]
    if missing:
        raise ValueError(f"iou_types names {missing[0]!r}, and the results have the keys {list(results)} only")
    return {kind: check_source(results[kind], f"results[{kind!r}]") for kind in known if kind in (iou_types or results)}


def _to_plain(value: object) -> object:
    """NumPy's numbers and arrays and compressed run lengths as JSON has them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode("ascii")
    raise TypeError(f"annotations hold {_describe_type(value)}, which a JSON file cannot hold")


def _describe_type(value: object) -> str:
    kind = type(value)
    return (
        "None" if value is None else f"an object of type {kind.__module__}.{kind.__qualname__}".replace("builtins.", "")
    )
