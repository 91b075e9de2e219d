"""The files of a run's folder: where its checkpoints lie, which of them to take, and who may write there."""

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
    """Where the checkpoint after ``step`` steps lies."""
    return run / "checkpoints" / f"step_{step:07d}.pt"


def best_path(run: Path) -> Path:
    """Where the checkpoint with the best AP in evaluation lies."""
    return run / "checkpoints" / "best.pt"


def weights_path(run: Path) -> Path:
    """Where converted weights lie in the folder of a run that was never trained here."""
    return run / "checkpoints" / f"converted{WEIGHTS_SUFFIX}"


def step_checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first, without the best one."""
    found = {path: path.stem.removeprefix("step_") for path in (run / "checkpoints").glob("step_*.pt")}
    return sorted((path for path, step in found.items() if step.isdecimal()), key=lambda path: int(found[path]))


def latest(run: Path) -> Path | None:
    """The run's newest checkpoint."""
    return next(reversed(step_checkpoints(run)), None)


def newest_whole(run: Path) -> tuple[Checkpoint, Path, list[str]] | None:
    """The run's newest checkpoint that can be read, its file, and what is wrong with newer ones; None without any.

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


def best(run: Path) -> Path | None:
    """The run's checkpoint with the best AP in evaluation, if it was evaluated."""
    path = best_path(run)
    return path if path.is_file() else None


def choose(run: Path, which: Literal["best", "last"]) -> Path:
    """The run's best checkpoint (the last, if it was never evaluated), its last one, or its converted weights.

    Raises:
        CheckpointError: there is none.
    """
    found = (best(run) if which == "best" else None) or latest(run) or weights_path(run)
    if not found.is_file():
        raise CheckpointError(
            f"no run in {run}: expected a folder that `tailseg train` or `tailseg convert` made, with checkpoints in it"
        )
    return found


def rename_damaged(run: Path, after: Path) -> None:
    """Renames the checkpoints newer than ``after``, which cannot be read, so that they do not count as the newest."""
    paths = step_checkpoints(run)
    for path in paths[paths.index(after) + 1 :]:
        path.rename(path.with_name(path.name + ".damaged"))


def keep_newest(run: Path, count: int) -> None:
    """Removes all but the newest ``count`` checkpoints (at least one stays)."""
    for path in step_checkpoints(run)[: -max(count, 1)]:
        path.unlink()


@contextmanager
def run_lock(folder: Path) -> Generator[None]:
    """Within, no other training writes into the run's folder, which is made if need be.

    The lock goes with its process. Loader processes of a killed one hold it for some seconds more, and a restart waits
    for them. Where the file system cannot lock, this does nothing.

    Raises:
        ValueError: another training is at work there, or there can be no such folder.
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
    """Makes the run's folder ready, and finds the checkpoint to go on from; see `newest_whole`.

    Raises:
        ValueError: the folder holds a run already, or one of another recipe.
    """
    if latest(folder) and not (resume or was_restarted()):
        raise ValueError(f"{folder} holds a run already: go on with it (--resume), or name another folder (--run.out)")
    found = newest_whole(folder)
    if found:
        saved, file, _ = found
        check_recipe(saved, recipe, file)
        rename_damaged(folder, file)
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder, folder / "checkpoints"):
        remove_unfinished(part)
    save_recipe(recipe, folder / "recipe.json")
    return found
