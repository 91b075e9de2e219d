"""Names of a package whose modules are imported when somebody asks for them: settings come without torch."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence

from tailseg.deprecated import names_renamed_in


def on_demand(
    package: str, homes: Mapping[str, Sequence[str]], old_names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The package's ``__getattr__`` and ``__dir__``; type checkers see the names in imports under TYPE_CHECKING.

    Args:
        package: its full name.
        homes: for each module in the package the names that the package has from it.
        old_names: see `tailseg.deprecated.names_renamed_in`.
    """
    modules = {name: f"{package}.{module}" for module, names in homes.items() for name in names}

    def find(name: str) -> object:
        if name not in modules:
            return names_renamed_in(package, old_names or {})(name)
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # from now on it is found without this function
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return find, names
