"""Reads annotation files for training or evaluation.

A file is parsed once for all uses (`tailseg.annotations.parse`), and a large file is cached
(`tailseg.annotations.cache`). Each use has its own verdict on the problems of the file (`tailseg.annotations.kinds`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tailseg.annotations.cache import read_cached
from tailseg.annotations.dataset import Annotations, Category, Contents, Objects, count_frequency
from tailseg.annotations.formats.registry import describe_missing, exists, make_finder
from tailseg.annotations.image_files import ImageError, ImageFinder
from tailseg.annotations.json_file import Sections
from tailseg.annotations.kinds import KINDS, Use
from tailseg.annotations.parse import find_positions, parse, parse_sections
from tailseg.annotations.pictures import read_size
from tailseg.annotations.problems import DatasetError, Problem, get_verdicts, refuse
from tailseg.annotations.types import ClassCounts, Orientation
from tailseg.words import count_noun, inflect, verb_form

OnProblem = Literal["refuse", "repair"]
Crowds = Literal["ignore", "objects"]


def read_dataset(
    annotation_file: str | Path,
    *,
    images: str | Path | None = None,
    frequency_from: Annotations | None = None,
    use: Use | Sequence[Use] = "training",
    on_problem: OnProblem = "refuse",
    crowds: Crowds = "ignore",
) -> Annotations:
    """Reads and checks an annotation file.

    Args:
        annotation_file: LVIS v1, LVIS v0.5 or COCO format (JSON, or JSON packed by gzip), or labels of another
            format (`tailseg.annotations.formats.registry`).
        images: folder of the images. If None, images are searched in the folder of the annotation file, in its
            subfolder ``images``, in the folder above, one folder lower than these, and in ``$TAILSEG_DATA`` and
            ``$DETECTRON2_DATASETS/coco``. Files are searched when they are needed, by ``file_name`` and by the tail of
            ``coco_url``.
        frequency_from: the training set, if this file is a validation set. It gives the classes, their frequencies,
            and their groups if this file states none.
        use: one or several uses of the file. They decide what is refused, see `tailseg.annotations.kinds`.
        on_problem: refuse a file with unusable objects, or leave these objects out (repair) with a note that counts
            them.
        crowds: ignore crowd regions, or read them as objects.

    Returns:
        The annotations. Their notes are also given as warnings.

    Raises:
        DatasetError: the file does not exist, is not JSON, not in COCO format, empty, or has malformed records. It is a
            ``ValueError`` that names the file, the first records of each kind of problem, and the remedy.
    """
    path = Path(annotation_file)
    uses: Sequence[Use] = [use] if isinstance(use, str) else use  # ty: ignore[invalid-assignment] - a Use is a str
    annotations = open_file(path, images=images, needs_sizes=any(name.startswith("training") for name in uses))
    annotations = judge(annotations, uses, on_problem=on_problem, crowds=crowds)
    if frequency_from is not None:
        annotations = adopt_training_classes(annotations, frequency_from)
    for note in annotations.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return annotations


def open_file(
    path: Path,
    *,
    images: str | Path | None = None,
    needs_sizes: bool = False,
    source: Path | None = None,
    orientation: Orientation = "shown",
) -> Annotations:
    """Reads an annotation file with all its problems; `judge` decides whether a use accepts them.

    Args:
        path: the file.
        images: folder of the images, see `read_dataset`.
        needs_sizes: whether missing sizes are read from the image files.
        source: the file that this file was split from. Images are searched where those of that file are.
        orientation: how images with an EXIF orientation are read, if their annotated size allows both ways.

    Returns:
        The annotations, without notes.

    Raises:
        DatasetError: the file does not exist, is not JSON, or not in COCO format.
    """
    if not exists(path):
        raise DatasetError(describe_missing(path))
    contents = read_cached(path, parse) if path.is_file() else parse(path)
    return _open(contents, path, images=images, needs_sizes=needs_sizes, source=source, orientation=orientation)


def open_records(
    path: Path, *, images: str | Path | None = None, needs_sizes: bool = False
) -> tuple[Annotations, Sections]:
    """Reads a data set once, for its annotations as `open_file` gives them and for its records.

    Args:
        path: the file or the folder, or ``PATH:SPLIT``.
        images: folder of the images, see `read_dataset`.
        needs_sizes: whether missing sizes are read from the image files.

    Returns:
        The annotations, without notes, and the sections.

    Raises:
        DatasetError: there are no labels, or they cannot be read.
    """
    if not exists(path):
        raise DatasetError(describe_missing(path))
    contents, sections, _ = parse_sections(path)
    return _open(contents, path, images=images, needs_sizes=needs_sizes), sections


def open_content(content: bytes, name: str) -> Annotations:
    """Reads the JSON text of an annotation file that is in memory.

    Args:
        content: the text.
        name: name of the file in messages.

    Returns:
        The annotations, without notes.

    Raises:
        DatasetError: the text is not JSON, or not in COCO format.
    """
    return _open(parse(Path(name), content=content), Path(name))


def _open(
    contents: Contents,
    path: Path,
    *,
    images: str | Path | None = None,
    needs_sizes: bool = False,
    source: Path | None = None,
    orientation: Orientation = "shown",
) -> Annotations:
    finder = make_finder(source or path, images, contents.names)
    if needs_sizes and any(problem.kind.name == "size_missing" for problem in contents.problems):
        try:
            contents = parse(path, find_size=partial(_find_size, finder, orientation))
        except ImageError as error:
            raise DatasetError(f"{path} does not state the sizes of its images, and {error}") from error
    if images is not None:
        contents = replace(contents, problems=_allow_absolute_names(contents))
    groups = contents.groups
    frequency = count_frequency(contents.objects, len(contents.category_ids), groups)
    return Annotations(
        path=path,
        key=contents.key,
        format=contents.format,
        categories=_make_categories(contents.category_ids, contents.category_names, frequency),
        frequency=frequency,
        image_ids=contents.image_ids,
        sizes=contents.sizes,
        objects=contents.objects,
        negative=contents.negative,
        not_exhaustive=contents.not_exhaustive,
        names=contents.names,
        finder=finder,
        problems=contents.problems,
        listed_ids=contents.listed_ids,
        text_ids=contents.text_ids,
        states_groups=groups is not None,
        orientation=orientation,
    )


def judge(
    annotations: Annotations, uses: Sequence[Use], *, on_problem: OnProblem = "refuse", crowds: Crowds = "ignore"
) -> Annotations:
    """Decides what the problems of a file mean for its uses.

    Args:
        annotations: the result of `open_file`.
        uses: what the file is for.
        on_problem: refuse a file with unusable objects, or leave these objects out (repair).
        crowds: ignore crowd regions, or read them as objects.

    Returns:
        The annotations with notes, and without the objects that are left out.

    Raises:
        DatasetError: a use refuses the file.
    """
    problems = _count_crowds_as_objects(annotations.problems) if crowds == "objects" else annotations.problems
    refuse(problems, annotations.path, uses, repair=on_problem == "repair")
    left_out = [problem for problem in problems if "x" in get_verdicts(problem, uses)]
    remaining = [problem for problem in problems if problem not in left_out]
    notes = [f"{problem.text}: left out" for problem in left_out]
    objects = annotations.objects
    if left_out:
        objects = objects.select(~objects.is_marked(*(problem.kind.name for problem in left_out)))
    if crowds == "objects":
        crowd_rows = objects.ignored & ~objects.is_marked("ignore")
        remaining = [problem for problem in remaining if problem.kind.name != "crowds_alone"]
        count = int(crowd_rows.sum())
        notes += [
            f"{count_noun(count, 'crowd region')} {verb_form(count, 'is read as an object', 'are read as objects')}"
        ] * bool(count)
        objects = replace(objects, ignored=objects.ignored & ~crowd_rows)
    warned, remarks = (
        [problem.note for problem in remaining if letter in get_verdicts(problem, uses)] for letter in "ni"
    )
    annotations = replace(annotations, notes=(*notes, *warned), remarks=tuple(remarks), problems=tuple(remaining))
    return annotations if objects is annotations.objects else _replace_objects(annotations, objects)


def _count_crowds_as_objects(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """The problems if crowds are read as objects: a crowd then needs a mask as an object does."""
    needed = KINDS["mask_missing"].verdicts
    return tuple(
        replace(problem, kind=replace(problem.kind, verdicts=needed))
        if problem.kind.name == "crowd_mask_missing"
        else problem
        for problem in problems
    )


def _replace_objects(annotations: Annotations, objects: Objects) -> Annotations:
    """The same images with other objects; the frequencies are counted again."""
    groups = annotations.frequency.groups if annotations.states_groups else None
    frequency = count_frequency(objects, annotations.num_classes, groups, annotations.group_bounds)
    categories = tuple(replace(c, group=g) for c, g in zip(annotations.categories, frequency.groups, strict=True))
    return replace(annotations, objects=objects, frequency=frequency, categories=categories)


def _allow_absolute_names(contents: Contents) -> tuple[Problem, ...]:
    """The problems if the user names the folder of the images: the last part of an absolute name is then enough."""
    last = [contents.names.text(row).rsplit("\n", 1)[-1] for row in range(len(contents.names))]
    unique = len(set(last)) == len(last)
    return tuple(
        replace(problem, kind=KINDS["file_name_last_part"])
        if unique and problem.kind.name == "file_name_absolute"
        else problem
        for problem in contents.problems
    )


def _find_size(finder: ImageFinder, orientation: Orientation, names: Sequence[str]) -> tuple[int, int]:
    return read_size(finder.find(names), orientation)


def _make_categories(ids: Sequence[int], names: Sequence[str], frequency: ClassCounts) -> tuple[Category, ...]:
    return tuple(Category(*item) for item in zip(ids, names, frequency.groups, strict=True))


def adopt_training_classes(annotations: Annotations, training: Annotations) -> Annotations:
    """Gives a validation set the classes of the training set.

    Raises:
        DatasetError: the classes do not match, see `adopt_classes`.
    """
    return adopt_classes(annotations, training.categories, training.frequency, f"the training set {training.path}")


def adopt_classes(
    annotations: Annotations, categories: Sequence[Category], frequency: ClassCounts, source: str
) -> Annotations:
    """Gives a data set the classes of another one, with their order and their frequencies.

    A file may lack classes, because many tools leave out classes without objects in a split. A class without objects in
    this file may be missing in the other one. Groups that the file states are kept.

    Args:
        annotations: the data set.
        categories: the new categories, in the order of the labels.
        frequency: the frequencies of these classes in the training set.
        source: the owner of the categories, for messages: ``the training set train.json``.

    Returns:
        The data set with the new classes.

    Raises:
        DatasetError: an id has two names, or objects have a class that the other data set lacks.
    """
    mine = {category.id: category.name for category in annotations.categories}
    theirs = {category.id: category.name for category in categories}
    used = np.bincount(annotations.objects.labels, minlength=len(mine)) > 0
    differ = [
        f"{key} is {name!r:.60} here and " + (f"{theirs[key]!r:.60} there" if key in theirs else "missing there")
        for (key, name), is_used in zip(mine.items(), used, strict=True)
        if theirs.get(key, None if is_used else name) != name
    ]
    if differ:
        moved = sum(theirs.get(key) != name and name in theirs.values() for key, name in mine.items())
        renumbered = (
            f" {moved:,} of the names {verb_form(moved, 'has', 'have')} another id there: give the categories the "
            f"same ids (tailseg data import {annotations.path} NEW.json --match-classes FILE)."
            if moved
            else ""
        )
        raise DatasetError(
            f"{annotations.path} cannot be used:\n  {count_noun(len(differ), 'category')} "
            f"{verb_form(len(differ), 'differs', 'differ')} from those of {source} ({len(mine)} here and {len(theirs)} "
            f"there): {'; '.join(differ[:3])}{' ...' * (len(differ) > 3)}. Both files need the same ids and names."
            f"{renumbered}"
        )
    stated = {category.id: category.group for category in annotations.categories} if annotations.states_groups else {}
    merged = tuple(replace(c, group=stated.get(c.id, c.group)) for c in categories)
    annotations = replace(annotations, categories=merged, frequency=frequency)
    if mine == theirs:
        return annotations
    new_labels = find_positions(np.array(list(mine), np.int64), np.array(list(theirs), np.int64))
    labels = new_labels[annotations.objects.labels]
    counts = [(len(theirs.keys() - mine.keys()), f"[class|classes] of {source} [is|are] not in this file")]
    counts += [(len(mine.keys() - theirs.keys()), f"[class|classes] without objects [is|are] not in {source}")]
    notes = [f"{count:,} {inflect(text, count)}" for count, text in counts if count]
    return replace(
        annotations,
        objects=replace(annotations.objects, labels=labels),
        negative=annotations.negative.keep_values(list(theirs)),
        not_exhaustive=annotations.not_exhaustive.keep_values(list(theirs)),
        notes=(*annotations.notes, *notes),
    )


def describe_other_names(mine: Sequence[Category], theirs: Sequence[Category]) -> str:
    """Describes ids that have another name in another file: their number and the first of them; empty without any."""
    names = {category.id: category.name for category in theirs}
    differ = [category for category in mine if names.get(category.id, category.name) != category.name]
    if not differ:
        return ""
    first = differ[0]
    text = f"{count_noun(len(differ), 'category id')} {verb_form(len(differ), 'has', 'have')} another name"
    return f"{text} ({first.id}: {first.name!r:.60}, {names[first.id]!r:.60} there) in"


def add_classes(annotations: Annotations, more: Sequence[Category]) -> Annotations:
    """Adds classes without objects to a data set: detections of these classes are then valid."""
    known = {category.id for category in annotations.categories}
    new = [category for category in more if category.id not in known]
    if not new:
        return annotations
    categories = tuple(sorted((*annotations.categories, *new), key=lambda category: category.id))
    old_ids, new_ids = (np.array([c.id for c in group], np.int64) for group in (annotations.categories, categories))
    objects = replace(annotations.objects, labels=find_positions(old_ids, new_ids)[annotations.objects.labels])
    frequency = count_frequency(objects, len(categories), tuple(category.group for category in categories))
    return replace(annotations, categories=categories, objects=objects, frequency=frequency)
