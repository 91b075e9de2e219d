"""From a recipe to its data and its model; torch is imported for the model."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailseg.annotations.dataset import Annotations, with_group_bounds
from tailseg.annotations.fingerprint import compute_fingerprint
from tailseg.annotations.hold_out import find_split, hold_out_validation, read_source_key
from tailseg.annotations.kinds import Use
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import adopt_training_classes, judge, open_file
from tailseg.annotations.types import LVIS_BOUNDS
from tailseg.data.tiny_tail import is_tiny_tail, prepare
from tailseg.losses import build_loss
from tailseg.recipes.recipe import Recipe, run_folder

if TYPE_CHECKING:
    from tailseg.models.detector import Detector
    from tailseg.structures import ClassFrequency

ANNOTATION_FOLDERS = {"TAILSEG_DATA": ("", "lvis", "annotations"), "DETECTRON2_DATASETS": ("lvis",)}
"""Environment variables that name folders of data sets, and where in those an annotation file that is not in the
working directory is looked for."""


def require_data(recipe: Recipe) -> None:
    """Looks whether the annotation files that the recipe names are there, without reading them.

    Raises:
        ValueError: no training set is named, or a file is not there.
    """
    data = recipe.data
    if data.source is not None and not data.train:
        return  # the files are written when the training starts
    if not data.train:
        raise ValueError(f"recipe {recipe.name} needs a training set: give data.train an annotation file")
    for part, spec in enumerate((data.train, data.val)):
        if spec is not None and not is_tiny_tail(spec) and not annotation_file(spec, part).is_file():
            open_file(annotation_file(spec, part))  # its error says what is there instead


def build_data(recipe: Recipe, *, trained: bool = False) -> tuple[Annotations, Annotations]:
    """The training and the validation set; the latter has the former's frequency groups unless it states its own.

    ``tiny_tail`` is generated when it is not there yet. Without a validation set, a tenth of the training images is
    held out: both parts are written into ``<run>/data`` as files of their own, and belong to the run from its first
    checkpoint on.

    Args:
        recipe: names the data.
        trained: the recipe's run has a checkpoint; its parts are taken, and never drawn again.

    Raises:
        ValueError: no training set is named, the files are missing or malformed (see `read_dataset`), or the two sets
            have different classes.
    """
    if not (recipe.data.val is None and trained):
        require_data(recipe)
        train = _read(annotation_file(recipe.data.train, 0), recipe.data.train_images, recipe)
        if recipe.data.val is not None:
            return train, adopt_training_classes(build_validation(recipe), train)
        hold_out_validation(train, _data_folder(recipe), use=_evaluation(recipe))
    train = build_training(recipe)
    return train, adopt_training_classes(build_validation(recipe), train)


def build_training(recipe: Recipe) -> Annotations:
    """The training set of a trained run alone: without the part that was held out of it.

    Raises:
        ValueError: as `build_data`.
    """
    if recipe.data.val is None:
        return _part(recipe, 0)
    require_data(replace(recipe, data=replace(recipe.data, val=None)))
    return _read(annotation_file(recipe.data.train, 0), recipe.data.train_images, recipe)


def build_validation(recipe: Recipe, *, images: str | None = None) -> Annotations:
    """The validation set of a run alone, with the frequencies that its own file states or has.

    The training set need not be there: a part that was held out of it lies in the run's folder.

    Args:
        recipe: names the data.
        images: the folder of the images, if it is another one than the recipe's.

    Raises:
        ValueError: as `build_data`.
    """
    data = recipe.data
    if data.val is not None:
        file = annotation_file(data.val, 1)
        if not file.is_file():
            raise ValueError(
                f"the validation set of the run, {file}, is not there: name it where it is now (--val FILE, and "
                "--val-images FOLDER if its images do not lie beside it)"
            )
        return _read(file, images or data.val_images, recipe, evaluated=True)
    return _part(recipe, 1, images)


def held_out_note(recipe: Recipe) -> str:
    """What is to be said about a trained run's own validation set: that its source has changed; else nothing.

    It has changed if it has other images, objects or classes; its layout may be another one.
    """
    own = _data_folder(recipe) / "val.json"
    if recipe.data.val is not None or not own.is_file() or not has_changed(recipe):
        return ""
    return f"{recipe.data.train} has changed since the run began: its own held-out part is used, {own}"


def has_changed(recipe: Recipe) -> bool:
    """Whether the file that a trained run's validation set was held out of holds something else than the two parts."""
    file = annotation_file(recipe.data.train, 0)
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() == read_source_key(_data_folder(recipe)):
            return False
    try:
        whole = _read(file, recipe.data.train_images, recipe)
    except DatasetError:
        return True
    parts = [_part(recipe, part) for part in (0, 1)]
    if sum(part.num_images for part in parts) != whole.num_images:
        return True
    return any(
        compute_fingerprint(part) != compute_fingerprint(whole.select_images(part.image_ids.tolist())) for part in parts
    )


def _read(
    path: Path, images: str | None, recipe: Recipe, *, evaluated: bool = False, part: int | None = None
) -> Annotations:
    """The annotations for what the recipe's model does with them: learns, and is scored on them.

    ``part`` is that of the training file: 0 is trained on, 1 is held out.
    """
    uses: list[Use] = ["training_masks" if recipe.model.has_masks else "training"]
    if evaluated or part == 1:
        uses.append(_evaluation(recipe))
    whole = None if part is None else annotation_file(recipe.data.train, 0)
    orientation = recipe.data.orientation
    annotations = open_file(path, images=images, needs_sizes=True, source=whole, orientation=orientation)
    annotations = _with_source(annotations, recipe, part)
    annotations = judge(annotations, uses, on_problem=recipe.data.on_problem, crowds=recipe.data.crowds)
    return annotations if recipe.data.groups == LVIS_BOUNDS else with_group_bounds(annotations, recipe.data.groups)


def _with_source(annotations: Annotations, recipe: Recipe, part: int | None) -> Annotations:
    """The annotations with the images of the user's own data set, if they were written of it."""
    if recipe.data.source is None:
        return annotations
    from tailseg.data.source import is_source_file, open_source

    if part is None and not is_source_file(annotations.path):
        return annotations
    train, val = open_source(recipe.data.source)
    is_val = part is None and annotations.path.stem == "val"
    return replace(annotations, source=val if is_val else train)


def _evaluation(recipe: Recipe) -> Use:
    return "masks" if recipe.model.has_masks else "boxes"


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


def _part(recipe: Recipe, part: int, images: str | None = None) -> Annotations:
    """A part of one data set; its images lie where the whole's do."""
    file = find_split(_data_folder(recipe))[part]
    return _read(file, images or recipe.data.train_images, recipe, part=part)


def _data_folder(recipe: Recipe) -> Path:
    return run_folder(recipe) / "data"
