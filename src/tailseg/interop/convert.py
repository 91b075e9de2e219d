"""From another project's file to weights that tailseg tests, draws with and trains on, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tailseg.annotations.dataset import Category
from tailseg.interop.classes import check_class_names, read_classes
from tailseg.interop.files import WeightsFile, read_weights_file, write_safetensors_file, write_torch_file
from tailseg.interop.mmdet import from_mmdet, to_mmdet
from tailseg.interop.rules import Converted, few
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
class Report:
    """What was written.

    Attributes:
        path: the file.
        tensors: how many it holds.
        notes: what was left out, left at its start, or copied in part; a sentence each.
        detects: whether the model is ready to, or has to be trained first.
    """

    path: Path
    tensors: int
    notes: tuple[str, ...]
    detects: bool = True


def layout_of(file: WeightsFile) -> Layout:
    """Which project's names the file has.

    Raises:
        CheckpointError: none that tailseg reads.
    """
    keys = list(file.state)
    if any(key.startswith(("neck.", "rpn_head.", "roi_head.")) for key in keys):
        return "mmdet"
    if any(key.startswith(("backbone.body.", "roi_heads.")) for key in keys):
        return "torchvision"
    raise CheckpointError(
        f"{file.path} has the names of no layout that tailseg reads: expected mmdetection's (backbone, neck, rpn_head, "
        f"roi_head) or torchvision's (backbone.body, rpn, roi_heads), found {few(keys)}"
    )


def to_tailseg(source: Path, out: Path, recipe: Recipe, classes: Path) -> Report:
    """Converts a file of mmdetection or torchvision.

    Args:
        source: the file, ``.pth`` or ``.safetensors``.
        out: a ``.safetensors`` file, or a folder, which becomes a run's (``recipe.json``,
            ``checkpoints/converted.safetensors``).
        recipe: of the network and the loss that the file was trained with; for torchvision's, that will be trained.
        classes: annotation file of the training set, or a list of its classes, see `read_classes`.

    Raises:
        CheckpointError: the file is damaged, or does not fit the recipe or the classes; or ``out`` holds a run.
    """
    target = _target(out)
    _check_apart(source, target)
    file = read_weights_file(source)
    layout = layout_of(file)
    categories, frequency = read_classes(classes)
    notes = check_class_names(file.class_names, categories, str(source)) if file.class_names else []
    model = _initial_model(recipe, frequency)
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
    return Report(target, len(converted.state), tuple(notes), detects=layout == "mmdet")


def to_other(source: Path, out: Path, *, which: Literal["best", "last"] = "best") -> Report:
    """Writes a run's model, or one checkpoint of it, in mmdetection's names.

    Args:
        source: a run's folder or a checkpoint file.
        out: a ``.pth`` file, with the class names as mmdetection stores them, or ``.safetensors``.
        which: of a run's folder, the checkpoint.

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
    return Report(out, len(converted.state), tuple(_notes(converted)))


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
    if run_files.latest(out) or run_files.best(out):
        raise CheckpointError(f"{out} holds a trained run already: name another folder")
    return run_files.weights_path(out)


def _initial_model(recipe: Recipe, frequency: ClassFrequency) -> TwoStageDetector:
    """The model before its first step, for what the file does not hold; the recipe's seed decides."""
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
    converted, found = from_torchvision(file.state, model, names, source=str(file.path))
    examples = f" ({few(found)})" if found else ""
    known = f"{len(found)} of {len(names)} classes were known by name and took their rows{examples}, others start new"
    start = "a starting point: torchvision pools and anchors otherwise by parts of a pixel; train with --run.init-from"
    return converted, [known, start, *_notes(converted)]


def _notes(converted: Converted) -> list[str]:
    notes = []
    if converted.left_out:
        notes.append(f"left out, of no use there: {few(converted.left_out)}")
    if converted.kept:
        notes.append(f"not in the file, left at the start: {few(converted.kept)}")
    return notes
