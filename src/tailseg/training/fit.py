"""Checks before a run starts, is resumed or is used: of a checkpoint, its recipe, classes, data and network.

A recipe must fit its data and the number of processes, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from torch import nn

from tailseg.annotations.dataset import Annotations, Category
from tailseg.annotations.fingerprint import compute_fingerprint
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import adopt_classes
from tailseg.recipes.build import has_changed
from tailseg.recipes.recipe import DataConfig, Recipe
from tailseg.recipes.saved import absolute, differences, with_absolute_paths
from tailseg.training.checkpoint import Checkpoint, CheckpointError
from tailseg.training.distributed import gather_on_all

FREE_SETTINGS: Final = {
    "run.out",
    "run.device",
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
}
"""Settings that may differ when a run is resumed: they do not change what is learned."""


def check_shares(recipe: Recipe, processes: int) -> None:
    """Checks that the processes can share the images of a step equally, in equal parts.

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


def size_notes(data: DataConfig, sizes: np.ndarray) -> list[str]:
    """A note if no image reaches a short side of the recipe, because its long side would be too long.

    Args:
        data: of the recipe.
        sizes: of the training images, int64 ``[n, 2]``: height and width, 0 where it is not known.
    """
    known = sizes[(sizes > 0).all(axis=1)]
    longest = known.max(axis=1) * min(data.short_sides) / known.min(axis=1)
    if not len(known) or not (longest > data.max_long_side).all():
        return []
    shorts = (known.min(axis=1) * data.max_long_side / known.max(axis=1) + 0.5).astype(int)
    sides = f"{shorts.min():,} to {shorts.max():,}" if shorts.min() < shorts.max() else f"{shorts.min():,}"
    note = (
        f"data.max_long_side is {data.max_long_side:,}, by which no image reaches the least of data.short_sides "
        f"({min(data.short_sides):,}): all are trained with short sides of {sides} pixels. Raise --data.max-long-side, "
        "or lower --data.short-sides to vary the sizes"
    )
    return [note]


def check_recipe(checkpoint: Checkpoint, recipe: Recipe, path: Path) -> None:
    """Checks that a run is resumed with the settings that it began with.

    Args:
        checkpoint: of the run.
        recipe: to go on with.
        path: the file of the checkpoint.

    Raises:
        CheckpointError: a setting differs that changes what is learned; the message lists them.
    """
    free = {*FREE_SETTINGS, *(["data.train"] if checkpoint.data else [])}  # `check_data` looks at what it holds
    found = differences(with_absolute_paths(recipe), absolute(checkpoint.recipe))
    different = [line for line in found if line.split(":")[0] not in free]
    if different:
        raise CheckpointError(
            f"{path} belongs to another recipe ({checkpoint.recipe['recipe']}). Different are {'; '.join(different)}. "
            "Resume with the settings of that run, or train into another folder with --run.out"
        )


def check_classes(checkpoint: Checkpoint, categories: Sequence[Category], path: Path) -> None:
    """Checks that a data set has the classes of the model.

    Args:
        checkpoint: of the model.
        categories: of the data set, by label.
        path: the file of the checkpoint.

    Raises:
        CheckpointError: ids, names or their order differ.
    """
    ours = [(category.id, category.name) for category in categories]
    theirs = [(category.id, category.name) for category in checkpoint.categories]
    if ours != theirs:
        pairs = zip(theirs + [None] * len(ours), ours + [None] * len(theirs), strict=False)
        first = next(f"{known} in the checkpoint, {given} in the data" for known, given in pairs if known != given)
        raise CheckpointError(
            f"{path} knows {len(theirs)} classes and the data set has {len(ours)}; the first difference is {first}"
        )


def with_classes_of_run(annotations: Annotations, saved: Checkpoint, path: Path) -> Annotations:
    """A data set with the classes of a run, and with their frequency groups in its training set.

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
    """The fingerprint of the training set, which all processes must agree on.

    Raises:
        ValueError: processes on several machines have read different data.
    """
    found = gather_on_all(compute_fingerprint(data))
    if different := [process for process, each in enumerate(found) if each != found[0]]:
        raise ValueError(
            f"{data.path} holds other data in the processes {different} than in the first: copy the file again"
        )
    return found[0]


def check_data(checkpoint: Checkpoint, annotations: Annotations, found: str, path: Path, recipe: Recipe) -> None:
    """Checks that a run is resumed with its training data: with other data, order and figures would be of two runs.

    Args:
        checkpoint: of the run.
        annotations: the training set, or the part of it that is not held out.
        found: the `compute_fingerprint` of ``annotations``.
        path: the checkpoint's file.
        recipe: of the run.

    Raises:
        CheckpointError: images, objects or classes are not those that the run began with.
    """
    split = recipe.data.val is None  # the parts are the run's: what they were made of may have changed
    if checkpoint.data not in ("", found) or (split and has_changed(recipe)):
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
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: list(tensor.shape) for name, tensor in checkpoint.model.items()}
    different = [
        f"{name} is {theirs.get(name, 'absent')}, expected {ours.get(name, 'absent')}"
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]
    if different:
        rest = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise CheckpointError(
            f"{path} holds the weights of another network ({checkpoint.recipe['recipe']}): "
            f"{'; '.join(different[:3])}{rest}. Use the recipe and the loss that it was made with"
        )
