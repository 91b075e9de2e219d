"""Old names of settings, classes and functions: accepted with a warning that names the new one.

docs/stability.md says how long an old name lives. Nothing here imports a third party.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
_RENAMED = "_tailseg_renamed_fields"


@dataclass(frozen=True)
class Renamed:
    """A field that an old name stands for.

    Attributes:
        field: its name now.
        convert: turns a value as it was written under the old name into one of the field.
    """

    field: str
    convert: Callable[[Any], Any] = lambda value: value


def renamed_fields(**old_names: str | Renamed) -> Callable[[T], T]:
    """A decorator of a dataclass whose fields had other names: ``@renamed_fields(steps="milestones")``.

    The old names are accepted as arguments and as attributes, each with a FutureWarning. The decorator stands above
    ``@dataclass``; without arguments it makes a subclass accept the old names of its bases.
    """
    renamed = {old: Renamed(new) if isinstance(new, str) else new for old, new in old_names.items()}

    def decorate(cls: T) -> T:
        known = {**fields_renamed_in(cls), **renamed}
        setattr(cls, _RENAMED, known)
        for old, new in renamed.items():
            setattr(cls, old, _old_attribute(cls.__name__, old, new.field))
        cls.__init__ = _take_old_names(cls.__init__, cls.__name__, known)  # ty: ignore[invalid-assignment]
        return cls

    return decorate


def renamed_arguments(**old_names: str) -> Callable[[F], F]:
    """A decorator of a function with keyword arguments that had other names: ``@renamed_arguments(old="new")``.

    The old names are accepted, each with a FutureWarning.
    """
    renamed = {old: Renamed(new) for old, new in old_names.items()}
    return lambda function: _take_old_names(function, getattr(function, "__name__", str(function)), renamed)


def fields_renamed_in(kind: type) -> Mapping[str, Renamed]:
    """The old names of a dataclass's fields."""
    return getattr(kind, _RENAMED, {})


def warn_of_old_name(old: str, new: str) -> None:
    """Warns the caller of the function that calls this one that ``old`` is now ``new``."""
    warnings.warn(f"{old} is now {new}", FutureWarning, stacklevel=3)


def names_renamed_in(package: str, old_names: Mapping[str, str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that finds classes and functions by their old names, with a FutureWarning.

    Args:
        package: the module's full name.
        old_names: for each old name the new one; ``module:name`` where it has moved to another module.

    Returns:
        The function.
    """

    def find(name: str) -> object:
        if name not in old_names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, new = old_names[name].rpartition(":")
        warn_of_old_name(f"{package}.{name}", f"{module or package}.{new}")
        return getattr(importlib.import_module(module or package), new)

    return find


def _take_old_names(function: F, name: str, renamed: Mapping[str, Renamed]) -> F:
    """The function, which takes keyword arguments under their old names too; ``name`` is its name in the warning."""

    @functools.wraps(function)
    def call(*args: Any, **settings: Any) -> Any:  # noqa: ANN401 - any function
        for old in renamed.keys() & settings.keys():
            new = renamed[old]
            warn_of_old_name(f"{name}({old}=...)", f"{new.field}=")
            settings[new.field] = new.convert(settings.pop(old))
        return function(*args, **settings)

    return cast("F", call)


def _old_attribute(owner: str, old: str, new: str) -> property:
    def read(self: object) -> object:
        warn_of_old_name(f"{owner}.{old}", new)
        return getattr(self, new)

    return property(read, doc=f"The old name of {new}.")
