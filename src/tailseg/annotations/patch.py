"""Patches: changes of an annotation file, which somebody confirmed, and a copy with these changes.

A patch is a JSON object:

    format       "tailseg patch 1"
    file         name of the annotation file
    key          SHA-256 of its content, in hexadecimal: a patch of another file is refused
    changes      a list of changes

and a change is an object:

    kind           "class", "missing", "outline" or "duplicate": why; it decides nothing
    image_id       the image
    annotation_id  the annotation; null adds one
    was            fields of the annotation before the change; null if it is added
    becomes        its new fields; null removes the annotation
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from tailseg.annotations.problems import DatasetError
from tailseg.annotations.writers.coco import LVIS_LISTS
from tailseg.annotations.writers.labels import Labels

FORMAT: Final = "tailseg patch 1"
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class _Fields(msgspec.Struct):
    """Fields of an annotation that a patch may change."""

    category_id: int = 0
    bbox: tuple[float, float, NotNegative, NotNegative] = (0, 0, 0, 0)
    segmentation: list[list[float]] | dict[str, Any] | None = None
    area: NotNegative = 0
    iscrowd: Literal[0, 1] = 0


FIELDS: Final = frozenset(_Fields.__struct_fields__)


@dataclass(frozen=True)
class Change:
    """A change of one annotation; the fields are those of a patch file."""

    kind: str
    image_id: int
    annotation_id: int | None
    was: Mapping[str, Any] | None
    becomes: Mapping[str, Any] | None


@dataclass(frozen=True)
class Patch:
    """A patch; the fields are those of a patch file."""

    file: str
    key: str
    changes: Sequence[Change]


def compute_key(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_plain(patch: Patch) -> dict[str, Any]:
    """Converts a patch to JSON's types."""
    return {
        "format": FORMAT,
        "file": patch.file,
        "key": patch.key,
        "changes": [asdict(change) for change in patch.changes],
    }


def read_patch(path: Path) -> Patch:
    """Reads a patch file.

    Args:
        path: the file.

    Returns:
        The patch.

    Raises:
        DatasetError: the file is not a patch, or a change is malformed.
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}. Name a patch that the page of `data errors` saved") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        suspects = isinstance(content, dict) and "suspects" in content
        reason = "lists suspects that nobody has confirmed" if suspects else f'has no "format": "{FORMAT}"'
        raise DatasetError(f"{path} {reason}. Name a patch that the page of `data errors` saved")
    file, key, changes = (content.get(name) for name in ("file", "key", "changes"))
    if not isinstance(file, str) or not isinstance(key, str) or not isinstance(changes, list):
        raise DatasetError(f'{path} needs the texts "file" and "key", and the list "changes"')
    return Patch(file, key, [_read_change(change, f"{path}: change {n}") for n, change in enumerate(changes, start=1)])


def _read_change(content: Any, where: str) -> Change:  # noqa: ANN401 - anything that JSON can hold
    names = Change.__dataclass_fields__.keys()
    if not isinstance(content, dict) or content.keys() != names:
        raise DatasetError(f"{where} is {content!r:.80}, expected an object with {', '.join(names)}")
    kind, image, number, was, becomes = (content[name] for name in names)
    if not isinstance(kind, str) or type(image) is not int or not (number is None or type(number) is int):
        raise DatasetError(f"{where}: kind must be a text, image_id a whole number, and annotation_id one or null")
    for part in (was, becomes):
        if part is not None and (not isinstance(part, dict) or not part.keys() <= FIELDS):
            fields = ", ".join(sorted(FIELDS))
            raise DatasetError(f"{where}: was and becomes may have the fields {fields}, got {part!r:.80}")
    try:
        msgspec.convert(becomes or {}, _Fields)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{where}: a field of becomes is wrong: {error}") from error
    if (number is None) != (was is None) or (was is None and becomes is None):
        raise DatasetError(
            f"{where}: an annotation that is added has no annotation_id and no was, and each other has both"
        )
    if number is None and becomes is not None and not becomes.keys() >= {"category_id", "bbox"}:
        raise DatasetError(f"{where}: an annotation that is added needs category_id and bbox")
    return Change(kind, image, number, was, becomes)


def apply_patch(labels: Labels, patch: Patch) -> None:
    """Changes labels in place. LVIS's list of absent classes follows: a class with a new object is not absent.

    Args:
        labels: the records of the file that the patch was made for.
        patch: the changes.

    Raises:
        DatasetError: the patch was made for another file; an image, an annotation or a class is missing; or an
            annotation is not as it was.
    """
    path = labels.annotations.path
    key = compute_key(path)
    if key != patch.key:
        raise DatasetError(
            f"the patch was made for {patch.file} with SHA-256 {patch.key[:12]}, and {path} has {key[:12]}. "
            "Name the unchanged file that `data errors` read"
        )
    positions = {
        (image, record["id"]): place
        for image, records in labels.objects.items()
        for place, record in enumerate(records)
    }
    last = max((number for _, number in positions), default=0)
    changed: dict[int, list[dict[str, Any]]] = {}
    removed: set[tuple[int, int]] = set()
    for change in patch.changes:
        if change.image_id not in labels.objects:
            raise DatasetError(f"the patch changes image {change.image_id}, which {path} does not have")
        records = changed.setdefault(change.image_id, labels.objects[change.image_id])
        new = dict(change.becomes or {})
        if "category_id" in new:
            _check_class(labels, new["category_id"])
        if change.annotation_id is None:
            last += 1
            records.append({"id": last, "image_id": change.image_id, "iscrowd": 0} | new)
        else:
            place = positions.get((change.image_id, change.annotation_id))
            if place is None:
                raise DatasetError(
                    f"the patch changes annotation {change.annotation_id} of image {change.image_id}, which {path} "
                    "does not have"
                )
            _check_state(records[place], change)
            records[place] = records[place] | new
            if change.becomes is None:
                removed.add((change.image_id, change.annotation_id))
    for image, records in changed.items():
        labels.objects[image] = [record for record in records if (image, record["id"]) not in removed]
    for image in labels.images:
        present = {record["category_id"] for record in labels.objects[image["id"]]}
        if LVIS_LISTS[0] in image:
            image[LVIS_LISTS[0]] = [number for number in image[LVIS_LISTS[0]] if number not in present]


def _check_class(labels: Labels, number: int) -> None:
    if number not in labels.names:
        raise DatasetError(f"the patch names the class {number!r}, which {labels.annotations.path} does not have")


def _check_state(record: Mapping[str, Any], change: Change) -> None:
    different = [name for name, value in (change.was or {}).items() if record.get(name) != value]
    if different:
        raise DatasetError(
            f"annotation {change.annotation_id} has another {', '.join(different)} than the patch says. Make the patch "
            "again with `data errors`"
        )
