"""Ranges of numbers, and choices: they stand with the field of the settings, once, and are checked when these are made.

``lr: Annotated[float, Range(ge=0)] = 0.02`` is a field with a range. All settings of a recipe are `Settings`, which
check themselves; the command line checks its options, and prints the ranges in its help. Nothing here imports a third
party.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, cast, get_args, get_origin, get_type_hints


class SettingError(ValueError):
    """A number is outside its range, a text is no choice, or settings exclude each other; the message names them."""


@dataclass(frozen=True)
class Range:
    """The numbers that a field may have; every one of them, where it is a tuple. NaN and infinity never are.

    Attributes:
        ge: the number is this or greater.
        gt: the number is greater than this.
        le: the number is this or less.
        lt: the number is less than this.
        some: a tuple has at least one number.
        ascending: each number of a tuple is greater than the one before it.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    some: bool = False
    ascending: bool = False

    def holds(self, value: object) -> bool:
        """Whether the numbers of a field's value are in the range; what is no number always is."""
        if isinstance(value, tuple | list):
            ordered = not self.ascending or all(first < second for first, second in pairwise(value))
            return all(map(self.holds, value)) and ordered and not (self.some and len(value) == 0)
        return not isinstance(value, int | float) or self._has(value)

    def _has(self, number: float) -> bool:
        return (
            (isinstance(number, int) or math.isfinite(number))
            and (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def __str__(self) -> str:
        """``0 or more``, ``above 0``, ``in [0, 1)`` ..., as it stands after ``is``."""
        least = None if self.ge is self.gt is None else f"{self.gt if self.ge is None else self.ge:g}"
        most = None if self.le is self.lt is None else f"{self.lt if self.le is None else self.le:g}"
        if least is not None and most is not None:
            return f"in {'(' if self.ge is None else '['}{least}, {most}{')' if self.le is None else ']'}"
        if least is not None:
            return f"above {least}" if self.ge is None else f"{least} or more"
        return "a finite number" if most is None else (f"below {most}" if self.le is None else f"{most} or less")


ANY_NUMBER = Range()
"""Every number but NaN and infinity: what a field without a range may have."""


class Settings:
    """What every class of a recipe's settings is: its numbers and choices are checked when an object of it is made.

    ``class OptimConfig(Settings, at="optim")`` says by what name the user reaches its fields, ``optim.lr``.
    A class with a ``__post_init__`` of its own calls this one first.
    """

    places: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, at: str | tuple[str, ...] = ()) -> None:
        super().__init_subclass__()
        if at:
            cls.places = (at,) if isinstance(at, str) else at

    def __post_init__(self) -> None:
        check_ranges(self, self.places)


def check_ranges(settings: object, places: tuple[str, ...]) -> None:
    """Looks at the numbers of a dataclass, and at the fields that take certain texts only.

    Args:
        settings: the object.
        places: where it stands in a recipe, such as ``model.box``; several, where a recipe has several of its kind;
            none for the options of a command.

    Raises:
        SettingError: a number is outside its range, NaN or infinite, or a text is no choice. Names it as the user
            writes it.
    """
    kind = type(settings)
    wrong = [
        name
        for name, allowed in ranges_of(kind).items()
        if (value := getattr(settings, name)) is not None and not allowed.holds(value)
    ] + [
        name
        for name, words in choices_of(kind).items()
        for value in [getattr(settings, name)]
        if any(isinstance(text, str) and text not in words for text in (value if isinstance(value, tuple) else [value]))
    ]
    for name in wrong[:1]:
        names = [f"{place}.{name}" for place in places]
        options = " or ".join(map(option, names or [name]))
        said = f"is {describe(kind, name)}, got {getattr(settings, name)!r}"
        raise SettingError(f"{' or '.join(names)} {said} ({options})" if names else f"{options} {said}")


def require_build(config: object, place: str, signature: str = "build()", *, returns: str) -> None:
    """Checks that a config can be built.

    Args:
        config: the value of a setting.
        place: the name of the setting in the recipe, such as ``model.backbone``.
        signature: the method that the config needs.
        returns: what the method returns, in words.

    Raises:
        SettingError: the value is a class, no dataclass, or has no method ``build``.
    """
    kind = type(config).__name__
    if isinstance(config, type):
        raise SettingError(
            f"{place} is the class {config.__name__}: give an object of the class, {config.__name__}(...)"
        )
    if not dataclasses.is_dataclass(config) or not callable(getattr(config, "build", None)):
        lacks = f"has no method {signature}" if dataclasses.is_dataclass(config) else "is not a dataclass"
        raise SettingError(
            f"{place} is an object of the class {kind}, which {lacks}: give a config, a frozen dataclass with a method "
            f"{signature} that returns {returns} (examples/README.md shows one)"
        )


def option(name: str) -> str:
    """The command line's name of a setting: ``--optim.clip-norm``."""
    return f"--{name.replace('_', '-')}"


@cache
def ranges_of(kind: type) -> Mapping[str, Range]:
    """The range of each field of a dataclass that holds numbers, alone or in a tuple, whatever else it may hold."""
    return {
        name: next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Range)), ANY_NUMBER)
        for name, hint in _hints(kind).items()
        if _is_number(hint)
    }


def describe(kind: type, name: str) -> str:
    """What a field may be: ``in [0, 1]``, ``above 0, or None``, ``one or more numbers, each 1 or more``, ``r, or rc``.

    The texts of a field that takes certain texts follow its numbers.
    """
    allowed, members = ranges_of(kind).get(name), _list_members(_hints(kind)[name])
    words = [*_list_words(_hints(kind)[name])]
    text = "" if allowed is None else str(allowed)
    if allowed is not None and any(get_origin(member) is tuple for member in members):
        order = ", in ascending order" if allowed.ascending else ""
        text = f"{'one or more ' if allowed.some else ''}numbers, each {allowed}{order}"
    *others, last = filter(None, [text, *words, "None" if type(None) in members else ""])
    return f"{', '.join(others)}, or {last}" if others else last


@cache
def choices_of(kind: type) -> Mapping[str, tuple[str, ...]]:
    """The texts that each field of a dataclass may have, alone or in a tuple, where these are certain texts only."""
    found = {name: (*_list_words(hint),) for name, hint in _hints(kind).items() if str not in _list_members(hint)}
    return {name: words for name, words in found.items() if words}


def _list_words(hint: object) -> Iterator[str]:
    for part in get_args(hint):
        yield from [part] if isinstance(part, str) else _list_words(part)


def _list_members(hint: object) -> tuple[object, ...]:
    """The types of which a value of the field has one."""
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_args(plain) if get_origin(plain) in (Union, UnionType) else (plain,)


def _is_number(hint: object) -> bool:
    if get_origin(hint) in (Union, UnionType, tuple, Annotated):
        return any(map(_is_number, get_args(hint)))
    return hint in (int, float)


@cache
def _hints(kind: type) -> dict[str, object]:
    """The types of a dataclass's fields with their ranges."""
    written: dict[str, object] = {field.name: field.type for field in dataclasses.fields(cast("Any", kind))}
    if any(isinstance(hint, str) for hint in written.values()):  # the other way takes a tenth of the time
        hints = get_type_hints(kind, include_extras=True)
        return {name: hints[name] for name in written}
    return written
