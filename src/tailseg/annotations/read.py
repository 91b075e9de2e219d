"""Reading annotation files for a use: training or evaluation.

A file is parsed once for all uses (`tailseg.annotations.parse`; a large one is cached, `tailseg.annotations.cache`).
What its problems mean is a matter of the use: `tailseg.annotations.kinds`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from tailseg.annotations.cache import cached
from tailseg.annotations.dataset import Annotations, Category, Contents, Objects, count_frequency
from tailseg.annotations.image_files import ImageError, ImageFinder
from tailseg.annotations.kinds import KINDS, Use
from tailseg.annotations.parse import parse, places
from tailseg.annotations.pictures import read_size
from tailseg.annotations.problems import DatasetError, Problem, refuse, verdicts
from tailseg.annotations.types import ClassCounts, Orientation

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
    """Read and check an annotation file.

    Args:
        annotation_file: LVIS v1, LVIS v0.5 or COCO format (JSON, or JSON packed by gzip).
        images: folder of the images. None looks beside the annotation file, in its ``images`` folder, in the folder
            above, one folder lower than these, and where ``$TAILSEG_DATA`` and ``$DETECTRON2_DATASETS/coco`` say. Files
            are looked for when they are wanted, by ``file_name`` and by the tail of ``coco_url``.
        frequency_from: the training set that this file validates: its classes, their frequencies, and their groups
            where the file states none.
        use: what the file is for, one or several; decides what is refused, see `tailseg.annotations.kinds`.
        on_problem: refuse objects that cannot be used, or leave them out (repair), with a note that counts them.
        crowds: leave crowd regions alone, or take them as objects.

    Raises:
        DatasetError: no such file, not JSON, not COCO, empty, or malformed records; a ``ValueError`` that names the
            file, the first records of each kind, and the remedy.
    """
    path = Path(annotation_file)
    uses: Sequence[Use] = [use] if isinstance(use, str) else use  # ty: ignore[invalid-assignment] - a Use is a str
    annotations = open_file(path, images=images, needs_sizes=any(each.startswith("training") for each in uses))
    annotations = judge(annotations, uses, on_problem=on_problem, crowds=crowds)
    if frequency_from is not None:
        annotations = with_classes_of(annotations, frequency_from)
    for note in annotations.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return annotations


def open_file(
    path: Path,
    *,
    images: str | Path | None = None,
    needs_sizes: bool = False,
    images_of: Path | None = None,
    orientation: Orientation = "shown",
) -> Annotations:
    """An annotation file with all its problems, whatever they are; `judge` decides what they mean.

    Args:
        path: the file.
        images: see `read_dataset`.
        needs_sizes: whether sizes that the file lacks are read from the pictures.
        images_of: the file that this one is a part of: images are looked for where that one's lie.
        orientation: how pictures are read that EXIF wants turned, where their annotated size allows both.

    Raises:
        DatasetError: no such file, not JSON, or not in COCO format.
    """
    if not path.is_file():
        other = "is a folder, not a file" if path.is_dir() else "is a pipe or a device, not a file"
        kind = other if path.exists() else "does not exist"
        raise DatasetError(f"{path} {kind}. Expected an annotation file in LVIS or COCO format (.json)")
    return _open(
        cached(path, parse), path, images=images, needs_sizes=needs_sizes, images_of=images_of, orientation=orientation
    )


def open_content(content: bytes, name: str) -> Annotations:
    """Opens the JSON text of an annotation file that is in memory.

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
    images_of: Path | None = None,
    orientation: Orientation = "shown",
) -> Annotations:
    finder = ImageFinder(images_of or path, Path(images) if images is not None else None, contents.names)
    if needs_sizes and any(problem.kind.name == "size_missing" for problem in contents.problems):
        try:
            contents = parse(path, find_size=partial(_find_size, finder, orientation))
        except ImageError as error:
            raise DatasetError(f"{path} does not say how large its images are, and {error}") from error
    if images is not None:
        contents = replace(contents, problems=_absolute_names(contents))
    groups = contents.groups
    frequency = count_frequency(contents.objects, len(contents.category_ids), groups)
    return Annotations(
        path=path,
        key=contents.key,
        format=contents.format,
        categories=_categories(contents.category_ids, contents.category_names, frequency),
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
        spelled=contents.spelled,
        states_groups=groups is not None,
        orientation=orientation,
    )


def judge(
    annotations: Annotations, uses: Sequence[Use], *, on_problem: OnProblem = "refuse", crowds: Crowds = "ignore"
) -> Annotations:
    """The annotations for all of some uses, with their notes, and without the objects that are left out.

    Args:
        annotations: of `open_file`.
        uses, on_problem, crowds: see `read_dataset`.

    Raises:
        DatasetError: they cannot be used.
    """
    problems = _with_crowds_as_objects(annotations.problems) if crowds == "objects" else annotations.problems
    refuse(problems, annotations.path, uses, repair=on_problem == "repair")
    left_out = [each for each in problems if "x" in verdicts(each, uses)]
    left = [each for each in problems if each not in left_out]
    notes = [f"{each.text}: left out" for each in left_out]
    objects = annotations.objects
    if left_out:
        objects = objects.keep(~objects.marked(*(each.kind.name for each in left_out)))
    if crowds == "objects":
        taken = objects.ignored & ~objects.marked("ignore")
        left = [each for each in left if each.kind.name != "crowds_alone"]
        notes += [f"{int(taken.sum()):,} crowd regions are taken as objects"] * bool(taken.any())
        objects = replace(objects, ignored=objects.ignored & ~taken)
    loud, quiet = ([each.note for each in left if letter in verdicts(each, uses)] for letter in "ni")
    annotations = replace(annotations, notes=(*notes, *loud), remarks=tuple(quiet), problems=tuple(left))
    return annotations if objects is annotations.objects else _with_objects(annotations, objects)


def _with_crowds_as_objects(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """The problems where a crowd is learned and scored as an object: it needs a mask where an object does."""
    needed = KINDS["mask_missing"].verdicts
    return tuple(
        replace(each, kind=replace(each.kind, verdicts=needed)) if each.kind.name == "crowd_mask_missing" else each
        for each in problems
    )


def _with_objects(annotations: Annotations, objects: Objects) -> Annotations:
    """The same images with other objects, counted again."""
    groups = annotations.frequency.groups if annotations.states_groups else None
    frequency = count_frequency(objects, annotations.num_classes, groups, annotations.group_bounds)
    categories = tuple(replace(c, group=g) for c, g in zip(annotations.categories, frequency.groups, strict=True))
    return replace(annotations, objects=objects, frequency=frequency, categories=categories)


def _absolute_names(contents: Contents) -> tuple[Problem, ...]:
    """The problems where the user has named the folder of the images: the last part of an absolute name will do."""
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


def _categories(ids: Sequence[int], names: Sequence[str], frequency: ClassCounts) -> tuple[Category, ...]:
    return tuple(Category(*item) for item in zip(ids, names, frequency.groups, strict=True))


def with_classes_of(annotations: Annotations, training: Annotations) -> Annotations:
    """A validation set with the classes of the training set; see `with_classes`.

    Raises:
        DatasetError: as `with_classes`.
    """
    return with_classes(annotations, training.categories, training.frequency, f"the training set {training.path}")


def with_classes(
    annotations: Annotations, categories: Sequence[Category], frequency: ClassCounts, whose: str
) -> Annotations:
    """A data set with the classes of another one, their order and their frequencies.

    Classes that the file leaves out have no object in it, and classes that the others lack none in the file: tools
    leave out the classes that a split has no object of. Groups that the file states stay.

    Args:
        annotations: the data set.
        categories: in the order of the labels.
        frequency: of these classes in the training set.
        whose: they are, for messages.

    Raises:
        DatasetError: an id stands for two names, or objects are of a class that the others lack.
    """
    mine = {category.id: category.name for category in annotations.categories}
    theirs = {category.id: category.name for category in categories}
    used = np.bincount(annotations.objects.labels, minlength=len(mine)) > 0
    differ = [
        f"{key} {name!r:.60}, " + (f"{theirs[key]!r:.60} in the other" if key in theirs else "only in the one")
        for (key, name), has in zip(mine.items(), used, strict=True)
        if theirs.get(key, None if has else name) != name
    ]
    if differ:
        moved = sum(theirs.get(key) != name and name in theirs.values() for key, name in mine.items())
        renumbered = f" {moved:,} of the names have another id there: number the categories alike." if moved else ""
        raise DatasetError(
            f"{annotations.path} cannot be used:\n  {len(differ)} categories differ from those of {whose} ({len(mine)} "
            f"and {len(theirs)} in all): {'; '.join(differ[:3])}{' ...' * (len(differ) > 3)}. Both files need the same "
            f"ids and names.{renumbered}"
        )
    stated = {category.id: category.group for category in annotations.categories} if annotations.states_groups else {}
    merged = tuple(replace(c, group=stated.get(c.id, c.group)) for c in categories)
    annotations = replace(annotations, categories=merged, frequency=frequency)
    if mine == theirs:
        return annotations
    to = places(np.array(list(mine), np.int64), np.array(list(theirs), np.int64))
    labels = to[annotations.objects.labels]
    counts = [(len(theirs.keys() - mine.keys()), f"classes of {whose} are not in the file")]
    counts += [(len(mine.keys() - theirs.keys()), "classes of the file are not in the others, and have no object")]
    notes = [f"{count:,} {what}" for count, what in counts if count]
    return replace(
        annotations,
        objects=replace(annotations.objects, labels=labels),
        negative=annotations.negative.only(list(theirs)),
        not_exhaustive=annotations.not_exhaustive.only(list(theirs)),
        notes=(*annotations.notes, *notes),
    )


def other_names(mine: Sequence[Category], theirs: Sequence[Category]) -> str:
    """How many ids have another name in another file, with the first of them; nothing where none has."""
    names = {category.id: category.name for category in theirs}
    differ = [category for category in mine if names.get(category.id, category.name) != category.name]
    if not differ:
        return ""
    first = differ[0]
    said = f"{len(differ):,} category ids have another name ({first.id}: {first.name!r:.60}"
    return f"{said}, {names[first.id]!r:.60} there) in"


def with_more_classes(annotations: Annotations, more: Sequence[Category]) -> Annotations:
    """A data set that knows other classes too, without an object of them: detections of them are then in place."""
    known = {category.id for category in annotations.categories}
    added = [category for category in more if category.id not in known]
    if not added:
        return annotations
    categories = tuple(sorted((*annotations.categories, *added), key=lambda category: category.id))
    before, after = (np.array([c.id for c in each], np.int64) for each in (annotations.categories, categories))
    objects = replace(annotations.objects, labels=places(before, after)[annotations.objects.labels])
    frequency = count_frequency(objects, len(categories), tuple(category.group for category in categories))
    return replace(annotations, categories=categories, objects=objects, frequency=frequency)
