"""What is wrong with an annotation file, collected so that one run tells all of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

SHOWN: Final = 3
"""Records shown of each kind of problem."""


class DatasetError(ValueError):
    """An annotation file cannot be used; the message names the file, the records and the remedy."""


class Problems:
    """Collects what is wrong with one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[str] = []

    def add(self, what: str, records: Sequence[str], remedy: str) -> None:
        """Note that ``records`` (each named, with the offending value) are ``what``; nothing if there are none."""
        if records:
            more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
            self._found.append(f"{what}: {'; '.join(records[:SHOWN])}{more}. {remedy}.")

    def stop_if_any(self) -> None:
        """Raise what was found so far.

        Raises:
            DatasetError: something was found.
        """
        if self._found:
            raise DatasetError("\n  ".join([f"{self.path} cannot be used:", *self._found]))
