"""Converts labels of any format to a COCO or LVIS file, and to other formats."""

import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import judge, open_records
from tailseg.annotations.writers.labels import Labels, Pictures, read_labels, select_results
from tailseg.words import count_noun, verb_form

Form = Literal["coco", "lvis"]
ExportFormat = Literal["yolo", "voc", "coco", "lvis", "labelme", "cvat", "label_studio"]
FOLDER_FORMATS: Final = ("yolo", "voc", "labelme", "cvat", "label_studio")
"""The formats that are a folder of files."""


def import_labels(
    source: Path,
    out: Path,
    *,
    form: Form = "coco",
    images: Path | None = None,
    match_classes: Path | None = None,
) -> tuple[Labels, list[str]]:
    """Writes labels of any format as a COCO or LVIS file.

    Args:
        source: a file or folder that `tailseg.annotations.read_dataset` reads, or ``PATH:SPLIT``.
        out: the new file.
        form: COCO's or LVIS's form.
        images: folder of the images, if the format does not store their sizes and they are elsewhere.
        match_classes: an annotation file whose ids the classes get, matched by name.

    Returns:
        The records as written, and what could not be kept, one sentence each.

    Raises:
        DatasetError: the labels cannot be read, or have a class that ``match_classes`` lacks.
    """
    from tailseg.annotations.writers.coco import write, write_lvis

    annotations, sections = open_records(source, images=images, needs_sizes=True)
    labels = read_labels(annotations, sections=sections)
    if match_classes is not None:
        match_by_name(labels, match_classes)
    (write_lvis if form == "lvis" else write)(labels, out)
    losses = [problem.detail for problem in annotations.problems if problem.kind.name == "not_kept"]
    return labels, [*losses, *labels.list_losses()]


def read_checked_labels(source: Path, *, images: Path | None = None, results: list[Any] | None = None) -> Labels:
    """Reads a data set whose boxes can be used, and its records.

    Args:
        source: a file or folder that `tailseg.annotations.read_dataset` reads, or ``PATH:SPLIT``.
        images: folder of the images, if they are not next to the labels.
        results: COCO-style detections that stand for the objects.

    Returns:
        The records. Notes on the data set are given as warnings.

    Raises:
        DatasetError: the labels cannot be read, or their boxes cannot be used.
    """
    annotations, sections = open_records(source, images=images)
    judged = judge(annotations, ["boxes"])
    for note in judged.notes:
        warnings.warn(f"{source}: {note}", stacklevel=2)
    if any(problem.kind.name == "size_missing" for problem in judged.problems):
        judged = replace(open_records(source, images=images, needs_sizes=True)[0], notes=judged.notes)
    return read_labels(judged, results, sections)


def match_by_name(labels: Labels, path: Path) -> None:
    """Gives the classes the ids of another file, by their names, and adds its further classes.

    Splits that were converted apart often number the classes differently.

    Args:
        labels: the data set; it is changed.
        path: the other file, of any format.

    Raises:
        DatasetError: a class with objects is not in the other file, or a name belongs to several classes.
    """
    labels.require_unique_names()
    annotations, sections = open_records(path)
    other = read_labels(annotations, sections=sections)
    other.require_unique_names()
    ids = {category["name"]: category["id"] for category in other.categories}
    used = {record["category_id"] for records in labels.objects.values() for record in records}
    missing = [name for key, name in labels.names.items() if key in used and name not in ids]
    if missing:
        raise DatasetError(
            f"{labels.annotations.path}: {count_noun(len(missing), 'class')} with objects "
            f"{verb_form(len(missing), 'is', 'are')} not in {path}: {', '.join(missing):.200}. Add them there, or "
            "rename them"
        )
    new = {key: ids.get(name) for key, name in labels.names.items()}
    for image, records in labels.objects.items():
        labels.objects[image] = [record | {"category_id": new[record["category_id"]]} for record in records]
    for image in labels.images:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            if isinstance(image.get(field), list):
                image[field] = [new[key] for key in image[field] if new.get(key) is not None]
    labels.categories = other.categories


def export_labels(
    source: Path,
    out: Path,
    to: ExportFormat,
    *,
    images: Path | None = None,
    results: list[Any] | None = None,
    score_threshold: float = 0.0,
    split: str = "train",
    pictures: Pictures = "link",
    match_classes: Path | None = None,
) -> Labels:
    """Writes a data set, or detections on it, in another format.

    Args:
        source: a file or folder that `tailseg.annotations.read_dataset` reads, or ``PATH:SPLIT``.
        out: the new file (coco, lvis) or folder.
        to: the format.
        images: folder of the images, if they are not next to the labels.
        results: COCO-style detections that are written in place of the objects.
        score_threshold: least score of these detections.
        split: the name of the split, for YOLO and Pascal VOC.
        pictures: whether image files are linked, copied or left where they are.
        match_classes: an annotation file whose ids the classes get, matched by name.

    Returns:
        The records as written; ``losses`` counts what the format cannot keep.

    Raises:
        DatasetError: the labels cannot be read, or the format cannot hold their names.
    """
    if to not in get_args(ExportFormat):
        raise ValueError(f"to must be one of {', '.join(get_args(ExportFormat))}, got {to!r}")
    chosen = None if results is None else select_results(results, score_threshold)
    labels = read_checked_labels(source, images=images, results=chosen)
    if match_classes is not None:
        match_by_name(labels, match_classes)
    name = "coco" if to == "lvis" else to
    module = import_module(f"tailseg.annotations.writers.{name}")
    write = module.write_lvis if to == "lvis" else module.write
    write(labels, out, split=split, pictures=pictures)
    return labels
