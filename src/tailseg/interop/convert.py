"""Converts weights files of other projects to tailseg's and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tailseg.annotations.dataset import Category
from tailseg.interop.classes import check_class_names, read_classes
from tailseg.interop.files import WeightsFile, read_weights_file, write_safetensors_file, write_torch_file
from tailseg.interop.mmdet import from_mmdet, to_mmdet
from tailseg.interop.rules import Converted, shorten
from tailseg.interop.torchvision import from_torchvision
from tailseg.models.detector import TwoStageDetector
from tailseg.recipes.build import build_model
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import save_recipe, to_saved
from tailseg.structures import ClassFrequency
from tailseg.training import run_files
from tailseg.training.checkpoint import WEIGHTS_SUFFIX, Checkpoint, CheckpointError, Progress, load, save_weights
from tailseg.training.device import seed_everything

Layout = Literal["mmdet", "torchvision"]


@dataclass(frozen=True)
class ConversionReport:
    """The result of a conversion.

    Attributes:
        path: the file that was written.
        tensors: the number of tensors in it.
        notes: sentences about weights that were left out, keep their initial values, or were copied in part.
        detects: whether the model detects as it is; otherwise it has to be trained first.
    """

    path: Path
    tensors: int
    notes: tuple[str, ...]
    detects: bool = True


def detect_layout(file: WeightsFile) -> Layout:
    """Detects from its names which project wrote the file.

    Raises:
        CheckpointError: tailseg does not read such a file.
    """
    keys = list(file.state)
    if any(key.startswith(("neck.", "rpn_head.", "roi_head.")) for key in keys):
        return "mmdet"
    if any(key.startswith(("backbone.body.", "roi_heads.")) for key in keys):
        return "torchvision"
    raise CheckpointError(
        f"{file.path} has names that tailseg does not read: expected mmdetection's (backbone, neck, rpn_head, "
        f"roi_head) or torchvision's (backbone.body, rpn, roi_heads), found {shorten(keys)}"
    )


def to_tailseg(source: Path, out: Path, recipe: Recipe, classes: Path) -> ConversionReport:
    """Converts a weights file of mmdetection or torchvision to tailseg's.

    Args:
        source: the file, ``.pth`` or ``.safetensors``.
        out: a ``.safetensors`` file, or a folder that becomes a run's folder (``recipe.json``,
            ``checkpoints/converted.safetensors``).
        recipe: describes the network and the loss: those that the file was trained with, or for a file of torchvision
            those that will be trained.
        classes: annotation file of the training set, or a list of its classes, see `read_classes`.

    Returns:
        What was written.

    Raises:
        CheckpointError: the file is damaged, or does not fit the recipe or the classes; or ``out`` holds a run.
    """
    target = _target(out)
    _check_apart(source, target)
    file = read_weights_file(source)
    layout = detect_layout(file)
    categories, frequency = read_classes(classes)
    notes = check_class_names(file.class_names, categories, str(source)) if file.class_names else []
    model = build_initial_model(recipe, frequency)
    if layout == "mmdet":
        converted = from_mmdet(file.state, model, source=str(source))
        notes += _notes(converted)
    else:
        converted, more = _from_torchvision(file, model, categories)
        notes += more
    content = Checkpoint(to_saved(recipe), categories, frequency, converted.state, {}, Progress())
    save_weights(content, target)
    if target != out:
        save_recipe(recipe, out / "recipe.json")
    return ConversionReport(target, len(converted.state), tuple(notes), detects=layout == "mmdet")


def to_mmdet_file(source: Path, out: Path, *, which: Literal["best", "last"] = "best") -> ConversionReport:
    """Writes a model of tailseg in mmdetection's names.

    Args:
        source: a run's folder or a checkpoint file.
        out: a ``.pth`` file, with the class names as mmdetection stores them, or a ``.safetensors`` file.
        which: the best or the last checkpoint of a run's folder.

    Returns:
        What was written.

    Raises:
        CheckpointError: the source cannot be read, or ``out`` has another suffix.
    """
    if out.suffix not in (".pth", WEIGHTS_SUFFIX):
        raise CheckpointError(f"mmdetection's layout is written to a .pth or {WEIGHTS_SUFFIX} file, got {out}")
    _check_apart(source, out)
    saved = load(source if source.is_file() else run_files.choose(source, which))
    converted = to_mmdet(saved.model)
    if out.suffix == ".pth":
        write_torch_file(out, converted.state, [category.name for category in saved.categories])
    else:
        write_safetensors_file(out, converted.state)
    return ConversionReport(out, len(converted.state), tuple(_notes(converted)))


def _check_apart(source: Path, target: Path) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise CheckpointError(f"{target} would be written over the file that it is made from: name another file")


def _target(out: Path) -> Path:
    if out.suffix == WEIGHTS_SUFFIX:
        return out
    if out.suffix in (".pth", ".pt"):
        raise CheckpointError(f"tailseg's weights are written to a {WEIGHTS_SUFFIX} file or into a folder, got {out}")
    if out.is_file():
        raise CheckpointError(f"{out} is a file: expected a folder, or a name that ends in {WEIGHTS_SUFFIX}")
    if run_files.get_latest(out) or run_files.get_best(out):
        raise CheckpointError(f"{out} holds a trained run already: name another folder")
    return run_files.weights_path(out)


def build_initial_model(recipe: Recipe, frequency: ClassFrequency) -> TwoStageDetector:
    """Builds the model with its initial weights, for weights that the file does not have. The recipe's seed decides."""
    seed_everything(recipe.run.seed)
    model = build_model(recipe, frequency, load_weights=False)
    if not isinstance(model, TwoStageDetector):
        raise CheckpointError(
            f"only the built-in detectors can be converted, recipe {recipe.name} has {type(model).__name__}"
        )
    return model


def _from_torchvision(
    file: WeightsFile, model: TwoStageDetector, categories: tuple[Category, ...]
) -> tuple[Converted, list[str]]:
    names = [category.name for category in categories]
    converted, known_classes = from_torchvision(file.state, model, names, source=str(file.path))
    examples = f" ({shorten(known_classes)})" if known_classes else ""
    known = (
        f"{len(known_classes)} of {len(names)} classes have the same name in the file and take its rows{examples}; the "
        "others have initial weights"
    )
    start = (
        "initial weights only, because torchvision's pooling and anchors differ by parts of a pixel: train with "
        "--run.init-from"
    )
    return converted, [known, start, *_notes(converted)]


def _notes(converted: Converted) -> list[str]:
    notes = []
    if converted.left_out:
        notes.append(f"left out, because the other model has no place for it: {shorten(converted.left_out)}")
    if converted.missing:
        notes.append(f"not in the file, initial weights stay: {shorten(converted.missing)}")
    return notes
