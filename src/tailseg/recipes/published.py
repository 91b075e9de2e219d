"""The published configurations: their recipes, their files in the authors' code, and the published figures."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FunctionType

from tailseg.recipes.recipe import Recipe


@dataclass(frozen=True)
class Figures:
    """Published average precision on the validation set, in percent; None where no figure was published.

    Attributes:
        ap: AP of masks over all classes.
        apr: the same over rare classes.
        apc: the same over common classes.
        apf: the same over frequent classes.
        apb: AP of boxes over all classes.
        approximate: the figures were read from a plot, to within 0.1.
    """

    ap: float
    apr: float | None = None
    apc: float | None = None
    apf: float | None = None
    apb: float | None = None
    approximate: bool = False


@dataclass(frozen=True)
class Published:
    """A published configuration.

    Attributes:
        make: the function that returns its recipe.
        file: its file in the authors' public code, within the folder of configurations.
        figures: the published figures, if there are any.
    """

    make: Callable[[], Recipe]
    file: str
    figures: Figures | None = None


PUBLISHED: dict[str, Published] = {}
"""The published configurations by the name of their recipe.

One published file has no recipe: ``activations/gumbel_htc_r101_4x4_1x.py`` repeats the softmax HTC.
"""


def published(file: str, figures: Figures | None = None) -> Callable[[FunctionType], Callable[[], Recipe]]:
    """A decorator of the function of a published recipe.

    The recipe gets the function's name, and an entry in `PUBLISHED`.
    """

    def decorate(make: FunctionType) -> Callable[[], Recipe]:
        name = make.__name__

        @functools.wraps(make)
        def make_named() -> Recipe:
            return replace(make(), name=name)

        if figures is not None:
            rare = "" if figures.apr is None else f", APr {figures.apr}"
            make_named.__doc__ = f"{make.__doc__} Published AP {figures.ap}{rare}."
        PUBLISHED[name] = Published(make_named, file, figures)
        return make_named

    return decorate


def get_published(folder: str) -> tuple[Callable[[], Recipe], ...]:
    """The recipes of a folder of the published configurations, in their order here."""
    return tuple(item.make for item in PUBLISHED.values() if item.file.startswith(f"{folder}/"))
