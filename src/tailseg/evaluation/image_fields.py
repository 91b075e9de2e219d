r"""The values of a field of the image records: the site, the camera, or whatever an annotation file says of its images.

A field is a key of the image records (``site``), a path to a nested one (``attributes.camera``), or one of these with a
pattern that takes a part of each value: ``file_name:^[^/]+`` is the first folder, ``file_name:_cam(\d+)_`` the digits.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.columns import parse_whole_number
from tailseg.annotations.dataset import Annotations
from tailseg.annotations.formats.registry import exists, read_images
from tailseg.words import count_noun, count_part, verb_form

FieldsSource = str | Sequence[str] | Mapping[str, Mapping[int, Any]]
"""The name of a field, several names, or for each name the value of each image id."""
NO_VALUE: Final = "(none)"
"""Stands for the value of images whose record has none."""
MAX_VALUES: Final = 100
"""Values of one field: a table of more is no overview."""
MAX_NAMES: Final = 20
"""Fields that a message names."""


def read_fields(source: object, annotations: Annotations, by: object) -> dict[str, np.ndarray]:
    """Reads the values of fields.

    Args:
        source: the path of the annotation file or its content as a dict; of anything else the path of ``annotations``.
        annotations: the annotations, as opened.
        by: the fields, or the values themselves: `FieldsSource`.

    Returns:
        For each field the values as text, one for each image in order of id.

    Raises:
        TypeError: the fields are something else.
        ValueError: no image has the field, it holds lists or objects, or it has too many values.
    """
    if isinstance(by, Mapping):
        columns = {str(name): _take_values(str(name), values) for name, values in by.items()}
    elif isinstance(by, str | Sequence) and all(isinstance(name, str) for name in by):
        names = [by] if isinstance(by, str) else [*by]
        records = _get_records(source, annotations) if names else {}
        columns = {name: _read_field(name, records, annotations.path) for name in names}
    else:
        raise TypeError(
            "by should be the name of a field of the image records, several names, or a dict such as {'site': {1: "
            f"'north', 2: 'south'}}}} with the value of each image id; got {by!r:.100}"
        )
    fields = {}
    for name, values in columns.items():
        texts = {key: _to_text(name, key, value) for key, value in values.items()}
        column = np.array([texts.get(key, NO_VALUE) for key in np.sort(annotations.image_ids).tolist()], dtype=object)
        _check_number(name, column)
        fields[name] = column
    return fields


def sort_values(values: np.ndarray) -> list[str]:
    """The different values: numbers by size, texts by alphabet and by the numbers in them, images without one last."""
    different = {*values.tolist()}
    last = [NO_VALUE] if NO_VALUE in different else []
    texts = different - {NO_VALUE}
    try:
        return [*sorted(texts, key=lambda text: (float(text), text)), *last]
    except ValueError:
        return [*sorted(texts, key=lambda text: (_split_numbers(text), text)), *last]


def _split_numbers(text: str) -> list[str | int]:
    """``site12`` as ``["site", 12, ""]``: every second part is a number."""
    parts = re.split(r"([0-9]+)", text.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _get_records(source: object, annotations: Annotations) -> dict[int, Mapping[str, Any]]:
    """The image records by image id, of the images that the annotations have."""
    if isinstance(source, Mapping):
        records = source.get("images", [])
    elif exists(annotations.path):
        records = read_images(annotations.path)
    else:
        raise ValueError(
            "by needs the image records, and there is no file to read them from: name the annotation file, or give the "
            "values themselves, such as by={'site': {1: 'north', 2: 'south'}}"
        )
    ids = {*annotations.image_ids.tolist()}
    numbered = ((parse_whole_number(record.get("id")), record) for record in records if isinstance(record, Mapping))
    return {key: record for key, record in numbered if key is not None and key in ids}


def _read_field(name: str, records: Mapping[int, Mapping[str, Any]], path: Path) -> dict[int, Any]:
    """The values of a field by image id; images without one are left out."""
    if values := _look_up(name, records):
        return values
    field, colon, pattern = name.partition(":")
    values = _look_up(field, records) if colon else {}
    if not values:
        raise ValueError(
            f"no image record of {path} has a value of the field {field!r}. {_describe_fields(records)}. Name one of "
            "them"
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} of the field {field!r} is no regular expression: {error}") from error
    matches = {key: compiled.search(_to_text(name, key, value)) for key, value in values.items()}
    found = {key: match[1] if compiled.groups else match[0] for key, match in matches.items() if match}
    if not found:
        first = next(iter(values.values()))
        raise ValueError(
            f"the pattern {pattern!r} fits no value of the field {field!r}, such as {first!r:.100}: correct it"
        )
    return found


def _look_up(name: str, records: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    """The values of a key, else of a path to a nested one."""
    values = {key: record[name] for key, record in records.items() if name in record}
    if not values and "." in name:
        values = {key: _descend(record, name.split(".")) for key, record in records.items()}
    return {key: value for key, value in values.items() if not _is_missing(value)}


def _is_missing(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _descend(record: Any, path: Sequence[str]) -> Any:  # noqa: ANN401 - anything that JSON can hold
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _take_values(name: str, values: object) -> dict[int, Any]:
    """Values that the user gives by image id."""
    if not isinstance(values, Mapping):
        raise TypeError(
            f"by[{name!r}] should be a dict with the value of each image id, such as {{1: 'north', 2: 'south'}}; got "
            f"{values!r:.100}"
        )
    return {int(key): value for key, value in values.items() if not _is_missing(value)}


def _to_text(name: str, image_id: int, value: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    """A value as JSON writes it, texts without quotes.

    Raises:
        ValueError: it is a list or an object.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str | int | float):
        return str(value)[:1000].encode(errors="replace").decode()
    part = (
        f"a part of it, such as {name}.{next(iter(value))}" if isinstance(value, Mapping) and value else "another field"
    )
    what = "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise ValueError(
        f"the field {name!r} of image {image_id} holds {what} ({value!r:.60}), but a text, a number, true or false is "
        f"expected: name {part}"
    )


def _check_number(name: str, values: np.ndarray) -> None:
    """Raises ValueError if a field has too many values."""
    different = sort_values(values)
    if len(different) > MAX_VALUES:
        field = name.partition(":")[0]
        raise ValueError(
            f"the field {name!r} has {count_noun(len(different), 'different value')} in "
            f"{count_noun(len(values), 'image')} ({', '.join(different[:3])} ..), and at most {MAX_VALUES} are "
            f"evaluated. Take a part of each value with a pattern, such as '{field}:^...' for the first three "
            "characters, or write a field with fewer values into the image records"
        )


def _describe_fields(records: Mapping[int, Mapping[str, Any]]) -> str:
    """The fields that the records have, and how many images have them."""
    counts: dict[str, int] = {}
    for record in records.values():
        for name, value in _list_fields(record):
            counts[name] = counts.get(name, 0) + (not _is_missing(value))
    names = [f"{name} ({count_part(count, len(records), 'image')})" for name, count in counts.items() if count]
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return f"The records {verb_form(len(names), 'has', 'have')} {', '.join(names[:MAX_NAMES]) or 'no field'}{more}"


def _list_fields(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The names and values that can be evaluated, those of nested objects too."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _list_fields(value, f"{prefix}{name}.")
        elif not isinstance(value, list) and (prefix or name != "id"):
            yield f"{prefix}{name}", value
