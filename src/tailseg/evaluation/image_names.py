"""Which image of the annotation file a result record means: the one place that decides it.

A record says it by ``image_id``: an id of the file, a file's name (with folders, bare, or without its suffix), or, as
ultralytics does, the number that a name of digits is; and perhaps by a ``file_name`` of its own. All records of a file
are read in one way.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Final

from tailseg.annotations.columns import parse_whole_number
from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import get_first_name
from tailseg.evaluation.survey import ImageReference, Survey
from tailseg.words import count_noun, count_part, verb_form

SHOWN: Final = 5
"""Names and ids that a message shows."""
_SUFFIX: Final = re.compile(r"\.[^./]*$")


class UnknownImagesError(ValueError):
    """What stands for the image in some records means none."""


@dataclass(frozen=True)
class Reading:
    """How records are read.

    Attributes:
        names: image ids by what records call the images; None where their ``image_id`` are the ids.
        note: what is to be said about it; nothing where nothing else was possible.
        other: a reading that is possible too, and means other images, where nothing in the records decides.
        images_of_other: the ids of the latter's images, by those of this reading.
    """

    names: Mapping[ImageReference, int] | None
    note: str = ""
    other: "Reading | None" = None
    images_of_other: Mapping[int, int] = field(default_factory=dict)


class ImageNames:
    """What an annotation file calls its images."""

    def __init__(self, annotations: Annotations) -> None:
        self.path = annotations.path
        self._ids = annotations.image_ids.tolist()
        self._files = annotations.names
        self._known = frozenset(self._ids)
        self.text_ids = {text: key for key, text in annotations.text_ids[0].items()}
        """Ids by the texts that the file writes for them."""

    @cached_property
    def has_clash(self) -> bool:
        """Whether a number is the id of an image and the name of another."""
        return any(number in self._known and number != key for number, key in self._numbers())

    @cached_property
    def numbers(self) -> dict[int, int | None]:
        """Image ids by the numbers that their files' names are; None for a number of several."""
        return _index_unique(self._numbers())

    def _numbers(self) -> Iterator[tuple[int, int]]:
        """The numbers that files' names are, and their images; on bytes, for all results are asked for a clash."""
        text, offsets = self._files.values.tobytes(), self._files.offsets.tolist()
        for key, start, end in zip(self._ids, offsets[:-1], offsets[1:], strict=True):
            line = text.find(b"\n", start, end)
            stop = end if line < 0 else line
            first = max(text.rfind(b"/", start, stop), text.rfind(b"\\", start, stop), start - 1) + 1
            dot = text.rfind(b".", first, stop)
            stem = text[first : stop if dot < 0 else dot]
            if stem.isdigit() and len(stem) < 19:
                yield int(stem), key

    def get_name(self, row: int) -> str:
        """The first name of an image's file, as it is written but for the separators."""
        return get_first_name(self._files, row)

    @cached_property
    def _full(self) -> dict[str, int | None]:
        """Image ids by whole names, with suffix and without; None where several images have it."""
        names = ((self.get_name(row), key) for row, key in enumerate(self._ids))
        return _index_unique((each, key) for name, key in names if name for each in {name, _SUFFIX.sub("", name)})

    @cached_property
    def _tails(self) -> dict[str, int | None]:
        """Image ids by the ends of all names that an image may have, in folders, with suffix and without."""
        found: list[tuple[str, int]] = []
        for row, key in enumerate(self._ids):
            names = {name.replace("\\", "/") for name in self._files.text(row).split("\n") if name}
            ends = {end for name in names for end in _get_ends(name)}
            found += [(each, key) for each in ends | {_SUFFIX.sub("", end) for end in ends}]
        return _index_unique(found)

    def find_by_name(self, name: str) -> int | None:
        """The id of the image of this name: its whole name, or the longest end that one image has."""
        for end in _get_ends(name.replace("\\", "/")):
            for names in (self._full, self._tails):
                if end in names:
                    return names[end]
        return None

    def is_shared(self, name: str) -> bool:
        """Whether several images have this name, or its longest end that any has."""
        ends = (end for end in _get_ends(name.replace("\\", "/")) if end in self._tails)
        return self.find_by_name(name) is None and next(ends, None) is not None

    def find_files(self, name: str) -> list[str]:
        """The first two files that have a name of several images, or its longest end that any has."""
        end = next(end for end in _get_ends(name.replace("\\", "/")) if end in self._tails)
        files = (self.get_name(row) for row in range(len(self._ids)))
        return [*islice((file for file in files if _is_end(end, file) or _is_end(end, _SUFFIX.sub("", file))), 2)]

    def find_by_id(self, value: float | str | None) -> int | None:
        """The id that an ``image_id`` is, or spells."""
        if isinstance(value, str):
            number = self.text_ids.get(
                value, parse_whole_number(value) if value == str(parse_whole_number(value)) else None
            )
        else:
            number = parse_whole_number(value)
        return number if number in self._known else None

    def find_by_number_or_name(self, value: float | str | None) -> int | None:
        """The id of the image whose name, or its number, an ``image_id`` is."""
        if isinstance(value, str):
            return self.find_by_name(value)
        return self.numbers.get(value) if isinstance(value, int) else None

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {key: row for row, key in enumerate(self._ids)}

    def get_file(self, image_id: int) -> str:
        """The name of an image's file."""
        return self.get_name(self._rows[image_id])

    def decide_reading(self, found: Survey) -> Reading:
        """How the records are read, all of them.

        Raises:
            UnknownImagesError: no reading gives each an image; says how many have none.
        """
        return _Decision(self, found).decide()


class _Decision:
    """Weighs the readings of some records against each other."""

    def __init__(self, images: ImageNames, found: Survey) -> None:
        self.images, self.found = images, found
        self.ids = {key: images.find_by_id(key[0]) for key in found.images}
        self.names = {key: images.find_by_number_or_name(key[0]) for key in found.images}
        self.own = self._read_file_names()
        self.known = [key for key, image in self.own.items() if image is not None]

    def _read_file_names(self) -> dict[ImageReference, int | None]:
        """By the records' own ``file_name``; None as well where two of these would mean one image."""
        own = {key: self.images.find_by_name(key[1]) if key[1] else None for key in self.found.images}
        files: defaultdict[int | None, set[str | None]] = defaultdict(set)
        for key, image in own.items():
            files[image].add(key[1])
        return {key: image if len(files[image]) == 1 else None for key, image in own.items()}

    def decide(self) -> Reading:
        """The one that the records' own names support; without any, ids, unless a text is rather a name."""
        ids, names = (_require_complete(each) for each in (self.ids, self.names))
        own = _require_complete(self.own)
        if self.known:
            if ids is not None and self._agree(self.ids):
                return Reading(None, self._describe_unknown_files())
            if own is not None:
                return Reading(
                    own, "; ".join(filter(None, [self._describe_other_ids(), self._describe_other_folders()]))
                )
            if names is not None and self._agree(self.names):
                return Reading(names)
            raise UnknownImagesError(self._describe_mixed_files())
        note = self._describe_unknown_files()
        if ids is None and names is None:
            raise UnknownImagesError(self._describe_unknown())
        if ids is None or names is None or ids == names:
            return Reading(None if ids is not None else names, note)
        by_id, by_name = (
            Reading(None, self._describe_clash(by_name=False)),
            Reading(names, self._describe_clash(by_name=True)),
        )
        if any(isinstance(key[0], str) and key[0] not in self.images.text_ids for key in ids):
            others = {names[key]: image for key, image in ids.items()}
            return replace(by_name, other=by_id, images_of_other=others)
        return replace(by_id, other=by_name, images_of_other={image: names[key] for key, image in ids.items()})

    def _agree(self, reading: Mapping[ImageReference, int | None]) -> bool:
        return all(reading[key] == self.own[key] for key in self.known)

    def _join_examples(self, keys: Iterable[ImageReference]) -> str:
        some = list(dict.fromkeys(str(key[1]) for key in keys if key[1]))
        return ", ".join(some[:3]) + " .." * (len(some) > 3)

    def _describe_other_ids(self) -> str:
        """The note where ids fit too, but mean other images."""
        others = [key for key in self.known if self.ids[key] not in (None, self.own[key])]
        if not others:
            return ""
        key = others[0]
        return (
            f"{self.found.source}: the image_id of {self.found.count(others)} is that of another image of "
            f"{self.images.path} than their file_name (image_id {key[0]}, the image {self._get_file(self.ids[key])}, "
            f"but file_name {key[1]}): file_name is used"
        )

    def _describe_other_folders(self) -> str:
        """The note where file names fit by their last parts alone."""
        pairs = {f"{key[1]}".replace("\\", "/"): self._get_file(self.own[key]) for key in self.known}
        others = [(name, file) for name, file in pairs.items() if not _is_end(name, file) and not _is_end(file, name)]
        if not others:
            return ""
        return (
            f"{count_noun(len(others), 'name')} in the results {verb_form(len(others), 'has', 'have')} other folders "
            f"than in {self.images.path} ({others[0][0]} is read as {others[0][1]}): the last part is used"
        )

    def _get_file(self, image: int | None) -> str:
        return "" if image is None else self.images.get_file(image)

    def _describe_unknown_files(self) -> str:
        """The note where ids are followed, and records have file names of no image."""
        strange = [key for key, image in self.own.items() if image is None and key[1]]
        if not strange:
            return ""
        return (
            f"{self.found.source}: the file_name of {self.found.count(strange)} is that of no image of "
            f"{self.images.path}, or of several ({self._join_examples(strange)}): image_id is used; were they made for "
            "other images?"
        )

    def _describe_mixed_files(self) -> str:
        """The error where file names decide, and some are of no image, or of several."""
        strange = [key for key, image in self.own.items() if image is None]
        return (
            f"{self.found.source}: the file_name of {self.found.count(strange)} is that of no image of "
            f"{self.images.path}, or of several ({self._join_examples(strange)}), and their image_id cannot be used: "
            "those of other records do not mean the image of their file_name. Remove the records of images that the "
            "file lacks, or write file_name as it does, with the folders"
        )

    def _describe_unknown(self) -> str:
        """The error where neither ids nor names fit."""
        by_id, by_name = ([key for key, image in each.items() if image is None] for each in (self.ids, self.names))
        fewer = by_name if len(by_name) < len(by_id) else by_id
        some = list(dict.fromkeys(str(key[0]) for key in sorted(fewer, key=_sort_key) if key[0] is not None))
        texts = [key[0] for key in fewer if isinstance(key[0], str)]
        shared = [name for name in texts if self.images.is_shared(name)]
        begin = f"{self.found.source}: the image_id of {self.found.count(fewer)}"
        if shared and len(shared) == len(fewer):
            files = " and ".join(self.images.find_files(shared[0]))
            return (
                f"{begin} is the name of several images of {self.images.path} ({shared[0]}: {files}): write it with "
                "the folders, as that file does"
            )
        what = "" if fewer is by_id else ", taken for names of its images,"
        begin = f"{begin}{what} is not in {self.images.path} ({', '.join(some[:SHOWN])} ..)"
        stems = [self.images.find_by_name(_SUFFIX.sub("", key[0])) for key in fewer if isinstance(key[0], str)]
        unnamed = all(self.names[key] is None for key in fewer)
        if unnamed and None not in stems and len(stems) == len(fewer):
            return (
                f"{begin}, but all are names of its images with another suffix ({texts[0]} is "
                f"{self._get_file(stems[0])} there): write the names as that file does"
            )
        return f"{begin}: were they made for another split?"

    def _describe_clash(self, *, by_name: bool) -> str:
        """The note where nothing decides; `complete_clash_note` completes it."""
        others = [key for key in self.ids if self.ids[key] != self.names[key]]
        key = others[0]
        return (
            f"{self.found.source}: the image_id of {self.found.count(others)} are ids of {self.images.path} and also "
            f"names of its images, and mean different images ({key[0]} is the id of {self._get_file(self.ids[key])} "
            f"and the name of {self._get_file(self.names[key])}): taken as {'names' if by_name else 'ids'}"
        )


def complete_clash_note(note: str, hits: int, others: int, sample: int) -> str:
    """The note on a clash, with what speaks for the reading that was taken and for the other one.

    Args:
        note: of the reading.
        hits: detections that lie on an object so.
        others: those that do by the other reading.
        sample: detections that were looked at.

    Returns:
        The whole note.
    """
    return (
        f"{note}; {count_part(hits, sample, 'detection')} {verb_form(hits, 'lies', 'lie')} on an object in this way, "
        f"{others:,} in the other way. Give each record the file_name of its image, which decides"
    )


def _index_unique(pairs: Iterable[tuple[Any, int]]) -> dict[Any, int | None]:
    """Ids by name; None for a name of several."""
    found: dict[Any, int | None] = {}
    for name, key in pairs:
        found[name] = key if found.get(name, key) == key else None
    return found


def _get_ends(name: str) -> Iterator[str]:
    """The name, then without its first folder, and so on."""
    name = name.removeprefix("./")
    while name:
        yield name
        name = name.partition("/")[2]


def _is_end(name: str, whole_name: str) -> bool:
    return f"/{whole_name}".endswith(f"/{name}")


def _require_complete(reading: Mapping[ImageReference, int | None]) -> dict[ImageReference, int] | None:
    """The reading, if it gives all an image."""
    found = {key: image for key, image in reading.items() if image is not None}
    return found if len(found) == len(reading) else None


def _sort_key(key: ImageReference) -> tuple[bool, float, str]:
    number = isinstance(key[0], int | float)
    return not number, key[0] if isinstance(key[0], int | float) else 0, str(key[0])
