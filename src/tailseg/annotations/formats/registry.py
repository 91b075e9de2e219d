"""Finds the format of a path and reads it as the sections of a COCO file.

A path is a file or a folder. ``PATH:SPLIT`` names a split of a data set that has several, such as ``data.yaml:val``;
without it, the training split is read. JSON files are recognized by their content, other files by their extension and
their first lines, folders by the files in them. Modules of formats are imported when they are needed.
"""

import hashlib
from pathlib import Path
from typing import Any, Final

import msgspec

from tailseg.annotations.image_files import ImageFinder
from tailseg.annotations.json_file import (
    OtherFormatError,
    Sections,
    Text,
    decode_record,
    decompress,
    iterate_records,
    read_image_records,
    read_text,
    split_sections,
)
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.ragged import Ragged
from tailseg.files import split_spec

FORMATS: Final = (
    "COCO and LVIS (.json), YOLO (data.yaml), Pascal VOC (.xml), LabelMe, CVAT (.xml), Label Studio, Supervisely, VIA, "
    "Roboflow's COCO folders, Datumaro, Segments.ai, folders of instance masks"
)
FIRST_RECORDS: Final = 10
"""Annotations that are looked at to recognize Segments.ai's COCO export."""

NOT_JSON: Final = (".xml", ".yaml", ".yml", ".data", ".csv")


def exists(path: Path) -> bool:
    """Whether a path, or ``PATH:SPLIT``, leads to a file or to a folder of labels."""
    place = split_spec(path)[0]
    return place.is_file() or (place.is_dir() and _find_folder_format(place) is not None)


def is_coco_file(path: Path) -> bool:
    """Whether a path is a file that may be in COCO format, by its name alone."""
    return path.is_file() and path.suffix.lower() not in NOT_JSON


def get_image_folder(path: Path) -> Path:
    """The folder that image names are relative to: that of the annotation file, or of the data set."""
    place, _ = split_spec(path)
    if place.suffix.lower() in (".yaml", ".yml") or (place.is_dir() and _find_folder_format(place) == "yolo"):
        from tailseg.annotations.formats import yolo

        return yolo.get_folder(place)
    if place.is_dir():
        from tailseg.annotations.formats import coco_folder

        files = coco_folder.list_files(place)
        if "annotations" in {file.parent.name for file in files.values()}:
            return place
    return place if place.is_dir() else place.parent


def make_finder(path: Path, images: str | Path | None, names: Ragged | None = None) -> ImageFinder:
    """Makes the finder of the images of a data set in any format.

    Args:
        path: the annotation file, or the labels.
        images: folder of the images; None searches next to the labels.
        names: the names of all images.

    Returns:
        The finder.
    """
    if images is None and not is_coco_file(path):
        path = get_image_folder(path) / path.name
    return ImageFinder(path, Path(images) if images is not None else None, names)


def list_splits(path: Path) -> list[str]:
    """The names of the splits that a data set has; the one that is read without a name comes first.

    The lists of images of Pascal VOC are not among them: without a name, all images are read.
    """
    place, _ = split_spec(path)
    kind = _find_folder_format(place) if place.is_dir() else _find_file_format(place)
    if kind == "yolo":
        from tailseg.annotations.formats import yolo

        return yolo.list_splits(place)
    if kind in ("coco_folder", "datumaro"):
        from tailseg.annotations.formats import coco_folder, datumaro

        files = coco_folder.list_files(place) if kind == "coco_folder" else datumaro.list_files(place)
        return [split for split in files if split]
    return []


def find_validation(path: Path) -> str | None:
    """``PATH:val`` if the path is read as a training split and the data set has a validation split as well."""
    place, split = split_spec(path)
    if split is not None or not place.exists() or is_coco_file(place):
        return None
    return f"{path}:val" if "val" in list_splits(path) else None


def load(path: Path, content: Text | None = None) -> tuple[Sections, str]:
    """Reads labels of any format.

    Args:
        path: the file or the folder, or ``PATH:SPLIT``.
        content: the content of the file, if it is in memory.

    Returns:
        The sections; the SHA-256 of the file, or of the sections of a folder.

    Raises:
        DatasetError: the path has no labels, or they cannot be read; the message says what is there instead.
    """
    if content is None and not is_coco_file(path):
        sections = _convert(*split_spec(path))
        digest = hashlib.sha256(msgspec.json.encode([sections.images, sections.categories]))
        for record in iterate_records(sections.annotations, sections.text):
            digest.update(record if isinstance(record, msgspec.Raw) else msgspec.json.encode(record))
        return sections, digest.hexdigest()
    content = read_text(path) if content is None else content
    key = hashlib.sha256(content).hexdigest()
    content = decompress(content, path)
    try:
        sections = split_sections(content, path)
    except OtherFormatError as error:
        return _convert_json(error.content, path, error), key
    first = map(decode_record, sections.annotations[:FIRST_RECORDS])
    if any(isinstance(record, dict) and isinstance(record.get("points"), list) for record in first):
        from tailseg.annotations.formats import segments

        return segments.read_coco(sections), key
    return sections, key


def read_sections(path: Path) -> Sections:
    """Reads labels of any format, see `load`."""
    return load(path)[0]


def read_images(path: Path) -> list[Any]:
    """Reads the image records of labels of any format; see `load`."""
    if not is_coco_file(path):
        return read_sections(path).images
    try:
        return read_image_records(path)
    except OtherFormatError:
        return read_sections(path).images


def _convert_json(content: Any, path: Path, error: DatasetError) -> Sections:  # noqa: ANN401
    """Converts the content of a JSON file of another format."""
    from tailseg.annotations.formats import datumaro, label_studio, labelme, segments, supervisely, via

    if labelme.is_labelme(content):
        return labelme.read(path)
    for module, recognizes in (
        (datumaro, datumaro.is_datumaro),
        (segments, segments.is_release),
        (label_studio, label_studio.is_label_studio),
        (via, via.is_via),
    ):
        if recognizes(content):
            return module.read(content, path)
    if supervisely.find_meta(path):
        return supervisely.read(path)
    raise error


def _find_file_format(path: Path) -> str | None:
    """The format of a file that is not JSON, by the name of its module; None if it is unknown."""
    from tailseg.annotations.formats import cvat, via, voc, yolo

    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml", ".data") and path.is_file() and yolo.find_file(path):
        return "yolo"
    if suffix == ".csv" and path.is_file() and via.is_csv(path):
        return "via"
    if suffix == ".xml":
        return "cvat" if cvat.find_file(path) else "voc" if voc.is_voc(path) else None
    return None


def _find_folder_format(path: Path) -> str | None:
    """The format of a folder, by the name of its module; None if it is unknown."""
    from tailseg.annotations.formats import coco_folder, cvat, datumaro, labelme, mask_folder, supervisely, voc, yolo

    for name, recognizes in (
        ("coco_folder", coco_folder.list_files),
        ("supervisely", supervisely.find_meta),
        ("cvat", cvat.find_file),
        ("yolo", yolo.find_file),
        ("datumaro", datumaro.list_files),
        ("voc", voc.is_voc),
        ("mask_folder", mask_folder.find_masks),
        ("mask_folder", mask_folder.is_bowl),
        ("labelme", labelme.is_folder),
    ):
        if recognizes(path):
            return name
    return None


def _convert(path: Path, split: str | None) -> Sections:
    if split is not None and path.is_file() and path.suffix.lower() not in NOT_JSON:
        raise DatasetError(f"{path} is one file without splits, but {split!r} was named: leave out :{split}")
    kind = _find_folder_format(path) if path.is_dir() else _find_file_format(path)
    if kind is None:
        raise DatasetError(describe_missing(path))
    from tailseg.annotations.formats import (
        coco_folder,
        cvat,
        datumaro,
        labelme,
        mask_folder,
        supervisely,
        via,
        voc,
        yolo,
    )

    if kind == "via":
        return via.read_csv(path)
    readers = {
        "coco_folder": coco_folder.read,
        "cvat": cvat.read,
        "datumaro": datumaro.read_folder,
        "labelme": labelme.read,
        "mask_folder": mask_folder.read,
        "supervisely": supervisely.read,
        "voc": voc.read,
        "yolo": yolo.read,
    }
    return readers[kind](path, split)


def describe_missing(path: Path) -> str:
    """Says why a path cannot be read."""
    if not path.exists():
        return (
            f"{path} does not exist. Expected an annotation file in LVIS or COCO format (.json), or labels of another "
            "format"
        )
    if path.is_dir():
        return f"{path} is a folder, not a file, and has no labels that tailseg recognizes. It reads {FORMATS}"
    if not path.is_file():
        return f"{path} is a pipe or a device, not a file. Expected an annotation file in LVIS or COCO format (.json)"
    return f"{path} is in no format that tailseg recognizes. It reads {FORMATS}"
