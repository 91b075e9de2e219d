"""What a kind of problem is; all of them stand in `tailseg.annotations.kinds`."""

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
        name: by which it is known.
        verdicts: a letter for each use, see `tailseg.annotations.kinds`.
        what: of the records, in the plural; ``{detail}`` stands for a figure.
        remedy: what the user can do.
        done: what a use that goes on does.
        scope: what has the problem; file: there is no count of records; pixels: the image's file.
    """

    name: str
    verdicts: str
    what: str
    remedy: str
    done: str = ""
    scope: Scope = "object"

    def verdict(self, use: Use) -> str:
        """``-``, ``i``, ``n`` or ``x``."""
        return self.verdicts[get_args(Use).index(use)]

    @property
    def stops(self) -> tuple[Use, ...]:
        """The uses that refuse it."""
        return tuple(use for use in get_args(Use) if self.verdict(use) == "x")
