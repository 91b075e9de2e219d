"""The places of a run: its data, also after its folder has moved, its checkpoints, and a free folder for a new run."""

import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.files import split_spec
from tailseg.recipes.recipe import Recipe, run_folder
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

    def locate(path: str | None) -> str | None:
        if not path or is_tiny_tail(path):
            return path
        places = list_places(path, recipe, saved, folder)
        return next((place for place in places if split_spec(Path(place))[0].exists()), path)

    data = {name: locate(getattr(recipe.data, name)) for name in DATA_PATHS}
    out = str(folder).replace("{", "{{").replace("}", "}}")  # braces of the name are no pattern
    return replace(recipe, data=replace(recipe.data, **data), run=replace(recipe.run, out=out))


def locate_results(recipe: Recipe, folder: Path) -> Recipe:
    """Returns the recipe with the data that the results of a run are of: ``tailseg test --val`` names other ones.

    Args:
        recipe: the recipe of the run, with present paths.
        folder: of the run, with metrics.json.

    Returns:
        The recipe with the file and the images of the last evaluation.
    """
    try:
        tested = json.loads((folder / "metrics.json").read_text())["tested_on"]
        val, images = tested["val"], tested["val_images"]
    except (OSError, ValueError, LookupError, TypeError):  # the run's own data
        return recipe
    return replace(recipe, data=replace(recipe.data, val=val, val_images=images))


def list_places(path: str, recipe: Recipe, saved: Plain, folder: Path) -> list[str]:
    """Lists the places where a path of a run's data may be now.

    Args:
        path: as the run saved it.
        recipe: the recipe of the run.
        saved: the recipe as the run saved it.
        folder: the present folder of the run.

    Returns:
        Paths, the likeliest first.
    """
    here, old_folder, places = folder.resolve(), saved.get("folder"), [path]
    if isinstance(old_folder, str) and Path(path).is_absolute():
        places.append(os.path.normpath(here / os.path.relpath(path, old_folder)))
    start_folder = _get_start_folder(here, Path(recipe.run.out.format(name=recipe.name)))
    if start_folder and not Path(path).is_absolute():  # runs of earlier versions have relative paths
        places.insert(0, str(start_folder / path))
    return list(dict.fromkeys(places))


def list_checkpoints(run: Path) -> list[Path]:
    """Lists the run's checkpoints, oldest first, without the best one."""
    steps = {path: path.stem.removeprefix("step_") for path in (run / "checkpoints").glob("step_*.pt")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def get_latest(run: Path) -> Path | None:
    """Returns the run's newest checkpoint."""
    return next(reversed(list_checkpoints(run)), None)


def best_path(run: Path) -> Path:
    """Returns the path of the checkpoint with the best AP in evaluation."""
    return run / "checkpoints" / "best.pt"


def get_best(run: Path) -> Path | None:
    """Returns the run's checkpoint with the best AP in evaluation; None if the run was never evaluated."""
    path = best_path(run)
    return path if path.is_file() else None


def number_folder(recipe: Recipe) -> Recipe:
    """Chooses a folder without a run: ``runs/a``, or else ``runs/a-2``, ``runs/a-3`` and so on.

    A folder is taken if it has weights, or if a training is using it.

    Returns:
        The recipe with this folder.
    """
    first = recipe.run.out.rstrip("/")
    names = (first if number == 1 else f"{first}-{number}" for number in count(1))
    recipes = (replace(recipe, run=replace(recipe.run, out=name)) for name in names)
    return next(numbered for numbered in recipes if not _is_taken(run_folder(numbered)))


def _is_taken(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    if any(path.suffix in (".pt", ".safetensors") for path in (folder / "checkpoints").glob("*")):
        return True
    if not (folder / "lock").exists():
        return False
    try:
        with FileLock(folder / "lock", timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # no locks there
        return False


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
