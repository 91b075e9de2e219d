"""Reads XML and YAML from unknown people: no entities, no references to other files, no Python objects."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from xml.parsers.expat import ExpatError, ParserCreate

from tailseg.annotations.formats.builder import MAX_TEXT_BYTES, read_label_text
from tailseg.annotations.problems import DatasetError
from tailseg.lazy import needs_extra

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

LARGE_BYTES: Final = 1 << 20
"""An XML file of this size is not held as a whole."""


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - anything in YAML
    """Reads a YAML file with the safe loader.

    Raises:
        DatasetError: the file is not YAML.
    """
    with needs_extra("train"):
        import yaml
    try:
        # libyaml's loader takes a tenth of the time, for a thousand classes 0.1 s
        return yaml.load(read_label_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except (yaml.YAMLError, RecursionError) as error:
        raise DatasetError(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from error


def iterate_xml(path: Path) -> "Iterator[tuple[int, Element]]":
    """Yields the root of an XML file when it begins (depth 0), then each of its children when it is complete (depth 1).

    A child of a large file is cleared after its turn, so that it needs little memory.

    Raises:
        DatasetError: the file is not XML, or it declares entities or refers to other files.
    """
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise DatasetError(f"{path} has more than {MAX_TEXT_BYTES:,} bytes: export it in parts")
        with path.open("rb") as file:
            _check_prolog(file)
            yield from (_iterate_whole if size < LARGE_BYTES else _iterate_large)(file)
    except _EntityError as error:
        raise DatasetError(
            f"{path} declares entities or refers to other files. Labels need neither: remove the declaration (DOCTYPE)"
        ) from error
    except (SyntaxError, ExpatError, OSError, UnicodeError, ValueError) as error:  # ParseError is a SyntaxError
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not XML: {error}") from error


class _EntityError(Exception):
    """An XML file declares an entity or refers to another file."""


class _RootBegins(Exception):  # noqa: N818 - no error
    """The first element of an XML file begins."""


def _check_prolog(file: BinaryIO) -> None:
    """Reads what is before the root, the only place where XML can declare entities, and goes back to the start.

    Raises:
        _EntityError: there is a declaration.
    """
    parser = ParserCreate()
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = _refuse
    parser.ExternalEntityRefHandler = _refuse
    parser.StartElementHandler = _stop
    with suppress(_RootBegins):
        parser.ParseFile(file)
    file.seek(0)


def _refuse(*_: object) -> int:
    raise _EntityError


def _stop(*_: object) -> None:
    raise _RootBegins


def _iterate_whole(file: BinaryIO) -> "Iterator[tuple[int, Element]]":
    from xml.etree.ElementTree import parse

    root = parse(file).getroot()  # noqa: S314 - see `_check_prolog`
    yield 0, root
    yield from ((1, child) for child in root)


def _iterate_large(file: BinaryIO) -> "Iterator[tuple[int, Element]]":
    from xml.etree.ElementTree import iterparse

    depth, root = 0, None
    for event, element in iterparse(file, ("start", "end")):  # noqa: S314 - see `_check_prolog`
        if event == "start":
            if depth == 0:
                root = element
                yield 0, element
            depth += 1
            continue
        depth -= 1
        if depth == 1 and root is not None:
            yield 1, element
            root.clear()


def read_root(path: Path) -> str:
    """The name of the root element of an XML file; empty if the file is not XML."""
    try:
        return next(iter(iterate_xml(path)))[1].tag
    except (DatasetError, StopIteration):
        return ""


def get_text(element: "Element", name: str, default: str = "") -> str:
    """The text of a child element.

    Args:
        element: the parent.
        name: of the child.
        default: the text of a child that is missing or empty.

    Returns:
        The text, without spaces around it.
    """
    found = element.find(name)
    return default if found is None or found.text is None else found.text.strip()
