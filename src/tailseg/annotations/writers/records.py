"""The records of a data set's objects, by image. They are kept as JSON text: a dictionary with lists takes five times
the memory.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import msgspec

from tailseg.annotations.json_file import decode_record, encode_record

Record = dict[str, Any]


class ObjectRecords(MutableMapping[int, list[Record]]):
    """The records of the objects of each image, by the image's id.

    Reading decodes the records of an image; a change of a record counts when the list is assigned again:
    ``records[image] = [record | {"category_id": 3} for record in records[image]]``.

    Args:
        images: the ids of the images, without objects yet.
    """

    def __init__(self, images: Iterable[int] = ()) -> None:
        self._texts: dict[int, list[msgspec.Raw]] = {image: [] for image in images}

    def __getitem__(self, image: int) -> list[Record]:
        return list(map(decode_record, self._texts[image]))

    def __setitem__(self, image: int, records: Iterable[Record]) -> None:
        self._texts[image] = list(map(encode_record, records))

    def __delitem__(self, image: int) -> None:
        del self._texts[image]

    def __iter__(self) -> Iterator[int]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def num_objects(self) -> int:
        """The number of objects in all images."""
        return sum(map(len, self._texts.values()))

    def add(self, image: int, text: msgspec.Raw) -> None:
        """Adds an object of an image, as JSON text."""
        self._texts[image].append(text)

    def select(self, images: Iterable[int]) -> "ObjectRecords":
        """The objects of some images."""
        selected = ObjectRecords()
        selected._texts = {image: self._texts[image] for image in images}
        return selected

    def list_texts(self, images: Iterable[int]) -> list[msgspec.Raw]:
        """The objects of these images as JSON text, ordered by id."""
        texts = [text for image in images for text in self._texts[image]]
        ids = [msgspec.json.decode(text, type=_Identified).id for text in texts]
        return [texts[row] for row in sorted(range(len(texts)), key=ids.__getitem__)]


class _Identified(msgspec.Struct):
    id: Any
