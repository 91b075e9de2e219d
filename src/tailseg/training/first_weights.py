"""Initial weights from another run: shared layers, and the rows of classes of the same name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from tailseg.annotations.dataset import Category
from tailseg.models.detector import Detector
from tailseg.training import checkpoint
from tailseg.training.checkpoint import Checkpoint, CheckpointError

LOSS: Final = ".loss."
"""Part of the names of counters of losses (LDAM's steps, EQLv2's gradients), which belong to a run."""
SHOWN: Final = 5
"""Classes that a note names."""

Rows = list[tuple[int, int]]
"""For each class of both: its label here and its label there."""


def load_initial_weights(file: Path, model: Detector, categories: Sequence[Category]) -> list[str]:
    """Gives a model that is to be trained the weights of another run, or converted ones.

    All layers are copied that do not depend on the classes. Of the predictors, the rows of classes of the same name are
    copied, and those of no class (background) where both losses have as many; a loss that has none is another network
    than one that has some. What the losses have counted is neither taken nor asked for.

    Args:
        file: a checkpoint of the same network.
        model: with its initial weights, which it keeps where the file has none.
        categories: of ``model``, by label.

    Returns:
        What the user should know, a sentence each.

    Raises:
        CheckpointError: the file cannot be read, or is of another network.
    """
    saved = checkpoint.load(file)
    rows = _same_names(saved.categories, categories)
    theirs = {name: tensor for name, tensor in saved.model.items() if LOSS not in name}
    state = model.state_dict()
    different = [f"{name} is {list(theirs[name].shape)}, expected absent" for name in theirs if name not in state]
    for name, mine in state.items():
        if LOSS in name:
            continue
        taken = None if name not in theirs else _taken(name, mine, theirs[name], saved, model, rows)
        if taken is None:
            found = list(theirs[name].shape) if name in theirs else "absent"
            different.append(f"{name} is {found}, expected {list(mine.shape)}")
        else:
            state[name] = taken
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise CheckpointError(
            f"{file} holds the weights of another network ({saved.recipe['recipe']}): {'; '.join(different[:3])}{more}."
            " Train with the network that it was made with, whatever the classes, and a loss that has logits for"
            " background if its loss had some"
        )
    model.load_state_dict(state)
    return _notes(file, saved, categories, rows)


def plain_name(name: str) -> str:
    """A class's name as data sets agree on it: lower case, words apart by one space."""
    return " ".join(name.lower().replace("_", " ").split())


def _same_names(theirs: Sequence[Category], ours: Sequence[Category]) -> Rows:
    """The classes of equal names; among several of one name, those of equal ids, else none."""
    by_id = {(plain_name(each.name), each.id): label for label, each in enumerate(theirs)}
    names = [plain_name(each.name) for each in theirs]
    alone = {name: label for label, name in enumerate(names) if names.count(name) == 1}
    found = (
        (label, by_id.get((plain_name(c.name), c.id), alone.get(plain_name(c.name)))) for label, c in enumerate(ours)
    )
    return [(label, other) for label, other in found if other is not None]


def _taken(name: str, mine: Tensor, theirs: Tensor, saved: Checkpoint, model: Detector, rows: Rows) -> Tensor | None:
    """What a layer of the model becomes; None if the other one does not fit."""
    if theirs.shape == mine.shape and rows == [(label, label) for label in range(len(saved.categories))]:
        return theirs  # the same classes in the same order
    width = model.rows_per_class(name)
    if width == 0:
        return theirs if theirs.shape == mine.shape else None
    end, other_end = width * model.num_classes, width * len(saved.categories)
    others, other_others = len(mine) - end, len(theirs) - other_end  # rows of no class
    if mine.shape[1:] != theirs.shape[1:] or other_others < 0 or bool(others) != bool(other_others):
        return None
    made = mine.clone()
    for label, other in rows:
        made[width * label : width * (label + 1)] = theirs[width * other : width * (other + 1)]
    if others == other_others:
        made[end:] = theirs[other_end:]
    return made


def _notes(file: Path, saved: Checkpoint, categories: Sequence[Category], rows: Rows) -> list[str]:
    """Which classes start from random weights, if some do."""
    if len(rows) == len(categories):
        return []
    known = [categories[label].name for label, _ in rows]
    examples = f" ({', '.join(known[:SHOWN])}{' ..' * (len(known) > SHOWN)})" if known else ""
    count = f"{len(rows):,} of {len(categories):,} classes are among its {len(saved.categories):,} by name"
    return [f"{file}: {count} and take their rows{examples}; the others start from random weights"]
