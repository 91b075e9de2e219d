"""A run's data found again from another working directory, and when the run has moved."""

import os
from dataclasses import replace
from pathlib import Path

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import DATA_PATHS, Plain


def found_again(recipe: Recipe, saved: Plain, folder: Path) -> Recipe:
    """The recipe of a run that lies in ``folder`` now, its data found where they were, or as they lay from the run.

    Args:
        recipe: of the run.
        saved: the same, as the run keeps it.
        folder: of the run; becomes ``run.out``.
    """
    here = folder.resolve()
    was = saved.get("folder")
    begun = _begun_in(here, Path(recipe.run.out.format(name=recipe.name)))

    def found(path: str | None) -> str | None:
        if not path or is_tiny_tail(path):
            return path
        candidates = [path]
        if isinstance(was, str) and Path(path).is_absolute():
            candidates.append(os.path.normpath(here / os.path.relpath(path, was)))
        if begun and not Path(path).is_absolute():  # as runs of earlier versions keep it
            candidates.insert(0, str(begun / path))
        return next(filter(os.path.exists, candidates), path)

    data = {name: found(getattr(recipe.data, name)) for name in DATA_PATHS}
    out = str(folder).replace("{", "{{").replace("}", "}}")  # a name as it is, not a pattern
    return replace(recipe, data=replace(recipe.data, **data), run=replace(recipe.run, out=out))


def folder_of(run: Path) -> Path:
    """The folder of a run that is named by its folder, or by one of its checkpoint files."""
    if run.is_dir():
        return run
    return run.parent.parent if run.parent.name == "checkpoints" else run.parent


def _begun_in(folder: Path, out: Path) -> Path | None:
    """The working directory in which a run was begun that wrote into ``out`` and lies in ``folder`` now."""
    parts = out.parts
    if out.is_absolute() or not parts or folder.parts[-len(parts) :] != parts:
        return None
    return Path(*folder.parts[: -len(parts)])
