"""`tailseg convert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tailseg.cli.common import UsageError, find_recipe, output, parse, require_run
from tailseg.cli.file_kinds import EXPORTED, RECIPE, WEIGHTS
from tailseg.cli.outputs import Kind, check
from tailseg.files import Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.interop.convert import ConversionReport


@dataclass(frozen=True)
class Convert:
    """Use a checkpoint of mmdetection, detectron2 or torchvision in tailseg, or a checkpoint of tailseg there.

    From mmdetection (also the published GOL, Seesaw, EQL and DropLoss models) and detectron2: --recipe names the
    network and the loss of the file, --classes the names and frequencies of its classes. The command checks every key
    and shape. OUT is a folder that `test` and `predict` accept as a run, or a .safetensors file.

    A file of detectron2 does not say how its images were made. --input-format, --pixel-std and --stride-in-1x1 do; the
    command finds them by the weights if you do not name them, and prints them.

    From torchvision (its COCO Mask R-CNN): the result is a starting point for training. Classes with the same name in
    both keep their rows of the predictors. All other classes get new rows. Train with --run.init-from.

    The command reads weights only. It refuses a file that would run code.

    examples:
      tailseg convert epoch_24.pth runs/gol --recipe my_recipes:gol_r50 --classes lvis_v1_train.json
      tailseg predict runs/gol photo.jpg
      tailseg test runs/gol --val lvis_v1_val.json --val-images val2017
      tailseg convert model_final.pkl runs/lvis --recipe softmax_mask_rcnn_r50_rfs_2x --classes lvis_v1_train.json
      tailseg convert coco.pth start.safetensors --recipe custom_r50 --classes my.json
      tailseg train custom_r50 --data.train my.json --run.init-from start.safetensors
      tailseg convert runs/mine mine.pth --to mmdet
      tailseg convert runs/mine model_final.pth --to detectron2
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A checkpoint (.pth, .pkl, .safetensors); with --to, a run's folder or a checkpoint of tailseg."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT"), Output("weights, or a run")]
    """A run's folder or a .safetensors file; with --to, a .pth or .safetensors file."""
    recipe: str | None = None
    """Network and loss of the file: the name of a recipe, or module:function of your own recipe."""
    classes: Path | None = None
    """Annotation file of the training set (COCO or LVIS format), for class names and frequencies; or a JSON file with
    num_images and categories of id, name, image_count, instance_count. Default: the training set of the recipe."""
    to: Literal["tailseg", "mmdet", "detectron2", "torchvision"] = "tailseg"
    """The layout to write."""
    input_format: Literal["BGR", "RGB"] | None = None
    """INPUT.FORMAT of detectron2's config, for a file of detectron2."""
    pixel_std: Annotated[tuple[float, float, float] | None, Range(gt=0)] = None
    """MODEL.PIXEL_STD of detectron2's config, in the order of --input-format."""
    stride_in_1x1: bool | None = None
    """MODEL.RESNETS.STRIDE_IN_1X1 of detectron2's config."""
    ema: bool = False
    """From mmdetection 2: take the copies of the weights (ema_...) that mmcv's EMAHook wrote."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    checkpoint: Literal["best", "last"] = "best"
    """With --to: which checkpoint of a run's folder."""


def run(arguments: Sequence[str]) -> None:
    """Converts the file, and prints what was written and what was left out."""
    options = parse(Convert, arguments, command="convert")
    check(options, files_of(options), instead="name another one", overwrite=options.overwrite)
    report = to_tailseg(options) if options.to == "tailseg" else to_other(options)
    for note in report.notes:
        output().print(f"note: {note}", markup=False)
    output().print(f"{report.tensors} tensors, every key accounted for: {report.path}", markup=False)
    if options.to == "tailseg" and report.detects:
        output().print(f"Next: tailseg predict {quote(str(options.out))} IMAGES...", markup=False, soft_wrap=True)
    elif options.to == "tailseg":
        output().print(
            f"Next: tailseg train {quote(str(options.recipe))} --run.init-from {quote(str(report.path))}", markup=False
        )


def files_of(options: Convert) -> dict[Path, Kind | None]:
    """Lists what the command writes: a file, or the files of a run.

    Raises:
        UsageError: the folder has checkpoints of a training.
    """
    out = options.out
    if options.to != "tailseg":
        return {out: EXPORTED}
    if out.suffix == ".safetensors":
        return {out: WEIGHTS}
    checkpoints = out / "checkpoints"
    if any(checkpoints.glob("step_*.pt")) or (checkpoints / "best.pt").exists():
        raise UsageError(f"{out} has a trained run already. Name another folder")
    return {out: None, out / "recipe.json": RECIPE, checkpoints / "converted.safetensors": WEIGHTS}


def to_tailseg(options: Convert) -> "ConversionReport":
    """Converts the file to the layout of tailseg."""
    if options.recipe is None:
        raise UsageError(
            "name the recipe with the network and the loss of the file: --recipe NAME or module:function. "
            "`tailseg recipes` lists the built-in recipes"
        )
    recipe = find_recipe(options.recipe)
    from tailseg.recipes.build import find_annotation_file

    if options.classes is None and not recipe.data.train:
        raise UsageError(
            f"{options.recipe} names no training set. Name its annotation file with --classes, for class names and "
            "frequencies"
        )
    classes = options.classes or find_annotation_file(recipe.data.train, 0)
    if not classes.is_file():
        raise UsageError(
            f"{classes} does not exist. Name the annotation file of the training set with --classes, for class names "
            "and frequencies"
        )
    if not options.source.exists():  # the user reads the error before torch is imported, which takes seconds
        raise ValueError(f"{options.source} does not exist. Expected a checkpoint (.pth, .pkl, .safetensors)")
    from tailseg.interop.convert import to_tailseg as convert
    from tailseg.interop.detectron2 import FileSettings

    settings = FileSettings(options.input_format, options.pixel_std, options.stride_in_1x1)
    return convert(options.source, options.out, recipe, classes, settings, ema=options.ema)


def to_other(options: Convert) -> "ConversionReport":
    """Converts a run to the layout of another project."""
    if options.recipe or options.classes:
        raise UsageError(
            f"--to {options.to} reads the recipe and the classes from the checkpoint. Leave these options out"
        )
    require_run(options.source)
    assert options.to != "tailseg"
    from tailseg.interop.convert import export_file

    return export_file(options.source, options.out, options.to, which=options.checkpoint)
