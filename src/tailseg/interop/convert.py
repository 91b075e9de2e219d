"""Converts weights files of other projects to tailseg's and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from tailseg.annotations.dataset import Category
from tailseg.interop.classes import check_class_names, read_classes
from tailseg.interop.detectron2 import FileSettings, find_settings, from_detectron2, is_caffe2, to_detectron2
from tailseg.interop.files import (
    WeightsFile,
    read_weights_file,
    write_model_file,
    write_safetensors_file,
    write_torch_file,
)
from tailseg.interop.layouts import Layout, detect_layout
from tailseg.interop.mmdet_weights import find_ema_names, from_mmdet, to_mmdet
from tailseg.interop.rules import Converted, shorten
from tailseg.interop.torchvision_weights import CLASSIFIER, from_torchvision, list_file_names, to_torchvision
from tailseg.models.config import ModelConfig, ResNetConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.recipes.build import build_model
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import save_recipe, to_saved
from tailseg.structures import ClassFrequency
from tailseg.training import run_files
from tailseg.training.checkpoint import WEIGHTS_SUFFIX, Checkpoint, CheckpointError, Progress, load, save_weights
from tailseg.training.device import seed_everything
from tailseg.words import count_noun


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


def to_tailseg(
    source: Path,
    out: Path,
    recipe: Recipe,
    classes: Path,
    settings: FileSettings = FileSettings(),  # noqa: B008 (frozen)
    *,
    ema: bool = False,
) -> ConversionReport:
    """Converts a weights file of mmdetection, detectron2 or torchvision to tailseg's.

    Args:
        source: the file, ``.pth``, ``.pkl`` or ``.safetensors``.
        out: a ``.safetensors`` file, or a folder that becomes a run's folder (``recipe.json``,
            ``checkpoints/converted.safetensors``).
        recipe: describes the network and the loss: those that the file was trained with, or for a file of torchvision
            those that will be trained.
        classes: annotation file of the training set, or a list of its classes, see `read_classes`.
        settings: settings of detectron2's config that a file of detectron2 depends on, if they are known.
        ema: take the second weights that mmcv 1's EMAHook writes, see `find_ema_names`.

    Returns:
        What was written.

    Raises:
        CheckpointError: the file is damaged, or does not fit the recipe or the classes; it has no second weights, with
            ``ema``; or ``out`` holds a run.
    """
    target = _target(out)
    _check_apart(source, target)
    file = read_weights_file(source)
    layout = detect_layout(file.state, str(source))
    categories, frequency = read_classes(classes)
    notes = check_class_names(file.class_names, categories, str(source)) if file.class_names else []
    detects = True
    state, more = choose_weights(file.state, ema=ema, source=str(source))
    notes += more
    if layout == "detectron2":
        settings = find_settings(file.state, recipe.model, settings, source=str(source))
        recipe = with_strides(recipe, settings)
        notes.append(describe_settings(settings))
    model = build_initial_model(recipe, frequency)
    if layout == "mmdet":
        converted = from_mmdet(state, model, source=f"{source} (mmdetection)")
        notes += _notes(converted)
    elif layout == "detectron2":
        converted = from_detectron2(file.state, model, settings, source=f"{source} (detectron2)")
        detects = not is_caffe2(file.state)
        notes += [*([] if detects else [START]), *_notes(converted)]
    else:
        converted, more = _from_torchvision(file, model, categories)
        detects, notes = False, notes + more
    content = Checkpoint(to_saved(recipe), categories, frequency, converted.state, {}, Progress())
    save_weights(content, target)
    if target != out:
        save_recipe(recipe, out / "recipe.json")
    return ConversionReport(target, len(converted.state), tuple(notes), detects=detects)


COCO_LABELS = 91
"""Labels of torchvision's COCO models, background included."""
START = (
    "initial weights only, because the pooling and the anchors of the file's project differ by parts of a pixel: train "
    "with --run.init-from"
)
"""The note for files of torchvision and of the first Detectron."""


def choose_weights(state: Mapping[str, Tensor], *, ema: bool, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Chooses between the two weights of a file that mmcv 1's EMAHook wrote, see `find_ema_names`.

    Args:
        state: the file's tensors.
        ema: take the copies (``ema_...``), not the weights under the network's names.
        source: what the error calls the file.

    Returns:
        The tensors without the others, and a note if the file has two.

    Raises:
        CheckpointError: there are no copies, with ``ema``.
    """
    copies = find_ema_names(state)
    if not copies:
        if ema:
            raise CheckpointError(f"{source} has no weights of mmcv 1's EMAHook (ema_...): leave out --ema")
        return dict(state), []
    others = set(copies.values())
    chosen = {name: state[copies.get(name, name) if ema else name] for name in state if name not in others}
    choice = "the copies are taken" if ema else "the copies are left out, as mmdetection does (--ema takes them)"
    note = (
        f"{count_noun(len(copies), 'tensor')} with a second copy named ema_..., from mmcv's EMAHook: {choice}. The "
        "file does not say which of the two is the average: the copy if the hook had its own priority, the other if it "
        "had ABOVE_NORMAL"
    )
    return chosen, [note]


def with_strides(recipe: Recipe, settings: FileSettings) -> Recipe:
    """Gives the backbone of a recipe the stride where a file of detectron2 has it."""
    model = recipe.model
    assert isinstance(model, ModelConfig)
    assert isinstance(model.backbone, ResNetConfig)
    backbone = replace(model.backbone, stride_in_1x1=bool(settings.stride_in_1x1))
    return replace(recipe, model=replace(model, backbone=backbone))


def describe_settings(settings: FileSettings) -> str:
    """Says with which settings of detectron2 a file was converted."""
    return (
        f"converted for {settings.describe()}. If the config of the file has others, give them to `tailseg convert` "
        "(--input-format, --pixel-std, --stride-in-1x1)"
    )


def to_mmdet_file(source: Path, out: Path, *, which: Literal["best", "last"] = "best") -> ConversionReport:
    """Writes a model of tailseg in mmdetection's names.

    Args:
        source: a run's folder or a checkpoint file.
        out: a ``.pth`` file, with the class names as mmdetection stores them, or a ``.safetensors`` file.
        which: the best or the last checkpoint of a run's folder.

    Returns:
        What was written.

    Raises:
        CheckpointError: see `export_file`.
    """
    return export_file(source, out, "mmdet", which=which)


def export_file(
    source: Path, out: Path, layout: Layout, *, which: Literal["best", "last"] = "best"
) -> ConversionReport:
    """Writes a model of tailseg in the names of another project.

    Args:
        source: a run's folder or a checkpoint file.
        out: a ``.pth`` or ``.safetensors`` file. For mmdetection, a ``.pth`` has the class names.
        layout: the project.
        which: the best or the last checkpoint of a run's folder.

    Returns:
        What was written.

    Raises:
        CheckpointError: the source cannot be read, ``out`` has another suffix, or the project has no such network.
    """
    if out.suffix not in (".pth", WEIGHTS_SUFFIX):
        raise CheckpointError(f"weights for {layout} are written to a .pth or {WEIGHTS_SUFFIX} file, got {out}")
    _check_apart(source, out)
    saved = load(source if source.is_file() else run_files.choose(source, which))
    names = [category.name for category in saved.categories]
    converted, more = (to_mmdet(saved.model), []) if layout == "mmdet" else _export(saved, layout)
    if out.suffix == WEIGHTS_SUFFIX:
        write_safetensors_file(out, converted.state)
    elif layout == "mmdet":
        write_torch_file(out, converted.state, names)
    else:
        write_model_file(out, converted.state)
    return ConversionReport(out, len(converted.state), (*_notes(converted), *more))


def _export(saved: Checkpoint, layout: Layout) -> tuple[Converted, list[str]]:
    """Converts to detectron2's or torchvision's names, and says what the other project must be set to."""
    model, classes = saved.recipe["resolved"]["model"], len(saved.categories)
    stages = [model["box"], *((model.get("cascade") or {}).get("later_stages") or ())]
    stride_in_1x1 = model["backbone"].get("stride_in_1x1", False)
    if model["backbone"].get("activation", "relu") != "relu" or model["backbone"].get("se"):
        raise CheckpointError(
            f"{layout}'s ResNet has ReLU and no squeeze and excitation, and the model has another one. The layout of "
            "mmdetection has names for AGLU and SE: --to mmdet"
        )
    scores = "The scores are right only for a loss with softmax"
    if layout == "detectron2":
        note = (
            f"in detectron2, set ROI_HEADS.NUM_CLASSES {classes} and RESNETS.STRIDE_IN_1X1 {stride_in_1x1}. "
            f"{scores}, or with the sigmoid and USE_SIGMOID_CE True"
        )
        return to_detectron2(saved.model, classes, [stage["target_stds"] for stage in stages]), [note]
    if stride_in_1x1:
        raise CheckpointError("torchvision's ResNet has its strides in the 3x3 convolutions, and the model in the 1x1")
    note = (
        f"build torchvision's model with num_classes={classes + 1}. {scores}, and detections differ a little, because "
        "torchvision's pooling and anchors differ by parts of a pixel"
    )
    return to_torchvision(saved.model, classes, stages[0]["target_stds"]), [note]


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
    labels = len(file.state.get(f"{CLASSIFIER}.bias", ()))
    converted, known_classes = from_torchvision(
        file.state,
        model,
        names,
        file_names=None if labels == COCO_LABELS else list_file_names(labels, categories),
        source=f"{file.path} (torchvision)",
    )
    examples = f" ({shorten(known_classes)})" if known_classes else ""
    known = (
        f"{len(known_classes)} of {len(names)} classes have the same name in the file and take its rows{examples}; the "
        "others have initial weights"
    )
    return converted, [known, START, *_notes(converted)]


def _notes(converted: Converted) -> list[str]:
    notes = []
    if converted.left_out:
        notes.append(f"left out, because the other model has no place for it: {shorten(converted.left_out)}")
    if converted.missing:
        notes.append(f"not in the file, initial weights stay: {shorten(converted.missing)}")
    return notes
