"""The files of a run's folder: paths of its checkpoints, the choice of a checkpoint, and the lock of the folder."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from filelock import BaseFileLock, FileLock, Timeout

from tailseg.files import remove_unfinished
from tailseg.recipes.commands import list_own_modules, make_run_command
from tailseg.recipes.places import best_path as best_path
from tailseg.recipes.places import get_best as get_best
from tailseg.recipes.places import get_latest as get_latest
from tailseg.recipes.places import list_checkpoints as list_checkpoints
from tailseg.recipes.places import number_folder
from tailseg.recipes.recipe import Recipe, run_folder
from tailseg.recipes.saved import save_recipe
from tailseg.training.checkpoint import WEIGHTS_SUFFIX, Checkpoint, CheckpointError, load
from tailseg.training.distributed import is_under_torchrun, on_main_process, was_restarted
from tailseg.training.fit import check_recipe

PATIENCE: Final = 15.0
"""Seconds to wait for the run's folder. Loader processes need less to notice that their main process was killed."""


def step_path(run: Path, step: int) -> Path:
    """Returns the path of the checkpoint after ``step`` steps."""
    return run / "checkpoints" / f"step_{step:07d}.pt"


def weights_path(run: Path) -> Path:
    """Returns the path of converted weights in the folder of a run that was not trained with tailseg."""
    return run / "checkpoints" / f"converted{WEIGHTS_SUFFIX}"


def load_newest(run: Path) -> tuple[Checkpoint, Path, list[str]] | None:
    """Loads the newest readable checkpoint of a run. If the others are gone or damaged, this is the best one.

    Returns:
        The checkpoint, its file, and the errors of newer checkpoints; None if the run has no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    damages, best = [], get_best(run)
    for path in [*reversed(list_checkpoints(run)), *([best] if best else [])]:
        try:
            return load(path), path, damages
        except CheckpointError as error:
            damages.append(str(error))
    if damages:
        raise CheckpointError(
            f"none of the run's checkpoints can be read: {'; '.join(damages)}. Train again into another folder"
        )
    return None


def choose(run: Path, which: Literal["best", "last"]) -> Path:
    """Returns the run's best checkpoint (the last one if it was never evaluated), its last one, or converted weights.

    Raises:
        CheckpointError: there is none.
    """
    checkpoint = (get_best(run) if which == "best" else None) or get_latest(run) or weights_path(run)
    if not checkpoint.is_file():
        raise CheckpointError(
            f"no run in {run}: expected a folder that `tailseg train` or `tailseg convert` made, with checkpoints in it"
        )
    return checkpoint


def rename_damaged(run: Path, after: Path) -> None:
    """Renames the checkpoints newer than ``after``, which are damaged, so that a resumed run does not load them.

    If ``after`` is the best checkpoint, these are all others.
    """
    paths = list_checkpoints(run)
    for path in paths[paths.index(after) + 1 if after in paths else 0 :]:
        path.rename(path.with_name(path.name + ".damaged"))


def keep_newest(run: Path, count: int) -> None:
    """Removes all but the newest ``count`` checkpoints (at least one stays)."""
    for path in list_checkpoints(run)[: -max(count, 1)]:
        path.unlink()


def make_resume_command(recipe: Recipe) -> str:
    """Writes the command that continues the run of a recipe, with as many processes as there are now."""
    processes, here = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if not is_under_torchrun() or processes == "1":
        return make_run_command("resume", recipe)
    if processes == here:
        return make_run_command("resume", recipe, "--devices", processes)
    return f"torchrun ... -m {make_run_command('resume', recipe)}"


def describe_resumption(recipe: Recipe, *, from_python: bool = False) -> str:
    """Says how to continue a run.

    Args:
        recipe: the recipe of the run.
        from_python: whether the run needs objects that no command can name, such as callbacks.
    """
    if from_python or "__main__" in list_own_modules(recipe):
        return "continue with train(recipe, resume=True)"
    return f"continue with `{make_resume_command(recipe)}`"


@contextmanager
def numbered_folder(recipe: Recipe) -> Generator[Recipe]:
    """Gives the run of a recipe a folder without a run, and holds its lock within the context.

    Trainings that start at the same time therefore get different folders.
    """
    locks: list[BaseFileLock] = []

    def choose() -> str:
        while True:
            numbered = number_folder(recipe)
            folder = run_folder(numbered)
            lock = _make_lock(folder)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0)
                locks.append(lock)
            except Timeout:  # another training has taken it since
                continue
            except (OSError, NotImplementedError):  # no locks there, or `run_lock` says what is wrong
                pass
            return numbered.run.out

    out = on_main_process(choose)
    try:
        yield replace(recipe, run=replace(recipe.run, out=out))
    finally:
        for lock in locks:
            lock.release()


def _make_lock(folder: Path) -> BaseFileLock:
    """The lock of a run's folder. The same process may take it several times."""
    return FileLock(folder / "lock", is_singleton=True)


@contextmanager
def run_lock(folder: Path) -> Generator[None]:
    """Prevents other trainings from writing into the run's folder, and makes the folder if it does not exist.

    The lock ends with its process. The loader processes of a killed training hold it for some seconds more, and a
    restarted run waits for them. On a file system without locks this does nothing.

    Raises:
        ValueError: another training uses the folder, or the folder cannot be made.
    """
    lock = _make_lock(folder)

    def take() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder} cannot be made ({error.strerror}): name another folder (--run.out)") from None
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise ValueError(
                f"another training writes into {folder}: wait for it, or name another folder (--run.out)"
            ) from None
        except (OSError, NotImplementedError):
            return

    on_main_process(take)
    try:
        yield
    finally:
        lock.release()


def require_no_run(recipe: Recipe, folder: Path) -> None:
    """Checks that a new run does not overwrite the checkpoints of another.

    Raises:
        ValueError: the folder has a run already.
    """
    if get_latest(folder) or get_best(folder):
        raise ValueError(
            f"{folder} has a run already. Continue it with `{make_resume_command(recipe)}`, or name another folder "
            "(--run.out)"
        )


def open_folder(recipe: Recipe, folder: Path, *, resume: bool) -> tuple[Checkpoint, Path, list[str]] | None:
    """Prepares the run's folder, and loads the checkpoint to continue from.

    Args:
        recipe: the recipe of the run; saved as recipe.json, unless a run is resumed: `start` saves it after all checks.
        folder: the folder of the run.
        resume: load the newest checkpoint; if False, a folder with checkpoints is an error.

    Returns:
        The result of `load_newest`.

    Raises:
        ValueError: the folder has a run already, or a run of another recipe.
    """
    if not (resume or was_restarted()):
        require_no_run(recipe, folder)
    newest = load_newest(folder)
    if newest:
        saved, file, _ = newest
        check_recipe(saved, recipe, file)
        rename_damaged(folder, file)
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, folder / "checkpoints"):
        remove_unfinished(path)
    if not resume:
        save_recipe(recipe, folder / "recipe.json")
    return newest
