"""Locates the data of a run from another working directory, and after the run's folder has moved."""

import os
from dataclasses import replace
from pathlib import Path

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import DATA_PATHS, Plain


def locate_data(recipe: Recipe, saved: Plain, folder: Path) -> Recipe:
    """Returns the recipe of a run with the paths of its data as they are now.

    A path is kept where it leads to a file. Otherwise the data may have moved together with the run: then the path from
    the run's folder to the data is the same as before.

    Args:
        recipe: the recipe of the run.
        saved: the recipe as the run saved it.
        folder: the present folder of the run; becomes ``run.out``.

    Returns:
        The recipe with present paths.
    """
    here = folder.resolve()
    old_folder = saved.get("folder")
    start_folder = _get_start_folder(here, Path(recipe.run.out.format(name=recipe.name)))

    def locate(path: str | None) -> str | None:
        if not path or is_tiny_tail(path):
            return path
        candidates = [path]
        if isinstance(old_folder, str) and Path(path).is_absolute():
            candidates.append(os.path.normpath(here / os.path.relpath(path, old_folder)))
        if start_folder and not Path(path).is_absolute():  # runs of earlier versions have relative paths
            candidates.insert(0, str(start_folder / path))
        return next(filter(os.path.exists, candidates), path)

    data = {name: locate(getattr(recipe.data, name)) for name in DATA_PATHS}
    out = str(folder).replace("{", "{{").replace("}", "}}")  # braces of the name are no pattern
    return replace(recipe, data=replace(recipe.data, **data), run=replace(recipe.run, out=out))


def get_run_folder(run: Path) -> Path:
    """Returns the folder of a run, from the folder or one of the checkpoint files in it."""
    if run.is_dir():
        return run
    return run.parent.parent if run.parent.name == "checkpoints" else run.parent


def _get_start_folder(folder: Path, out: Path) -> Path | None:
    """Returns the working directory where the run of ``folder`` was started, if its recipe has the folder ``out``."""
    parts = out.parts
    if out.is_absolute() or not parts or folder.parts[-len(parts) :] != parts:
        return None
    return Path(*folder.parts[: -len(parts)])
