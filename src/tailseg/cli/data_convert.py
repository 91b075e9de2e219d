"""`tailseg data import` and `tailseg data export`: labels of other formats."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tailseg.cli.common import UsageError
from tailseg.cli.data_check import find_annotation_file, say
from tailseg.cli.file_kinds import REPAIRED
from tailseg.cli.outputs import check as check_outputs
from tailseg.files import Input, Output
from tailseg.ranges import Range
from tailseg.words import count_noun


@dataclass(frozen=True)
class DataImport:
    """Convert labels of another format to an annotation file in COCO or LVIS form.

    The format is found by the path alone: YOLO (data.yaml), Pascal VOC, LabelMe, CVAT, Label Studio, Supervisely, VIA,
    Roboflow's COCO folders, Datumaro, Segments.ai, folders of instance masks, COCO and LVIS. The command says what
    could not be kept. Every other command reads these formats as well, without the conversion; the conversion is for
    large data sets and for changes.

    examples:
      tailseg data import data.yaml train.json
      tailseg data import data.yaml:val val.json              another split
      tailseg data import VOC2012 voc.json --form lvis
      tailseg data import val.json val2.json --match-classes train.json
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """File or folder of labels; PATH:SPLIT names a split. Also tiny_tail[:preset]."""
    out: Annotated[Path, tyro.conf.Positional, Output("an annotation file")]
    """The annotation file to write. An existing file is not overwritten. Names of images are relative to the folder of
    the labels: write the file there, or name this folder with --images later."""
    form: Literal["coco", "lvis"] = "coco"
    """COCO's form, or LVIS's with frequencies and, for each image, the classes that are absent."""
    images: Path | None = None
    """Folder of the images, if they are not next to the labels."""
    match_classes: Path | None = None
    """An annotation file or labels whose class ids are used, matched by name: for splits that were converted apart."""


@dataclass(frozen=True)
class DataExport:
    """Write a data set in another format, or detections as pre-labels for an annotation tool.

    The command counts what the format cannot keep. Image files are linked next to the labels; --pictures copy copies
    them.

    examples:
      tailseg data export my.json out --to yolo
      tailseg data export val.json out --to yolo --split val
      tailseg data export my.json out --to labelme --results predictions.json --score-threshold 0.5
      tailseg data export my.json lvis.json --to lvis
    """

    source: Annotated[str, tyro.conf.Positional, Input()]
    """File or folder of labels; PATH:SPLIT names a split. Also tiny_tail[:preset]."""
    out: Annotated[Path, tyro.conf.Positional, Output("labels")]
    """The folder to write; for coco and lvis the file, which must not exist."""
    to: Literal["yolo", "voc", "coco", "lvis", "labelme", "cvat", "label_studio"]
    """The format."""
    images: Path | None = None
    """Folder of the images, if they are not next to the labels."""
    results: Path | None = None
    """A results file (COCO-style detections): they are written in place of the objects."""
    score_threshold: Annotated[float, Range(ge=0, le=1)] = 0.5
    """With --results: the least score of a detection that is written."""
    split: Literal["train", "val", "test"] = "train"
    """The split that the labels become, for yolo and voc."""
    pictures: Literal["link", "copy", "none"] = "link"
    """Link the image files next to the labels (symbolic links), copy them, or leave them where they are."""
    match_classes: Path | None = None
    """An annotation file or labels whose class ids are used, matched by name."""


def import_labels(options: DataImport) -> None:
    """Writes the annotation file and prints what it has and what could not be kept."""
    from tailseg.annotations import convert
    from tailseg.annotations.repair import require_new

    source = find_annotation_file(options.source)
    try:
        require_new(options.out)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    check_outputs(options, {options.out: REPAIRED}, instead="name a new file")
    labels, losses = convert.import_labels(
        source, options.out, form=options.form, images=options.images, match_classes=options.match_classes
    )
    for problem in labels.annotations.problems:
        if problem.kind.name in ("other_format", "read_so"):
            say(problem.detail[:1].upper() + problem.detail[1:] if problem.kind.name == "read_so" else
                f"Read as {problem.detail}")  # fmt: skip
    say_written(options.out, len(labels.images), labels.num_written, len(labels.categories))
    say_losses(losses)


def export_labels(options: DataExport) -> None:
    """Writes the labels and prints what the format could not keep."""
    from tailseg.annotations import convert
    from tailseg.annotations.repair import require_new

    source = find_annotation_file(options.source)
    is_folder = options.to in convert.FOLDER_FORMATS
    if not is_folder:
        try:
            require_new(options.out)
        except FileExistsError as error:
            raise UsageError(str(error)) from error
    elif options.out.is_dir() and any(options.out.iterdir()) and options.to not in ("yolo", "voc"):
        raise UsageError(f"{options.out} has files already: name a new or an empty folder")
    elif _has_split(options):
        raise UsageError(f"{options.out} has the split {options.split} already: name a new folder, or another --split")
    check_outputs(options, {options.out: None if is_folder else REPAIRED}, instead="name another folder or file")
    results = None
    if options.results is not None:
        from tailseg.evaluation.json_files import read_json

        results = read_json(options.results)
        if not isinstance(results, list):
            raise UsageError(f"{options.results} is not a results file: expected a list of detections")
    labels = convert.export_labels(
        source,
        options.out,
        options.to,
        images=options.images,
        results=results,
        score_threshold=options.score_threshold,
        split=options.split,
        pictures=options.pictures,
        match_classes=options.match_classes,
    )
    say_written(options.out, len(labels.images), labels.num_written, len(labels.categories))
    say_losses(labels.list_losses())


def _has_split(options: DataExport) -> bool:
    places = {"yolo": options.out / "labels" / options.split, "voc": options.out / "Annotations"}
    return options.to in places and places[options.to].exists()


def say_written(path: Path, images: int, objects: int, classes: int) -> None:
    """Prints what was written.

    Args:
        path: the file or the folder.
        images: number of images.
        objects: number of annotations.
        classes: number of classes.
    """
    numbers = f"{count_noun(images, 'image')}, {count_noun(objects, 'annotation')}, {count_noun(classes, 'class')}"
    say(f"{path}: written, {numbers}")


def say_losses(losses: list[str]) -> None:
    """Prints what could not be kept, one line each."""
    for text in losses:
        say(f"  not kept: {text}")
