"""The public names of tailseg, and the names of their parameters, read from the source by griffe.

    uv run python tests/api/public_names.py

adds new names to public_names.txt. It removes none: a name leaves the list by hand, once docs/stability.md allows it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

PACKAGES = ("data", "evaluation", "inference", "interop", "losses", "models", "ops", "recipes", "training")
LIST = Path(__file__).with_name("public_names.txt")
SOURCE = Path(__file__).parents[2] / "src"


def find_public_names() -> set[str]:
    """Finds the public names; a parameter is written as ``tailseg.losses.GumbelCE(num_classes)``."""
    root = griffe.load("tailseg", search_paths=[SOURCE], resolve_aliases=True, allow_inspection=False)
    names = {f"tailseg.{name}" for name in root.exports or ()}
    for name in ("", *PACKAGES):
        package = root[name] if name else root
        place = f"tailseg.{name}".rstrip(".")
        for export in package.exports or ():
            if name and export not in PACKAGES:  # the names of tailseg itself are those of its packages
                names |= set(_names_of(package.members[str(export)], f"{place}.{export}"))
    return names


def _names_of(member: griffe.Object | griffe.Alias, path: str) -> Iterator[str]:
    yield path
    thing = member.final_target if isinstance(member, griffe.Alias) else member
    if isinstance(thing, griffe.Function):
        yield from (f"{path}({name})" for name in _parameters(thing))
    if isinstance(thing, griffe.Class):
        yield from (f"{path}({name})" for name in _parameters(thing))
        for name, inner in thing.all_members.items():
            if (not name.startswith("_") or name == "__call__") and inner.canonical_path.startswith("tailseg."):
                yield from _names_of(inner, f"{path}.{name}")


def _parameters(thing: griffe.Function | griffe.Class) -> list[str]:
    return [
        each.name for each in thing.parameters if each.name not in ("self", "cls") and not each.name.startswith("_")
    ]


def read_list() -> set[str]:
    """Reads the names that are listed."""
    return set(LIST.read_text().split())


if __name__ == "__main__":
    listed = read_list() if LIST.is_file() else set()
    found = find_public_names()
    LIST.write_text("".join(f"{name}\n" for name in sorted(listed | found)))
    sys.stdout.write(f"{len(found - listed)} names were added to {LIST}\n")
