"""Initial weights from another run: shared layers, and the rows of classes of the same name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from tailseg.annotations.dataset import Category
from tailseg.models.detector import Detector
from tailseg.training import checkpoint
from tailseg.training.checkpoint import Checkpoint, CheckpointError
from tailseg.words import count_noun, count_part, verb_form

LOSS: Final = ".loss."
"""Part of the names of counters of losses (LDAM's steps, EQLv2's gradients), which belong to a run."""
MAX_NAMED: Final = 5
"""The largest number of classes that a note names."""

Rows = list[tuple[int, int]]
"""For each class of both models: its label in the new model and its label in the saved one."""


def load_initial_weights(file: Path, model: Detector, categories: Sequence[Category]) -> list[str]:
    """Copies the weights of another run, or converted weights, to a model before its training.

    All layers that do not depend on the classes are copied. In the predictors, the rows of classes with the same name
    are copied. The rows of no class (background) are copied if both losses have equally many; a loss without such rows
    does not fit a loss with them. The counters of the losses are not copied, and the file need not have them.

    Args:
        file: a checkpoint of the same network.
        model: with its initial weights; it keeps those that the file does not have.
        categories: the classes of ``model``, by label.

    Returns:
        Notes for the user, one sentence each.

    Raises:
        CheckpointError: the file cannot be read, or holds another network.
    """
    if not file.is_file():
        raise CheckpointError(
            f"run.init_from: no checkpoint at {file}. `tailseg train` takes coco, the folder of a run and files of "
            "torchvision, mmdetection and detectron2 as well. In Python, call "
            "tailseg.interop.prepare_initial_weights(recipe) first"
        )
    saved = checkpoint.load(file)
    rows = _match_names(saved.categories, categories)
    saved_state = {name: tensor for name, tensor in saved.model.items() if LOSS not in name}
    state = model.state_dict()
    different = [
        f"{name} is {list(tensor.shape)}, expected absent" for name, tensor in saved_state.items() if name not in state
    ]
    for name, initial in state.items():
        if LOSS in name:
            continue
        weights = saved_state.get(name)
        merged = None if weights is None else _merge(name, initial, weights, saved, model, rows)
        if merged is None:
            shape = "absent" if weights is None else list(weights.shape)
            different.append(f"{name} is {shape}, expected {list(initial.shape)}")
        else:
            state[name] = merged
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise CheckpointError(
            f"{file} holds the weights of another network ({saved.recipe['recipe']}): {'; '.join(different[:3])}{more}."
            " Train the same network; its classes may differ. If its loss had logits for background, choose a loss that"
            " has them too"
        )
    model.load_state_dict(state)
    return _describe_rows(file, saved, categories, rows)


def simplify_name(name: str) -> str:
    """Writes a class name in lower case with one space between words, so that the names of data sets compare equal."""
    return " ".join(name.lower().replace("_", " ").split())


def _match_names(saved: Sequence[Category], categories: Sequence[Category]) -> Rows:
    """Matches classes of equal names. Several classes of one name match by their ids, or not at all."""
    names = [simplify_name(category.name) for category in saved]
    labels_by_id = {(name, category.id): label for label, (name, category) in enumerate(zip(names, saved, strict=True))}
    unique_labels = {name: label for label, name in enumerate(names) if names.count(name) == 1}
    rows: Rows = []
    for label, category in enumerate(categories):
        name = simplify_name(category.name)
        saved_label = labels_by_id.get((name, category.id), unique_labels.get(name))
        if saved_label is not None:
            rows.append((label, saved_label))
    return rows


def _merge(
    name: str, initial: Tensor, weights: Tensor, saved: Checkpoint, model: Detector, rows: Rows
) -> Tensor | None:
    """Returns the new weights of a layer; None if the saved ones do not fit."""
    if weights.shape == initial.shape and rows == [(label, label) for label in range(len(saved.categories))]:
        return weights  # the same classes in the same order
    width = model.rows_per_class(name)
    if width == 0:
        return weights if weights.shape == initial.shape else None
    end, saved_end = width * model.num_classes, width * len(saved.categories)
    extra, saved_extra = len(initial) - end, len(weights) - saved_end  # rows of no class
    if initial.shape[1:] != weights.shape[1:] or saved_extra < 0 or bool(extra) != bool(saved_extra):
        return None
    merged = initial.clone()
    for label, saved_label in rows:
        merged[width * label : width * (label + 1)] = weights[width * saved_label : width * (saved_label + 1)]
    if extra == saved_extra:
        merged[end:] = weights[saved_end:]
    return merged


def _describe_rows(file: Path, saved: Checkpoint, categories: Sequence[Category], rows: Rows) -> list[str]:
    """Says how many classes have saved weights, if not all have."""
    if len(rows) == len(categories):
        return []
    names = [categories[label].name for label, _ in rows]
    examples = f" ({', '.join(names[:MAX_NAMED])}{' ..' * (len(names) > MAX_NAMED)})" if names else ""
    count = count_part(len(rows), len(categories), "class")
    note = (
        f"{file}: {count} of the data set {verb_form(len(rows), 'is', 'are')} among its "
        f"{count_noun(len(saved.categories), 'class')} and {verb_form(len(rows), 'gets its', 'get their')} "
        f"weights{examples}; the other classes start from random weights"
    )
    return [note]
