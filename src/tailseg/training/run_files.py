"""The files of a run's folder: paths of its checkpoints, the choice of a checkpoint, and the lock of the folder."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from tailseg.files import remove_unfinished
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import save_recipe
from tailseg.training.checkpoint import WEIGHTS_SUFFIX, Checkpoint, CheckpointError, load
from tailseg.training.distributed import on_main_process, was_restarted
from tailseg.training.fit import check_recipe

PATIENCE: Final = 15.0
"""Seconds to wait for the run's folder: longer than loader processes take to notice that theirs was killed."""


def step_path(run: Path, step: int) -> Path:
    """The path of the checkpoint after ``step`` steps."""
    return run / "checkpoints" / f"step_{step:07d}.pt"


def best_path(run: Path) -> Path:
    """The path of the checkpoint with the best AP in evaluation."""
    return run / "checkpoints" / "best.pt"


def weights_path(run: Path) -> Path:
    """The path of converted weights in the folder of a run that was not trained with tailseg."""
    return run / "checkpoints" / f"converted{WEIGHTS_SUFFIX}"


def step_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first, without the best one."""
    steps = {path: path.stem.removeprefix("step_") for path in (run / "checkpoints").glob("step_*.pt")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def get_latest(run: Path) -> Path | None:
    """The run's newest checkpoint."""
    return next(reversed(step_checkpoints(run)), None)


def newest_whole(run: Path) -> tuple[Checkpoint, Path, list[str]] | None:
    """The newest checkpoint of a run that can be read, its file, and what is wrong with newer ones; None without any.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    damages = []
    for path in reversed(step_checkpoints(run)):
        try:
            return load(path), path, damages
        except CheckpointError as error:
            damages.append(str(error))
    if damages:
        raise CheckpointError(f"none of the run's checkpoints can be read: {'; '.join(damages)}")
    return None


def get_best(run: Path) -> Path | None:
    """The run's checkpoint with the best AP in evaluation, if it was evaluated."""
    path = best_path(run)
    return path if path.is_file() else None


def choose(run: Path, which: Literal["best", "last"]) -> Path:
    """The run's best checkpoint (the last, if it was never evaluated), its last one, or its converted weights.

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
    """Renames the checkpoints newer than ``after``, which are damaged: a resumed run must not take them."""
    paths = step_checkpoints(run)
    for path in paths[paths.index(after) + 1 :]:
        path.rename(path.with_name(path.name + ".damaged"))


def keep_newest(run: Path, count: int) -> None:
    """Removes all but the newest ``count`` checkpoints (at least one stays)."""
    for path in step_checkpoints(run)[: -max(count, 1)]:
        path.unlink()


@contextmanager
def run_lock(folder: Path) -> Generator[None]:
    """Keeps other trainings from writing into the run's folder, and makes the folder if there is none.

    The lock ends with its process. The loader processes of a killed training hold it for some seconds longer; a restart
    waits for them. On a file system without locks this does nothing.

    Raises:
        ValueError: another training uses the folder, or the folder cannot be made.
    """
    lock = FileLock(folder / "lock", timeout=PATIENCE)

    def take() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder} cannot be made ({error.strerror}): name another folder (--run.out)") from None
        try:
            lock.acquire()
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


def open_folder(recipe: Recipe, folder: Path, *, resume: bool) -> tuple[Checkpoint, Path, list[str]] | None:
    """Prepares the run's folder, and finds the checkpoint to go on from.

    Args:
        recipe: of the run; saved as recipe.json.
        folder: of the run.
        resume: take the newest checkpoint; without it a folder with checkpoints is an error.

    Returns:
        As `newest_whole`.

    Raises:
        ValueError: the folder holds a run already, or one of another recipe.
    """
    if get_latest(folder) and not (resume or was_restarted()):
        raise ValueError(f"{folder} holds a run already: go on with it (--resume), or name another folder (--run.out)")
    newest = newest_whole(folder)
    if newest:
        saved, file, _ = newest
        check_recipe(saved, recipe, file)
        rename_damaged(folder, file)
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder, folder / "checkpoints"):
        remove_unfinished(part)
    save_recipe(recipe, folder / "recipe.json")
    return newest
