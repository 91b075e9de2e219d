"""Initial weights of a training by one name: ``coco``, a file of another project, or the folder of a run.

`tailseg.training` reads its own files only. `prepare_initial_weights` makes such a file of anything else, in the cache
folder. The file has the classes of its source, so one conversion serves every data set: the training copies the rows
of the classes with the same name (`tailseg.training.first_weights`).
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import WeightsEnum
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, MaskRCNN_ResNet50_FPN_Weights

from tailseg.annotations.dataset import Category
from tailseg.files import get_cache_folder
from tailseg.interop.convert import build_initial_model, describe_settings, with_strides
from tailseg.interop.detectron2 import find_settings, from_detectron2
from tailseg.interop.files import WeightsFile, read_weights_file
from tailseg.interop.layouts import detect_layout
from tailseg.interop.mmdet_weights import from_mmdet
from tailseg.interop.rules import Converted, shorten
from tailseg.interop.torchvision_weights import from_torchvision, get_coco_names
from tailseg.models.detector import TwoStageDetector
from tailseg.recipes.initial import COCO, IMAGENET, explain_misfit
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import to_plain
from tailseg.structures import ClassFrequency
from tailseg.training import run_files
from tailseg.training.checkpoint import Checkpoint, CheckpointError, Progress, load, save_weights

VERSION: Final = 1
"""Part of the name of a converted file: a change of the conversion raises it."""
EXAMPLES: Final = 100
"""The number of images of each class of the source, which the weights do not depend on."""


def prepare_initial_weights(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Replaces ``run.init_from`` by a file that a training can read.

    ``coco`` is torchvision's Mask R-CNN R50-FPN for COCO, or its Faster R-CNN for a network without masks. The file is
    downloaded into the folder of ``torch.hub``, if it is not there. The folder of a run stands for its best checkpoint.
    A file of torchvision, mmdetection or detectron2 is converted. A checkpoint of tailseg stays.

    Args:
        recipe: of the training. Its network must fit the weights; its classes may differ. For a file of detectron2, its
            ResNet gets the stride where the file has it.

    Returns:
        The recipe, and notes for the user.

    Raises:
        CheckpointError: the weights cannot be downloaded or read, or do not fit the network; says what to do.
    """
    name = recipe.run.init_from
    if name is None:
        return recipe, []
    source = _find_coco(recipe) if name == COCO else Path(name)
    if source.is_dir():
        source = run_files.choose(source, "best")
    file = None if name != COCO and _is_own(source) else _read_foreign(source)
    if file is None:
        return _with_weights(recipe, source), []
    notes = []
    if detect_layout(file.state, str(file.path)) == "detectron2":
        settings = find_settings(file.state, recipe.model, source=str(file.path))
        recipe = with_strides(recipe, settings)
        notes.append(describe_settings(settings))
    out = _name_converted(file, recipe)
    notes += [] if out.is_file() else _convert(file, recipe, out)
    return _with_weights(recipe, out), notes


def _with_weights(recipe: Recipe, file: Path) -> Recipe:
    return replace(recipe, run=replace(recipe.run, init_from=str(file)))


def _find_coco(recipe: Recipe) -> Path:
    """Finds torchvision's file in the folder of ``torch.hub``, or downloads it."""
    if misfit := explain_misfit(recipe):
        raise CheckpointError(misfit)
    entry: WeightsEnum = (
        MaskRCNN_ResNet50_FPN_Weights.COCO_V1 if recipe.model.has_masks else FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    )
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(entry.url).name
    if not file.is_file():
        try:
            entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (URLError, OSError, RuntimeError) as error:
            raise CheckpointError(
                f"torchvision's COCO weights could not be downloaded from {entry.url} ({error}). Download this file on "
                f"another machine. Then put it into {folder}, or name it: --init-from {file.name}"
            ) from None
    return file


def _is_own(path: Path) -> bool:
    """Whether tailseg wrote the file.

    Raises:
        CheckpointError: the file is not there, is damaged, or is no file of weights.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {path}: --init-from takes {COCO}, {IMAGENET}, a file of weights, or the folder of a run"
        )
    try:
        load(path)
    except CheckpointError as error:
        file = read_weights_file(path)  # its own error says what is read
        if any(key.startswith(("box_head.", "box_cascade.")) for key in file.state):  # our names, but damaged
            raise error from None
        return False
    return True


def _read_foreign(path: Path) -> WeightsFile:
    file = read_weights_file(path)
    try:
        detect_layout(file.state, str(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. For weights of a backbone alone, use --model.backbone.weights {path}"
        ) from None
    return file


def _name_converted(file: WeightsFile, recipe: Recipe) -> Path:
    """Names the converted file by all that its content depends on."""
    plain = to_plain(recipe)["resolved"]
    with file.path.open("rb") as opened:
        content = hashlib.file_digest(opened, "sha256").hexdigest()
    text = json.dumps([VERSION, content, plain["model"], plain["loss"]], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:10]
    return get_cache_folder() / "initial" / f"{file.path.stem}-{key}.safetensors"


def _convert(file: WeightsFile, recipe: Recipe, out: Path) -> list[str]:
    """Converts the file for the network and the loss of the recipe, with the classes of the file."""
    categories = _list_classes(file)
    counts = torch.full((len(categories),), EXAMPLES)
    frequency = ClassFrequency.from_counts(counts, counts, EXAMPLES * len(categories))
    model = build_initial_model(replace(recipe, run=replace(recipe.run, seed=0)), frequency)
    try:
        layout = detect_layout(file.state, str(file.path))
        if layout == "torchvision":
            names = [category.name for category in categories]
            converted, _ = from_torchvision(file.state, model, names, source=f"{file.path} (torchvision)")
        elif layout == "mmdet":
            converted = _from_mmdet(file, model)
        else:
            converted = from_detectron2(file.state, model, other_loss=True, source=f"{file.path} (detectron2)")
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. --init-from needs the network of the file: choose a recipe with this network, such as "
            "custom_r50 for a Mask R-CNN R50-FPN"
        ) from None
    save_weights(Checkpoint(to_plain(recipe), categories, frequency, converted.state, {}, Progress()), out)
    notes = [f"{file.path} was converted to {out}"]
    if converted.left_out:
        notes.append(f"left out, because the network has no place for it: {shorten(converted.left_out)}")
    return notes


def _list_classes(file: WeightsFile) -> tuple[Category, ...]:
    """The classes of the file: those that it names, or COCO's if their number is that of COCO.

    Raises:
        CheckpointError: the file names no classes, and has not as many as COCO.
    """
    labels = [label for label, name in enumerate(get_coco_names()) if label > 0 and name != "N/A"]
    coco = tuple(Category(label, get_coco_names()[label], "f") for label in labels)
    if (
        detect_layout(file.state, str(file.path)) == "torchvision"
    ):  # `from_torchvision` refuses other numbers of classes
        return coco
    if file.class_names:
        return tuple(Category(number, name, "f") for number, name in enumerate(file.class_names, 1))
    endings = ("fc_cls.bias", "cls_score.bias", "cls_score_b")
    rows = [len(tensor) for key, tensor in file.state.items() if key.endswith(endings)]
    if rows and rows[0] - len(coco) in (0, 1, 2):
        return coco
    raise CheckpointError(
        f"{file.path} does not name its classes. Convert it with the annotation file that it was trained on: "
        f"tailseg convert {file.path} start.safetensors --recipe NAME --classes TRAIN.json. Then use --init-from "
        "start.safetensors"
    )


def _from_mmdet(file: WeightsFile, model: TwoStageDetector) -> Converted:
    """Converts mmdetection's weights; the loss of the file may be another one.

    The rows of the classes are copied. The rows of no class (background) are copied if both losses have equally many;
    otherwise they keep their initial values. Counts of the file's loss belong to its training.
    """
    ours = model.state_dict()
    classifiers = [name for name in ours if name.endswith((".classifier.weight", ".classifier.bias"))]
    state = {key: tensor for key, tensor in file.state.items() if ".loss_cls." not in key}
    for key in [key for key in state if ".fc_cls." in key]:
        part = key.rpartition(".")[2]
        initial = ours[next(name for name in classifiers if name.endswith(part))]
        state[key] = _fit_rows(state[key], initial, model.num_classes)
    state |= _keep_counts(ours, file.state)
    return from_mmdet(state, model, source=f"{file.path} (mmdetection)")


def _fit_rows(theirs: Tensor, initial: Tensor, num_classes: int) -> Tensor:
    fits = len(theirs) - num_classes in (0, 1, 2) and len(initial) - num_classes in (0, 1, 2)
    if len(theirs) == len(initial) or not fits or theirs.shape[1:] != initial.shape[1:]:
        return theirs  # `from_mmdet` refuses what does not fit
    rows = initial.clone()
    rows[:num_classes] = theirs[:num_classes]
    return rows


def _keep_counts(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Seesaw's counts, which mmdetection's files must have, as the model begins with them."""
    counts = [tensor for name, tensor in ours.items() if name.endswith("cum_samples")]
    heads = [key.removesuffix("fc_cls.bias") for key in theirs if key.endswith("fc_cls.bias")]
    return {f"{head}loss_cls.cum_samples": counts[0].float() for head in heads} if counts else {}
