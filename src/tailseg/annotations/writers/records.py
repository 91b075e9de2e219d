"""The records of a data set's objects, by image. They are kept as JSON text: a dictionary with lists takes five times
the memory.
"""

from collections.abc import Iterable, Iterator, MutableMapping
from operator import itemgetter
from typing import Any

import msgspec

from tailseg.annotations.json_file import Text, decode_record, encode_record

Record = dict[str, Any]


class ObjectRecords(MutableMapping[int, list[Record]]):
    """The records of the objects of each image, by the image's id.

    Reading decodes the records of an image; a change of a record counts when the list is assigned again:
    ``records[image] = [record | {"category_id": 3} for record in records[image]]``.

    Args:
        images: the ids of the images, without objects yet.
        text: the text that objects which are added lie in.
    """

    def __init__(self, images: Iterable[int] = (), text: Text = b"") -> None:
        self.text = text
        self._texts: dict[int, list[msgspec.Raw]] = {image: [] for image in images}
        self._ids: dict[int, list[Any]] = {image: [] for image in self._texts}

    def __getitem__(self, image: int) -> list[Record]:
        return list(map(decode_record, self._texts[image]))

    def __setitem__(self, image: int, records: Iterable[Record]) -> None:
        records = list(records)
        self._texts[image] = list(map(encode_record, records))
        self._ids[image] = [record["id"] for record in records]

    def __delitem__(self, image: int) -> None:
        del self._texts[image], self._ids[image]

    def __iter__(self) -> Iterator[int]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def num_objects(self) -> int:
        """The number of objects in all images."""
        return sum(map(len, self._texts.values()))

    def add(self, image: int, number: Any, text: msgspec.Raw) -> None:  # noqa: ANN401 - files have ids of any type
        """Adds an object of an image.

        Args:
            image: the image's id.
            number: the id of the object.
            text: its record as JSON.
        """
        self._texts[image].append(text)
        self._ids[image].append(number)

    def select(self, images: Iterable[int]) -> "ObjectRecords":
        """The objects of some images."""
        selected = ObjectRecords(text=self.text)
        selected._texts = {image: self._texts[image] for image in images}
        selected._ids = {image: self._ids[image] for image in selected._texts}
        return selected

    def list_texts(self, images: Iterable[int]) -> list[msgspec.Raw]:
        """The objects of these images as JSON text, ordered by id."""
        numbered = [pair for image in images for pair in zip(self._ids[image], self._texts[image], strict=True)]
        numbered.sort(key=itemgetter(0))
        return [text for _, text in numbered]
