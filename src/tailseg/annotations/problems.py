"""What is wrong with one annotation file, collected so that one run tells all of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.kinds import KINDS, Kind, Use

MAX_EXAMPLES: Final = 3
"""Records shown of each kind of problem."""


@dataclass(frozen=True)
class Problem:
    """One kind of problem: how many records have it, the first of them, and a figure about all."""

    kind: Kind
    count: int
    examples: tuple[str, ...] = ()
    detail: str = ""

    @property
    def what(self) -> str:
        """What the records have."""
        return self.kind.what.format(detail=self.detail)

    @property
    def remedy(self) -> str:
        """What to do."""
        return self.kind.remedy.format(detail=self.detail)

    @property
    def note(self) -> str:
        """One sentence for a use that goes on."""
        records = f" ({self.records})" if self.examples else ""
        return f"{self.counted}: {self.kind.done}{records}"

    @property
    def text(self) -> str:
        """What is wrong, with the first records."""
        return f"{self.counted}{': ' * bool(self.examples)}{self.records}"

    @property
    def is_of_all(self) -> bool:
        """Whether all objects have the problem, as the detail ``86 of 86`` says: nothing is left without them."""
        first, _, last = self.detail.partition(" of ")
        return bool(last) and first == last

    def __str__(self) -> str:
        return f"{self.text}. {self.remedy}."

    @property
    def counted(self) -> str:
        """How many records have what."""
        return self.what if self.kind.scope == "file" else f"{self.count:,} {self.what}"

    @property
    def records(self) -> str:
        """The first records, and how many more there are."""
        more = f" and {self.count - len(self.examples):,} more" if self.count > len(self.examples) else ""
        return f"{'; '.join(self.examples)}{more}" if self.examples else ""


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

    def __init__(self) -> None:
        self.entries: list[Problem] = []

    def add(
        self,
        kind: str,
        wrong: Sequence[Any] | np.ndarray,
        name: Callable[[Any], str] | None = str,
        *,
        detail: str = "",
    ) -> None:
        """Note that the records ``wrong`` have a problem of that kind; nothing if there are none.

        ``name`` makes the text that shows one of them, its id and the offending value; it is asked for the first few.
        """
        count = len(wrong)
        if count:
            first = wrong[:MAX_EXAMPLES]
            shown = first.tolist() if isinstance(first, np.ndarray) else first
            examples = tuple(name(item) for item in shown) if name else ()
            self.entries.append(Problem(KINDS[kind], count, examples, detail))


def get_verdicts(problem: Problem, uses: Sequence[Use]) -> str:
    """What the uses make of the problem, a letter each; of one that is refused, that alone."""
    letters = "".join(problem.kind.verdict(use) for use in uses)
    return "x" if "x" in letters else letters


def means_boxes_only(problem: Problem, num_objects: int) -> bool:
    """Whether it says that no object has a mask: a file of boxes, which is no fault."""
    return problem.kind.name == "mask_missing" and problem.count == num_objects


def refuse(problems: Sequence[Problem], path: Path, uses: Sequence[Use], *, repair: bool = False) -> None:
    """Raise those problems that a use does not go on with.

    Args:
        problems: of the file.
        path: the file.
        uses: of the file.
        repair: objects that cannot be used are left out.

    Raises:
        DatasetError: there are some.
    """
    stopping = [
        each for each in problems if get_verdicts(each, uses) == "x" and not (repair and each.kind.scope == "object")
    ]
    if not stopping:
        return
    lines = [f"{path} cannot be used:", *map(str, stopping)]
    repairable = all(each.kind.scope == "object" and not each.is_of_all for each in stopping)
    if repairable and any(use.startswith("training") for use in uses):
        lines.append(
            "To go on without these objects: --data.on-problem repair. To write a file without them: "
            f"tailseg data check {path} --repair OUT.json"
        )
    raise DatasetError("\n  ".join(lines), stopping)
