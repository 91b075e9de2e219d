"""Builds the data and the model of a recipe. Only the model needs torch."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailseg.annotations.dataset import Annotations, with_group_bounds
from tailseg.annotations.fingerprint import compute_fingerprint
from tailseg.annotations.formats.registry import exists, is_coco_file
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
"""Environment variables that name folders of data sets. An annotation file that is not in the working directory is
searched in these subfolders of them."""


def require_data(recipe: Recipe) -> None:
    """Checks that the annotation files of the recipe exist, without reading them.

    Raises:
        ValueError: no training set is named, or a file is not there.
    """
    data = recipe.data
    if data.source is not None and not data.train:
        return  # the files are written when the training starts
    if not data.train:
        raise ValueError(f"recipe {recipe.name} needs a training set: give data.train an annotation file")
    for part, spec in enumerate((data.train, data.val)):
        if spec is not None and not is_tiny_tail(spec) and not exists(find_annotation_file(spec, part)):
            open_file(find_annotation_file(spec, part))  # raises an error that says what is there instead


def build_data(recipe: Recipe, *, trained: bool = False) -> tuple[Annotations, Annotations]:
    """Reads the training set and the validation set.

    The validation set has the frequency groups of the training set unless its file states groups. ``tiny_tail`` is
    generated if it does not exist. Without a validation set, a tenth of the training images is held out: both parts are
    written as annotation files into ``<run>/data``. After its first checkpoint, a run keeps these parts.

    Args:
        recipe: names the data.
        trained: the recipe's run has a checkpoint, so that its parts are read and not chosen again.

    Raises:
        ValueError: no training set is named, the files are missing or malformed (see `read_dataset`), or the two sets
            have different classes.
    """
    if not (recipe.data.val is None and trained):
        require_data(recipe)
        train = _read(find_annotation_file(recipe.data.train, 0), recipe.data.train_images, recipe)
        if recipe.data.val is not None:
            return train, adopt_training_classes(build_validation(recipe), train)
        hold_out_validation(train, _data_folder(recipe), use=_get_evaluation_use(recipe))
    train = build_training(recipe)
    return train, adopt_training_classes(build_validation(recipe), train)


def build_training(recipe: Recipe) -> Annotations:
    """Reads the training set of a trained run, without the images that were held out.

    Raises:
        ValueError: as `build_data`.
    """
    if recipe.data.val is None:
        return _read_part(recipe, 0)
    require_data(replace(recipe, data=replace(recipe.data, val=None)))
    return _read(find_annotation_file(recipe.data.train, 0), recipe.data.train_images, recipe)


def build_validation(recipe: Recipe, *, images: str | None = None) -> Annotations:
    """Reads the validation set of a run, with the frequencies that its own file states or has.

    The training set need not exist, since a validation set that was held out of it is stored in the run's folder.

    Args:
        recipe: names the data.
        images: the folder of the images, if it is not the recipe's.

    Raises:
        ValueError: as `build_data`.
    """
    data = recipe.data
    if data.val is not None:
        file = find_annotation_file(data.val, 1)
        if not exists(file):
            raise ValueError(
                f"the validation set of the run, {file}, is not there: name it where it is now (--val FILE, and "
                "--val-images FOLDER if its images do not lie beside it)"
            )
        return _read(file, images or data.val_images, recipe, evaluated=True)
    return _read_part(recipe, 1, images)


def held_out_note(recipe: Recipe) -> str:
    """Returns a note if the file that a run's validation set was held out of has changed, else an empty string.

    The file has changed if its images, objects or classes differ. Its layout does not matter.
    """
    own = _data_folder(recipe) / "val.json"
    if recipe.data.val is not None or not own.is_file() or not has_changed(recipe):
        return ""
    return f"{recipe.data.train} has changed since the run began: its own held-out part is used, {own}"


def has_changed(recipe: Recipe) -> bool:
    """Whether the file that a run's validation set was held out of no longer has the content of the two parts."""
    file = find_annotation_file(recipe.data.train, 0)
    if not exists(file):
        return False
    if is_coco_file(file):
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() == read_source_key(_data_folder(recipe)):
                return False
    try:
        whole = _read(file, recipe.data.train_images, recipe)
    except DatasetError:
        return True
    subsets = [_read_part(recipe, part) for part in (0, 1)]
    if sum(subset.num_images for subset in subsets) != whole.num_images:
        return True
    return any(
        compute_fingerprint(subset) != compute_fingerprint(whole.select_images(subset.image_ids.tolist()))
        for subset in subsets
    )


def _read(
    path: Path, images: str | None, recipe: Recipe, *, evaluated: bool = False, part: int | None = None
) -> Annotations:
    """Reads an annotation file, and checks it for its use: training, or evaluation as well.

    ``part`` is a part of the training file: 0 is the training set, 1 was held out. None is a file of its own.
    """
    uses: list[Use] = ["training_masks" if recipe.model.has_masks else "training"]
    if evaluated or part == 1:
        uses.append(_get_evaluation_use(recipe))
    whole = None if part is None else find_annotation_file(recipe.data.train, 0)
    orientation = recipe.data.orientation
    annotations = open_file(path, images=images, needs_sizes=True, source=whole, orientation=orientation)
    annotations = _with_source(annotations, recipe, part)
    annotations = judge(annotations, uses, on_problem=recipe.data.on_problem, crowds=recipe.data.crowds)
    return annotations if recipe.data.groups == LVIS_BOUNDS else with_group_bounds(annotations, recipe.data.groups)


def _with_source(annotations: Annotations, recipe: Recipe, part: int | None) -> Annotations:
    """Adds the images of the user's own data set to the annotations that were written from it."""
    if recipe.data.source is None:
        return annotations
    from tailseg.data.source import is_source_file, open_source

    if part is None and not is_source_file(annotations.path):
        return annotations
    train, val = open_source(recipe.data.source)
    is_val = part is None and annotations.path.stem == "val"
    return replace(annotations, source=val if is_val else train)


def _get_evaluation_use(recipe: Recipe) -> Use:
    return "masks" if recipe.model.has_masks else "boxes"


def build_model(recipe: Recipe, frequency: "ClassFrequency", *, load_weights: bool = True) -> "Detector":
    """Builds the recipe's detector for the classes of ``frequency``.

    Args:
        recipe: settings of the detector and of its loss.
        frequency: the frequencies of the classes in the training set.
        load_weights: whether to load the backbone's weights that the recipe names; False if a checkpoint is loaded
            later.

    Returns:
        The detector on the CPU, in training mode.
    """
    from tailseg.models.build import build_detector

    return build_detector(recipe.model, build_loss(recipe.loss, frequency), load_weights=load_weights)


def find_annotation_file(spec: str, part: int) -> Path:
    """Returns the path of the annotation file that ``data.train`` (part 0) or ``data.val`` (part 1) names."""
    if is_tiny_tail(spec):
        return prepare(spec)[part]
    return next((path for path in _list_candidates(Path(spec)) if exists(path)), Path(spec))


def _list_candidates(path: Path) -> Iterator[Path]:
    """The path itself, then the same path in the folders of `ANNOTATION_FOLDERS`."""
    yield path
    if not path.is_absolute():
        for variable, folders in ANNOTATION_FOLDERS.items():
            if root := os.environ.get(variable):
                yield from (Path(root).expanduser() / folder / path for folder in folders)


def _read_part(recipe: Recipe, part: int, images: str | None = None) -> Annotations:
    """Reads a part of the training file; its images are in the folder of the whole training set."""
    file = find_split(_data_folder(recipe))[part]
    return _read(file, images or recipe.data.train_images, recipe, part=part)


def _data_folder(recipe: Recipe) -> Path:
    return run_folder(recipe) / "data"
