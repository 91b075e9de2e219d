"""A kind of problem. `tailseg.annotations.kinds` has all of them."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

Use = Literal["training", "training_masks", "boxes", "masks"]
Scope = Literal["file", "image", "category", "object", "pixels"]

USE_NAMES: Final[dict[Use, str]] = {
    "training": "training",
    "training_masks": "training of masks",
    "boxes": "evaluation",
    "masks": "evaluation of masks",
}


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        name: its name in the code.
        verdicts: a letter for each use, see `tailseg.annotations.kinds`.
        what: the sentence that follows the count of records; ``{detail}`` stands for a figure, and forms in brackets
            for the count (`tailseg.words.inflect`).
        remedy: what the user can do.
        done: what a use that goes on does.
        scope: what has the problem. ``file``: no records are counted. ``pixels``: the image file.
    """

    name: str
    verdicts: str
    what: str
    remedy: str
    done: str = ""
    scope: Scope = "object"

    def verdict(self, use: Use) -> str:
        """The letter for a use: ``-``, ``i``, ``n`` or ``x``."""
        return self.verdicts[get_args(Use).index(use)]

    @property
    def stops(self) -> tuple[Use, ...]:
        """The uses that refuse a file with this problem."""
        return tuple(use for use in get_args(Use) if self.verdict(use) == "x")
