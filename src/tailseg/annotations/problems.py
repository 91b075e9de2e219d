"""The problems of one annotation file. One run collects all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.kinds import KINDS, Kind, Use
from tailseg.words import inflect

MAX_EXAMPLES: Final = 3
"""Number of records that a message names for each kind of problem."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem in a file.

    Attributes:
        kind: the kind.
        count: number of records that have the problem.
        examples: the first of these records, as text.
        detail: a figure about all of them, see `Kind.what`.
    """

    kind: Kind
    count: int
    examples: tuple[str, ...] = ()
    detail: str = ""

    @property
    def remedy(self) -> str:
        """What the user can do."""
        return self.kind.remedy.format(detail=self.detail)

    @property
    def note(self) -> str:
        """One sentence for a use that goes on: the problem, what the use does, and the first records."""
        records = f" ({self.records})" if self.examples else ""
        return f"{self.counted}: {self.kind.done}{records}"

    @property
    def text(self) -> str:
        """The problem with its count and the first records."""
        return f"{self.counted}{': ' * bool(self.examples)}{self.records}"

    @property
    def is_of_all(self) -> bool:
        """Whether all objects have the problem (detail ``86 of 86``): without them the file has no object left."""
        first, _, last = self.detail.partition(" of ")
        return bool(last) and first == last

    def __str__(self) -> str:
        return f"{self.text}. {self.remedy}."

    @property
    def counted(self) -> str:
        """The count and the problem: ``2 boxes are not four numbers``; without a count for a problem of the file."""
        what = inflect(self.kind.what.format(detail=self.detail), self.count)
        return what if self.kind.scope == "file" else f"{self.count:,} {what}"

    @property
    def records(self) -> str:
        """The first records and the number of further ones."""
        more = f" and {self.count - len(self.examples):,} more" if self.count > len(self.examples) else ""
        return f"{'; '.join(self.examples)}{more}" if self.examples else ""


class DatasetError(ValueError):
    """An annotation file cannot be used. The message names the file, the records and the remedy.

    Attributes:
        problems: the kinds of malformed records, if they are the reason.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Problems:
    """Collects the problems of one file in ``entries``."""

    def __init__(self) -> None:
        self.entries: list[Problem] = []

    def add(
        self,
        kind: str,
        records: Sequence[Any] | np.ndarray,
        describe: Callable[[Any], str] | None = str,
        *,
        detail: str = "",
    ) -> None:
        """Adds a problem, unless there are no records.

        Args:
            kind: name of the kind, a key of `KINDS`.
            records: the records that have the problem; they may be row numbers.
            describe: returns the text for one record, its id and the wrong value; called for the first few records.
                None names no records.
            detail: a figure about all records, see `Kind.what`.
        """
        count = len(records)
        if count:
            first = records[:MAX_EXAMPLES]
            shown = first.tolist() if isinstance(first, np.ndarray) else first
            examples = tuple(describe(record) for record in shown) if describe else ()
            self.entries.append(Problem(KINDS[kind], count, examples, detail))


def get_verdicts(problem: Problem, uses: Sequence[Use]) -> str:
    """The verdicts of the uses on a problem, one letter each; only ``x`` if one of the uses refuses it."""
    letters = "".join(problem.kind.verdict(use) for use in uses)
    return "x" if "x" in letters else letters


def means_boxes_only(problem: Problem, num_objects: int) -> bool:
    """Whether the problem is that no object has a mask: a file of boxes is valid."""
    return problem.kind.name == "mask_missing" and problem.count == num_objects


def refuse(problems: Sequence[Problem], path: Path, uses: Sequence[Use], *, repair: bool = False) -> None:
    """Raises an error if a use refuses one of the problems.

    Args:
        problems: the problems of the file.
        path: the annotation file.
        uses: what the file is for.
        repair: whether objects that cannot be used are left out instead.

    Raises:
        DatasetError: a use refuses the file.
    """
    refused = [
        problem
        for problem in problems
        if get_verdicts(problem, uses) == "x" and not (repair and problem.kind.scope == "object")
    ]
    if not refused:
        return
    lines = [f"{path} cannot be used:", *map(str, refused)]
    repairable = all(problem.kind.scope == "object" and not problem.is_of_all for problem in refused)
    if repairable and any(use.startswith("training") for use in uses):
        lines.append(
            "To leave these objects out: --data.on-problem repair. To write a file without them: "
            f"tailseg data check {path} --repair OUT.json"
        )
    raise DatasetError("\n  ".join(lines), refused)
