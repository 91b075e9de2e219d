"""Checks before a run starts, resumes or is used: a checkpoint must fit the recipe, the classes, the data, the model.

A recipe must fit its data and the number of processes.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from tailseg.annotations.dataset import Annotations, Category
from tailseg.annotations.fingerprint import compute_fingerprint
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import adopt_classes
from tailseg.recipes.build import has_changed
from tailseg.recipes.commands import make_run_command
from tailseg.recipes.recipe import DataConfig, Recipe
from tailseg.recipes.saved import list_differences, make_saved_paths_absolute, with_absolute_paths
from tailseg.training.checkpoint import Checkpoint, CheckpointError, Progress
from tailseg.training.distributed import gather_on_all
from tailseg.words import count_noun

FREE_SETTINGS: Final = {
    "run.out",
    "run.device",
    "run.init_from",
    "run.log_every",
    "run.eval_every",
    "run.checkpoint_every",
    "run.checkpoint_steps",
    "run.keep_checkpoints",
    "run.compile",
    "data.workers",
    "data.train_images",
    "data.val_images",
    "data.max_bad_images",
    "optim.max_loss_ratio",
}
"""Settings that may differ when a run is resumed: they do not change what is learned from its checkpoint on.
`check_recipe` adds some."""


def check_shares(recipe: Recipe, processes: int) -> None:
    """Checks that the images of a step can be shared equally by the processes, in equal parts.

    Raises:
        ValueError: they cannot.
    """
    images, parts = recipe.data.batch_size, recipe.optim.accumulation_steps
    shares = processes * parts
    if images % shares:
        in_parts = f" that take them in {parts} equal parts" * (parts > 1)
        raise ValueError(
            f"a step's {images} images cannot be shared by {processes} processes{in_parts}: make "
            f"data.batch_size a multiple of {shares} (--data.batch-size {-(-images // shares) * shares}), or change "
            f"{'optim.accumulation_steps (--optim.accumulation-steps) or ' * (parts > 1)}"
            "the number of processes (--devices)"
        )


def list_size_notes(data: DataConfig, sizes: np.ndarray) -> list[str]:
    """A note if no image reaches a short side of the recipe, because its long side would be too long.

    Args:
        data: of the recipe.
        sizes: of the training images, int64 ``[n, 2]``: height and width, 0 if it is not known.

    Returns:
        The note, or an empty list.
    """
    sizes = sizes[(sizes > 0).all(axis=1)]
    longest = sizes.max(axis=1) * min(data.short_sides) / sizes.min(axis=1)
    if not len(sizes) or not (longest > data.max_long_side).all():
        return []
    shorts = (sizes.min(axis=1) * data.max_long_side / sizes.max(axis=1) + 0.5).astype(int)
    sides = f"{shorts.min():,} to {shorts.max():,}" if shorts.min() < shorts.max() else f"{shorts.min():,}"
    note = (
        f"data.max_long_side is {data.max_long_side:,}, so no image reaches the smallest of data.short_sides "
        f"({min(data.short_sides):,}): all images are trained with short sides of {sides} pixels. Raise "
        "--data.max-long-side, or lower --data.short-sides to vary the sizes"
    )
    return [note]


def check_recipe(checkpoint: Checkpoint, recipe: Recipe, path: Path) -> None:
    """Checks that a run is resumed with the settings that it began with.

    The number of epochs may be larger, and milestones that the run has not reached may differ: this extends the run.
    The validation set may be another file.

    Args:
        checkpoint: of the run.
        recipe: to go on with.
        path: the file of the checkpoint.

    Raises:
        CheckpointError: a setting differs that changes what is learned; the message lists them.
    """
    saved, free, hint = checkpoint.recipe["resolved"], set(FREE_SETTINGS), ""
    if checkpoint.data:
        free.add("data.train")  # `check_data` compares the content
    if None not in (recipe.data.val, saved.get("data", {}).get("val")):
        free.add("data.val")
    if recipe.optim.epochs >= get_saved_epochs(checkpoint):
        free.add("optim.epochs")
    if _list_passed(recipe.optim.milestones, checkpoint.progress) == _list_passed(
        saved.get("optim", {}).get("milestones", ()), checkpoint.progress
    ):
        free.add("optim.milestones")
    lines = list_differences(with_absolute_paths(recipe), make_saved_paths_absolute(checkpoint.recipe))
    different = {name: line for line in lines if (name := line.split(":")[0]) not in free}
    if "optim.epochs" in different:
        hint += ". The number of epochs can be raised, not lowered"
    if "optim.milestones" in different:
        hint += ". Milestones that the run has passed must stay"
    if different:
        raise CheckpointError(
            f"{path} belongs to another recipe ({checkpoint.recipe['recipe']}). These differ: "
            f"{'; '.join(different.values())}{hint}. Continue with the settings of that run: "
            f"`{make_run_command('resume', recipe)}`, or train into another folder with --run.out"
        )


def get_saved_epochs(checkpoint: Checkpoint) -> int:
    """Returns the number of epochs that the run of a checkpoint should have."""
    return checkpoint.recipe["resolved"].get("optim", {}).get("epochs", 0)


def _list_passed(milestones: Sequence[int], progress: Progress) -> list[int]:
    """Lists the milestones that have changed the learning rate of a step that was done."""
    return [epoch for epoch in milestones if epoch < progress.epoch + (progress.step_in_epoch > 0)]


def check_classes(checkpoint: Checkpoint, categories: Sequence[Category], path: Path) -> None:
    """Checks that a data set has the classes of the model.

    Args:
        checkpoint: of the model.
        categories: of the data set, by label.
        path: the file of the checkpoint.

    Raises:
        CheckpointError: ids, names or their order differ.
    """
    classes = [(category.id, category.name) for category in categories]
    saved = [(category.id, category.name) for category in checkpoint.categories]
    if classes != saved:
        pairs = zip_longest(saved, classes)
        first = next(f"{old} in the checkpoint, {new} in the data" for old, new in pairs if old != new)
        raise CheckpointError(
            f"{path} has {count_noun(len(saved), 'class')} and the data set has {len(classes)}; the first difference "
            f"is {first}. Give the classes of the data the ids and names of the model"
        )


def with_classes_of_run(annotations: Annotations, saved: Checkpoint, path: Path) -> Annotations:
    """Gives a data set the classes of a run, and their frequency groups in the run's training set.

    Args:
        annotations: the data set.
        saved: the checkpoint of the run.
        path: the file of the checkpoint.

    Returns:
        The same images and objects with these classes.

    Raises:
        CheckpointError: the data set has objects of other classes.
    """
    try:
        adapted = adopt_classes(annotations, saved.categories, saved.frequency.to_class_counts(), f"the run in {path}")
    except DatasetError:
        check_classes(saved, annotations.categories, path)
        raise
    groups = {category.id: category.group for category in saved.categories}
    return replace(adapted, categories=tuple(replace(c, group=groups[c.id]) for c in adapted.categories))


def get_common_fingerprint(data: Annotations) -> str:
    """Returns the fingerprint of the training set, which must be the same in all processes.

    Raises:
        ValueError: processes on several machines have read different data.
    """
    fingerprints = gather_on_all(compute_fingerprint(data))
    first = fingerprints[0]
    if different := [process for process, fingerprint in enumerate(fingerprints) if fingerprint != first]:
        raise ValueError(
            f"{data.path} has other data in the processes {different} than in the first: copy the file again"
        )
    return first


def check_data(checkpoint: Checkpoint, annotations: Annotations, fingerprint: str, path: Path, recipe: Recipe) -> None:
    """Checks that a run is resumed with its training data. Other data would mix two runs in one.

    Args:
        checkpoint: of the run.
        annotations: the training set, or the part of it that is not held out.
        fingerprint: the `compute_fingerprint` of ``annotations``.
        path: the file of the checkpoint.
        recipe: of the run.

    Raises:
        CheckpointError: images, objects or classes have changed since the run began.
    """
    split = recipe.data.val is None  # the run stores its parts, but their source may have changed
    if checkpoint.data not in ("", fingerprint) or (split and has_changed(recipe)):
        raise CheckpointError(
            f"{recipe.data.train if split else annotations.path} has changed since {path} was written: other images, "
            "objects or classes. Put the old file back, or begin a run with the new one in another folder: --run.out "
            f"... --run.init-from {path}"
        )


def check_model(checkpoint: Checkpoint, model: nn.Module, path: Path) -> None:
    """Checks that a checkpoint has the weights of this network.

    Args:
        checkpoint: with weights.
        model: the network.
        path: the file of the checkpoint.

    Raises:
        CheckpointError: names or shapes differ.
    """
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: list(tensor.shape) for name, tensor in checkpoint.model.items()}
    different = [
        f"{name} is {saved.get(name, 'absent')}, expected {shapes.get(name, 'absent')}"
        for name in dict.fromkeys([*shapes, *saved])
        if shapes.get(name) != saved.get(name)
    ]
    if different:
        rest = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise CheckpointError(
            f"{path} holds the weights of another network ({checkpoint.recipe['recipe']}): "
            f"{'; '.join(different[:3])}{rest}. Use the recipe and the loss that it was made with"
        )
