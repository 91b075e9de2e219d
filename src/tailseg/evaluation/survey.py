"""What the records of some results call their images and classes, counted before they are read."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from tailseg.evaluation import json_files
from tailseg.words import count_part

ImageReference = tuple[int | float | str | None, str | None]
"""What a record calls its image: by ``image_id`` and by ``file_name``; None where that is missing or no name."""
Source = Sequence[Mapping[str, Any]] | str | Path
_FIRST: Final = 1000


@dataclass(frozen=True)
class Survey:
    """What all records of some results say, counted.

    Attributes:
        source: how messages call the results.
        images: by what records call the image.
        categories: by ``category_id``.
    """

    source: str
    images: Counter[ImageReference] = field(default_factory=Counter)
    categories: Counter[Any] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Records in all."""
        return self.images.total()

    def count(self, keys: Iterable[ImageReference]) -> str:
        """How many records have these, of how many, in words."""
        return count_part(sum(self.images[key] for key in keys), self.total, "record")


class _Record(msgspec.Struct, gc=False):
    image_id: int | float | str | None = None
    file_name: str | None = None
    category_id: int | float | str | None = None


_DECODER: Final = msgspec.json.Decoder(list[_Record])


def get_image_reference(record: Any) -> ImageReference:  # noqa: ANN401
    """What a record calls its image."""
    if not isinstance(record, Mapping):
        return None, None
    image_id, file_name = record.get("image_id"), record.get("file_name")
    usable = isinstance(image_id, int | float | str) and not isinstance(image_id, bool)
    return image_id if usable else None, file_name if isinstance(file_name, str) else None


def count_references(source: Source, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Counts what all records call their images and classes.

    Raises:
        FileNotFoundError, ValueError: as `json_files.read_records`.
    """
    found = Survey(_get_name(source))
    pieces = json_files.read_records(Path(source), progress, _parse) if isinstance(source, str | Path) else [source]
    for records in pieces:
        if records and isinstance(records[0], _Record):
            typed = cast("list[_Record]", records)
            found.images.update((record.image_id, record.file_name) for record in typed)
            found.categories.update(record.category_id for record in typed)
        else:
            found.images.update(map(get_image_reference, records))
            found.categories.update(map(_get_category, records))
    return found


def _parse(text: bytes) -> Any:  # noqa: ANN401
    try:
        return _DECODER.decode(text)
    except ValueError:
        return json_files.parse(text)


def _get_category(record: Any) -> Any:  # noqa: ANN401
    value = record.get("category_id") if isinstance(record, Mapping) else None
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else None


def _get_name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else "results"


def has_file_names(source: Source) -> bool:
    """Whether the first records have a ``file_name``, by a look at the beginning of the file.

    Raises:
        FileNotFoundError, ValueError: as `json_files.read_records`.
    """
    if isinstance(source, str | Path):
        return b'"file_name"' in json_files.read_beginning(Path(source))
    return any(isinstance(record, Mapping) and "file_name" in record for record in islice(source, _FIRST))
