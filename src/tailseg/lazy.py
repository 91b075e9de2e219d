"""Names of a package whose modules are imported when somebody asks for them: settings come without torch."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from tailseg.deprecated import names_renamed_in


def on_demand(
    package: str,
    homes: Mapping[str, Sequence[str]],
    old_names: Mapping[str, str] | None = None,
    *,
    packages: Sequence[str] = (),
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Makes a package's ``__getattr__`` and ``__dir__``; type checkers see the names in imports under TYPE_CHECKING.

    Args:
        package: its full name.
        homes: for each module the names that the package has from it; a module of another package has its full name.
        old_names: see `tailseg.deprecated.names_renamed_in`.
        packages: modules in the package that are attributes of it without an import.

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
        setattr(sys.modules[package], name, value)  # from now on it is found without this function
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *packages})

    return find, names
