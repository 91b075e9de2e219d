"""Imports the modules of a package when a name is first used: settings then load without torch."""

import importlib
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from tailseg.deprecated import names_renamed_in


class MissingPartError(ModuleNotFoundError):
    """A package of one of tailseg's extras is not installed."""


@contextmanager
def needs_extra(extra: str) -> Generator[None, None, None]:
    """Names the extra where an import inside the block does not find its package.

    Raises:
        MissingPartError: the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingPartError(
            f"this part of tailseg needs the package {package}, which is not installed: pip install 'tailseg[{extra}]'",
            name=package,
        ) from error


def on_demand(
    package: str,
    homes: Mapping[str, Sequence[str]],
    old_names: Mapping[str, str] | None = None,
    *,
    packages: Sequence[str] = (),
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Makes the ``__getattr__`` and ``__dir__`` of a package. Type checkers see the imports under TYPE_CHECKING.

    Args:
        package: the full name of the package.
        homes: the names that the package takes from each module; a module of another package has its full name.
        old_names: deprecated names, see `tailseg.deprecated.names_renamed_in`.
        packages: modules in the package that are attributes without an import.

    Returns:
        The two functions.
    """
    root = package.partition(".")[0]
    modules = {
        name: module if module.startswith(f"{root}.") else f"{package}.{module}"
        for module, names in homes.items()
        for name in names
    }

    def find(name: str) -> object:
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        if name not in modules:
            return names_renamed_in(package, old_names or {})(name)
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # the next access does not call this function
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *packages})

    return find, names
