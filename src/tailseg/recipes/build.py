"""From a recipe to its data and its model; torch is imported for the model."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.hold_out import hold_out
from tailseg.annotations.kinds import Use
from tailseg.annotations.read import judge, open_file, with_classes_of
from tailseg.data.tiny_tail import is_tiny_tail, prepare
from tailseg.losses import build_loss
from tailseg.recipes.recipe import Recipe

if TYPE_CHECKING:
    from tailseg.models.detector import Detector
    from tailseg.structures import ClassFrequency

ANNOTATION_FOLDERS = {"TAILSEG_DATA": ("", "lvis", "annotations"), "DETECTRON2_DATASETS": ("lvis",)}
"""Environment variables that name folders of data sets, and where in those an annotation file that is not in the
working directory is looked for."""


def run_folder(recipe: Recipe) -> Path:
    """The folder of the recipe's run.

    Raises:
        ValueError: something else than ``{name}`` stands in braces.
    """
    try:
        return Path(recipe.run.out.format(name=recipe.name))
    except (LookupError, ValueError, AttributeError):
        raise ValueError(
            f"run.out is {recipe.run.out!r}, and only {{name}}, the recipe's name, can stand in braces there: write "
            "{{ and }} for braces in a folder's name"
        ) from None


def require_data(recipe: Recipe) -> None:
    """Looks whether the annotation files that the recipe names are there, without reading them.

    Raises:
        ValueError: no training set is named, or a file is not there.
    """
    data = recipe.data
    if not data.train:
        raise ValueError(f"recipe {recipe.name} needs a training set: give data.train an annotation file")
    for part, spec in enumerate((data.train, data.val)):
        if spec is not None and not is_tiny_tail(spec) and not annotation_file(spec, part).is_file():
            open_file(annotation_file(spec, part))  # its error says what is there instead


def build_data(recipe: Recipe) -> tuple[Annotations, Annotations]:
    """The training and the validation set; the latter has the former's frequency groups unless it states its own.

    ``tiny_tail`` is generated when it is not there yet. Without a validation set, a tenth of the training images is
    held out: both parts are written into ``<run>/data`` as files of their own, the same ones every time.

    Raises:
        ValueError: no training set is named, the files are missing or malformed (see `read_dataset`), or the two sets
            have different classes.
    """
    require_data(recipe)
    data = recipe.data
    train = _read(annotation_file(data.train, 0), data.train_images, recipe)
    if data.val is None:
        return _held_out(train, recipe)
    val = with_classes_of(_read(annotation_file(data.val, 1), data.val_images, recipe, evaluated=True), train)
    return train, val


def build_validation(recipe: Recipe) -> Annotations:
    """The validation set alone, with the frequencies that its own file states or has: the training set need not be
    there, unless the validation set was held out of it.

    Raises:
        ValueError: as `build_data`.
    """
    if recipe.data.val is None:
        return build_data(recipe)[1]
    return _read(annotation_file(recipe.data.val, 1), recipe.data.val_images, recipe, evaluated=True)


def _read(path: Path, images: str | None, recipe: Recipe, *, evaluated: bool = False) -> Annotations:
    """The annotations for what the recipe's model does with them: learns, and is scored on them."""
    masks = recipe.model.mask is not None
    uses: list[Use] = ["training_masks" if masks else "training"]
    if evaluated:
        uses.append("masks" if masks else "boxes")
    annotations = open_file(path, images=images, needs_sizes=True)
    return judge(annotations, uses, on_problem=recipe.data.on_problem, crowds=recipe.data.crowds)


def build_model(recipe: Recipe, frequency: "ClassFrequency", *, load_weights: bool = True) -> "Detector":
    """The recipe's detector for the classes of ``frequency``.

    Args:
        recipe: settings of the detector and of its loss.
        frequency: of the classes in the training set.
        load_weights: start the backbone from the weights that the recipe names; False where a checkpoint follows.
    """
    from tailseg.models.build import build_detector

    return build_detector(recipe.model, build_loss(recipe.loss, frequency), load_weights=load_weights)


def annotation_file(spec: str, part: int) -> Path:
    """The annotation file that ``data.train`` (part 0) or ``data.val`` (part 1) stands for."""
    if is_tiny_tail(spec):
        return prepare(spec)[part]
    return next((path for path in _candidates(Path(spec)) if path.is_file()), Path(spec))


def _candidates(path: Path) -> Iterator[Path]:
    """The path itself, and where `ANNOTATION_FOLDERS` says."""
    yield path
    if not path.is_absolute():
        for variable, folders in ANNOTATION_FOLDERS.items():
            if root := os.environ.get(variable):
                yield from (Path(root).expanduser() / folder / path for folder in folders)


def _held_out(annotations: Annotations, recipe: Recipe) -> tuple[Annotations, Annotations]:
    """The two parts of one data set; their images lie where the whole's do."""
    train_file, val_file = hold_out(annotations, run_folder(recipe) / "data")
    folder = recipe.data.train_images
    train = replace(_read(train_file, folder, recipe), finder=annotations.finder)
    val = replace(_read(val_file, folder, recipe, evaluated=True), finder=annotations.finder)
    return train, with_classes_of(val, train)
