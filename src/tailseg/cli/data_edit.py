"""`tailseg data split`, `merge`, `filter`, `remap`, `sample` and `federate`: new annotation files from others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from tailseg.cli.common import UsageError
from tailseg.cli.data_check import find_annotation_file, say, track
from tailseg.cli.data_convert import say_losses, say_written
from tailseg.cli.file_kinds import REPAIRED
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import Input, Output
from tailseg.ranges import Range
from tailseg.words import count_noun, verb_form

if TYPE_CHECKING:
    from tailseg.annotations.writers.labels import Labels


@dataclass(frozen=True)
class DataSplit:
    r"""Split a data set into training, validation and test files, or into folds.

    Every class is in the training and in the validation file wherever it has two groups of images, and in proportion.
    Images that belong together stay in one file: copies, frames of a video by their names, or what --by names. The same
    input gives the same files. `tailseg train` holds out its own validation set and does not need this command.

    examples:
      tailseg data split my.json parts                        train.json and val.json, a tenth of the images
      tailseg data split my.json parts --val 0.2 --test 0.1
      tailseg data split my.json parts --by patient           a field of the image records
      tailseg data split my.json parts --by '^(site\d+)_'      a pattern in the file names
      tailseg data split my.json parts --folds 5              fold1_train.json, fold1_val.json, ...
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file, or labels of another format."""
    out: Annotated[Path, tyro.conf.Positional, Output("annotation files")]
    """Folder for the files. Existing files are not overwritten. Names of images stay relative to the folder of the
    source: use --data.train-images and --data.val-images if the folder is another one."""
    val: Annotated[float, Range(gt=0, lt=1)] = 0.1
    """Share of the images in val.json."""
    test: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the images in test.json; 0 writes none."""
    folds: Annotated[int, Range(ge=0)] = 0
    """Write this number of folds in place of one split: each image is in one fold's validation file."""
    by: str | None = None
    """Field of the image records, or a regular expression for the file names, whose values stay together."""
    looks: bool = False
    """Keep images together that look alike. The command then reads every image."""
    images: Path | None = None
    """Folder of the images, if they are not next to the annotation file."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Another seed gives another split."""


@dataclass(frozen=True)
class DataMerge:
    """Merge data sets of any format. Classes with the same name become one class.

    examples:
      tailseg data merge a.json b/data.yaml --out both.json
    """

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, Input()]
    """Annotation files, or labels of other formats. Names of images must be valid from one folder (see --images)."""
    out: Annotated[Path, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten."""


@dataclass(frozen=True)
class DataFilter:
    """Keep a part of a data set.

    examples:
      tailseg data filter my.json cats.json --classes cat lion --drop-empty
      tailseg data filter my.json frequent.json --min-images 10
      tailseg data filter my.json large.json --min-area 100
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file, or labels of another format."""
    out: Annotated[Path, tyro.conf.Positional, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten."""
    classes: tuple[str, ...] = ()
    """The classes to keep; all unless given."""
    min_images: Annotated[int, Range(ge=0)] = 0
    """Leave out classes with objects in fewer images."""
    min_area: Annotated[float, Range(ge=0)] = 0.0
    """Leave out objects with a smaller area in pixels."""
    drop_empty: bool = False
    """Leave out images without annotations."""


@dataclass(frozen=True)
class DataRemap:
    """Rename classes. Classes that get the same name become one class.

    examples:
      tailseg data remap my.json new.json --rename kitten=cat "sea lion=seal"
      tailseg data remap my.json new.json --table names.json      {"kitten": "cat"}
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file, or labels of another format."""
    out: Annotated[Path, tyro.conf.Positional, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten."""
    rename: tuple[str, ...] = ()
    """Pairs OLD=NEW."""
    table: Path | None = None
    """JSON file with the new name of each old name."""


@dataclass(frozen=True)
class DataSample:
    """Take some images, of each class at least one as far as the number allows, the rarest classes first.

    examples:
      tailseg data sample my.json small.json --number 200
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file, or labels of another format."""
    out: Annotated[Path, tyro.conf.Positional, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten."""
    number: Annotated[int, Range(ge=1)]
    """Number of images."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Another seed gives other images."""


@dataclass(frozen=True)
class DataFederate:
    """Write LVIS's lists: in which images a class is absent, and where not all of its objects are annotated.

    Without --looked-for, all classes were looked for in all images. A list of what annotators looked for is a JSON file
    with the names of classes for each image file, and "*" for all other images.

    examples:
      tailseg data federate my.json federated.json
      tailseg data federate my.json federated.json --looked-for looked.json    {"a.jpg": ["cat"], "*": ["dog"]}
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """Annotation file, or labels of another format."""
    out: Annotated[Path, tyro.conf.Positional, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten."""
    looked_for: Path | None = None
    """JSON file with the classes that were looked for in each image."""


def require_new_files(options: object, files: Sequence[Path]) -> None:
    """Checks before the work that no file exists and that all can be written.

    Raises:
        UsageError: a file exists.
    """
    from tailseg.annotations.repair import require_new

    for file in files:
        try:
            require_new(file)
        except FileExistsError as error:
            raise UsageError(str(error)) from error
    check_outputs(options, dict.fromkeys(files, REPAIRED), instead="name another file or folder")


def split(options: DataSplit) -> None:
    """Writes the parts and prints the classes that are not on both sides."""
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.split import find_groups, split_groups, write_parts

    if options.val + options.test >= 1:
        raise UsageError(f"--val {options.val:g} and --test {options.test:g} leave no image for training")
    if options.folds == 1:
        raise UsageError("--folds 1 is no split: give at least 2")
    if options.folds and options.test:
        raise UsageError("--folds writes no test file: split it off first (--test), then write folds of train.json")
    names = ["train", "val", *(["test"] if options.test else [])]
    files = [options.out / f"{name}.json" for name in names]
    if options.folds:
        files = [options.out / f"fold{fold}_{part}.json" for fold in range(1, options.folds + 1) for part in names[:2]]
    require_new_files(options, files)
    annotations = read_dataset(find_annotation_file(options.source), images=options.images, on_problem="repair")
    groups = find_groups(annotations, by=options.by, looks=options.looks, track=track)
    shares = [1.0] * options.folds or [1 - options.val - options.test, options.val, options.test][: len(files)]
    result = split_groups(annotations, groups, shares, seed=options.seed, folds=bool(options.folds))
    if options.folds:
        for fold in range(options.folds):
            write_parts(annotations, (result.parts == fold).astype(int), files[2 * fold : 2 * fold + 2])
    else:
        write_parts(annotations, result.parts, files)
    for part, file in enumerate(files):
        images = result.parts != part // 2 if part % 2 == 0 else result.parts == part // 2
        count = int((images if options.folds else result.parts == part).sum())
        say(f"{file}: written, {count_noun(count, 'image')}")
    say(f"{count_noun(int(groups.max()) + 1, 'group')} of images that stay together")
    if result.alone:
        say(
            f"{count_noun(len(result.alone), 'class')} {verb_form(len(result.alone), 'has', 'have')} objects in one "
            f"group only, and so in one part: {', '.join(result.alone[:10])}{' ...' * (len(result.alone) > 10)}"
        )
    if result.divided:
        say(
            f"{count_noun(len(result.divided), 'class')} could not be put on both sides, because the groups have other "
            f"classes, too: {', '.join(result.divided[:10])}{' ...' * (len(result.divided) > 10)}"
        )


def _read(source: str) -> "Labels":
    from tailseg.annotations.convert import read_checked_labels

    return read_checked_labels(find_annotation_file(source))


def _write(labels: "Labels", out: Path, *, lvis: bool = False) -> None:
    from tailseg.annotations.edit import write

    write(labels, out, lvis=lvis)
    say_written(out, len(labels.images), labels.num_written, len(labels.categories))
    say_losses(labels.list_losses())


def merge(options: DataMerge) -> None:
    """Writes the merged file."""
    from tailseg.annotations import edit

    if len(options.sources) < 2:
        raise UsageError("name at least two data sets: tailseg data merge A B --out OUT.json")
    require_new_files(options, [options.out])
    _write(edit.merge([_read(source) for source in options.sources]), options.out)


def keep(options: DataFilter) -> None:
    """Writes the filtered file."""
    from tailseg.annotations import edit

    require_new_files(options, [options.out])
    labels = _read(options.source)
    if options.classes:
        edit.keep_classes(labels, options.classes)
    if options.min_area:
        edit.drop_small(labels, options.min_area)
    if options.min_images:
        edit.drop_rare(labels, options.min_images)
    if options.drop_empty:
        edit.drop_empty(labels)
    _write(labels, options.out)


def remap(options: DataRemap) -> None:
    """Writes the file with other names of classes."""
    from tailseg.annotations import edit

    require_new_files(options, [options.out])
    names = _read_json(options.table) if options.table else {}
    if not all(isinstance(name, str) for name in names.values()):
        raise UsageError(f"{options.table} must have a text for each name")
    for pair in options.rename:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--rename needs pairs OLD=NEW, got {pair!r}")
        names[old] = new
    if not names:
        raise UsageError("name what to rename: --rename OLD=NEW, or --table FILE.json")
    labels = _read(options.source)
    edit.rename_classes(labels, names)
    _write(labels, options.out)


def sample(options: DataSample) -> None:
    """Writes the sampled file."""
    from tailseg.annotations import edit

    require_new_files(options, [options.out])
    labels = _read(options.source)
    edit.sample_images(labels, options.number, seed=options.seed)
    _write(labels, options.out)


def federate(options: DataFederate) -> None:
    """Writes the file with LVIS's lists."""
    from tailseg.annotations import edit

    require_new_files(options, [options.out])
    labels = _read(options.source)
    if options.looked_for:
        looked_for = _read_json(options.looked_for)
        if not all(isinstance(names, list) for names in looked_for.values()):
            raise UsageError(f"{options.looked_for} must have a list of classes for each image")
        edit.federate(labels, looked_for)
    _write(labels, options.out, lvis=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a JSON object, got {type(content).__name__}")
    return content
