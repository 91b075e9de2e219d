"""What is wrong with an annotation file, collected so that one run tells all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

SHOWN: Final = 3
"""Records shown of each kind of problem."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem: how many records have it, the first of them, and what to do."""

    count: int
    what: str
    examples: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        more = f" and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        return f"{self.count} {self.what}: {'; '.join(self.examples)}{more}. {self.remedy}."


class DatasetError(ValueError):
    """An annotation file cannot be used; the message names the file, the records and the remedy.

    Attributes:
        problems: the kinds of malformed records, if those are the reason.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Problems:
    """Collects what is wrong with one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: list[Problem] = []

    def add(
        self, what: str, wrong: Sequence[Any] | np.ndarray, remedy: str, *, name: Callable[[Any], str] = str
    ) -> None:
        """Note that the records ``wrong`` are ``what``; nothing if there are none.

        ``name`` makes the text that shows one of them, its id and the offending value; it is asked for the first few.
        """
        wrong = wrong.tolist() if isinstance(wrong, np.ndarray) else wrong
        if wrong:
            self._found.append(Problem(len(wrong), what, tuple(name(item) for item in wrong[:SHOWN]), remedy))

    def stop_if_any(self) -> None:
        """Raise what was found so far.

        Raises:
            DatasetError: something was found.
        """
        if self._found:
            raise DatasetError("\n  ".join([f"{self.path} cannot be used:", *map(str, self._found)]), self._found)
