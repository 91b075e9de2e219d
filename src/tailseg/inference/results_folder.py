"""The results of `tailseg predict` in a folder: written image by image, continued after a kill, merged from parts.

    results.jsonl   a line for each image, in order: its detections, or the error
    results.json    the detections of all lines, as one COCO-style list
    predict.json    the settings of the call, and whether it came to its end

The line of an image is written last. So an image without a line was not finished, and is detected again.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from tailseg import __version__
from tailseg.files import JsonLines, JsonList, read_json_lines, write_text
from tailseg.words import count_noun

LINES: Final = "results.jsonl"
LIST: Final = "results.json"
CALL: Final = "predict.json"

Part = tuple[int, int]
"""K and N of ``--part K/N``: every N-th image, from image K on."""
T = TypeVar("T")


class ResultsFolder:
    """The files of a call, open for writing.

    Attributes:
        folder: where they are.
        images: how many images have a line.
        failed: how many of these have an error.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], part: Part = (1, 1), *, resume: bool = False) -> None:
        """Begins the files, or opens those of an earlier call again.

        Args:
            folder: where they are.
            settings: everything on which the results depend, ready for JSON.
            part: which of the images this call detects.
            resume: go on after the last complete line.

        Raises:
            ValueError: there is no earlier call, or it had other settings.
            OSError: the disk is full or cannot be written.
        """
        self.folder = folder
        self.images = self.failed = 0
        self._call = {
            "command": "predict",
            "version": __version__,
            "settings": dict(settings),
            "part": list(part),
            "images": None,
            "finished": False,
        }
        self._keep = check_call(folder, self._call) if resume else 0
        if not resume:
            write_call(folder, self._call)
        self._lines = JsonLines(folder / LINES, self._keep)
        self._list = JsonList(folder / LIST)

    def __enter__(self) -> "ResultsFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.__exit__(kind, error, trace)
        self._list.__exit__(kind, error, trace)

    @property
    def objects(self) -> int:
        """How many detections were written."""
        return self._list.count

    @property
    def path(self) -> Path:
        """The list of detections."""
        return self._list.path

    def skip_done(self, images: Iterator[tuple[int, str, T]]) -> Iterator[tuple[int, str, T]]:
        """Leaves out the images that an earlier call finished, and puts their detections into the list again.

        Args:
            images: number, name and content of all images of this call.

        Yields:
            The images that are not done.

        Raises:
            ValueError: the images are not those of the earlier call.
        """
        earlier = read_json_lines(self.folder / LINES)
        rest = self._keep
        for image_id, name, image in images:
            if not rest:
                yield image_id, name, image
                continue
            line, content = next(earlier)
            rest -= len(content)
            if (line["image_id"], line["file_name"]) != (image_id, name):
                raise ValueError(
                    f"{self.folder / LINES} has {line['file_name']} as image {line['image_id']}, and now {name} is "
                    f"image {image_id}: the images have changed. Run the command without --resume"
                )
            self.add_records(line)
            self._count(line)
        if rest:
            raise ValueError(
                f"{self.folder / LINES} has more images than there are now. Run the command without --resume"
            )

    def add_records(self, line: Mapping[str, Any]) -> None:
        """Adds the detections of an image to the list."""
        self._list.add(make_records(line))

    def finish_image(self, line: Mapping[str, Any]) -> None:
        """Writes the line of an image, whose records and picture are written: it will not be detected again."""
        self._lines.add(line)
        self._count(line)

    def _count(self, line: Mapping[str, Any]) -> None:
        self.images += 1
        self.failed += "error" in line

    def finish(self, images: int) -> None:
        """Notes that the call came to its end.

        Args:
            images: the number of all images, also those of other parts.
        """
        write_call(self.folder, {**self._call, "images": images, "finished": True})


def make_line(
    image_id: int, name: str, extra: Mapping[str, Any], size: tuple[int, int] | None, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Makes the line of an image.

    Args:
        image_id: its number, from 1.
        name: its file.
        extra: further entries.
        size: height and width; None if it could not be read.
        records: its detections: ``category``, and the keys of COCO's results.

    Returns:
        The line, without an error.
    """
    sizes = {} if size is None else {"width": size[1], "height": size[0]}
    return {"image_id": image_id, "file_name": name, **extra, **sizes, "detections": records}


def make_records(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Makes the records of the list from the line of an image."""
    return [{"file_name": line["file_name"], **record} for record in line["detections"]]


def write_call(folder: Path, call: Mapping[str, Any]) -> None:
    """Writes predict.json."""
    write_text(folder / CALL, json.dumps(call, indent=2) + "\n")


def read_call(folder: Path) -> dict[str, Any]:
    """Reads predict.json.

    Raises:
        ValueError: it is not there, or is another file.
    """
    file = folder / CALL
    try:
        call = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no results of `tailseg predict`: {CALL} is not there") from error
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(call, dict) or call.keys() < {"settings", "part", "images", "finished"}:
        raise ValueError(f"{file} was not written by `tailseg predict`")
    return call


def check_call(folder: Path, call: Mapping[str, Any]) -> int:
    """Checks that an earlier call had the same settings.

    Args:
        folder: its results.
        call: the call that continues it.

    Returns:
        The length of the complete lines in results.jsonl, in bytes.

    Raises:
        ValueError: it had others, or there was none.
    """
    earlier = read_call(folder)
    if difference := describe_difference(earlier, call):
        raise ValueError(f"{folder / CALL}: {difference}. Give the same options, or run the command without --resume")
    lines = folder / LINES
    return sum(len(content) for _, content in read_json_lines(lines)) if lines.is_file() else 0


def describe_difference(earlier: Mapping[str, Any], call: Mapping[str, Any]) -> str:
    """Names the first setting in which two calls differ; empty if they are equal."""
    one, other = ({**each["settings"], "part": each["part"]} for each in (earlier, call))
    plain = json.loads(json.dumps(other))  # tuples become lists
    for name in [*one, *(name for name in plain if name not in one)]:
        if one.get(name) != plain.get(name):
            return f"{name} was {json.dumps(one.get(name))} and is now {json.dumps(plain.get(name))}"
    return ""


def name_part(part: Part) -> str:
    """The name of a part's folder."""
    return f"part-{part[0]}-of-{part[1]}"


def find_parts(folder: Path) -> list[Path]:
    """Finds the folders of all parts, in order.

    Raises:
        ValueError: there are no parts, one is missing or not finished, or their settings differ.
    """
    found = [read_call(file.parent) for file in folder.glob(f"part-*-of-*/{CALL}")]
    if not found:
        raise ValueError(f"{folder} has no parts: run `tailseg predict RUN IMAGES --out {folder} --part K/N` first")
    count = found[0]["part"][1]
    paths = [folder / name_part((number, count)) for number in range(1, count + 1)]
    calls = []
    for path in paths:
        if not (path / CALL).is_file():
            raise ValueError(f"{path} is missing: {len(found)} of {count_noun(count, 'part')} are there")
        calls.append(call := read_call(path))
        if not call["finished"]:
            raise ValueError(f"{path} is not finished: run its command with --resume")
        if call["settings"] != calls[0]["settings"]:
            changed = describe_difference({**calls[0], "part": None}, {**call, "part": None})
            raise ValueError(f"{path} had other settings than {paths[0].name}: {changed}")
        if call["images"] != calls[0]["images"]:
            raise ValueError(
                f"{path} counted {count_noun(call['images'], 'image')}, and {paths[0].name} {calls[0]['images']:,}: "
                "the images changed between the parts"
            )
    return paths


def merge_parts(folder: Path) -> tuple[int, int, int]:
    """Merges the parts in a folder: the results are those of one call, to the byte.

    Returns:
        The numbers of images, of images with an error, and of objects.

    Raises:
        ValueError: see `find_parts`; or a part lacks an image.
        OSError: the disk is full or cannot be written.
    """
    paths = find_parts(folder)
    call = read_call(paths[0])
    lines = [read_json_lines(path / LINES) for path in paths]
    with ResultsFolder(folder, call["settings"]) as results:
        for image_id in range(1, call["images"] + 1):
            place = (image_id - 1) % len(paths)
            line, _ = next(lines[place], ({"image_id": None}, b""))
            if line["image_id"] != image_id:
                raise ValueError(f"{paths[place] / LINES} lacks image {image_id}: run the part again")
            results.add_records(line)
            results.finish_image(line)
        results.finish(call["images"])
        return results.images, results.failed, results.objects
