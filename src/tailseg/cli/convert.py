"""`tailseg convert`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from tailseg.cli.common import UsageError, find_recipe, output, parse, require_run
from tailseg.cli.file_kinds import MMDET, RECIPE, WEIGHTS
from tailseg.cli.outputs import Kind, check
from tailseg.files import Output

if TYPE_CHECKING:
    from tailseg.interop.convert import ConversionReport


@dataclass(frozen=True)
class Convert:
    """Use a checkpoint of mmdetection or torchvision in tailseg, or a checkpoint of tailseg in mmdetection.

    From mmdetection (also the published GOL, Seesaw, EQL and DropLoss models): --recipe names the network and the loss
    of the file, --classes the names and frequencies of its classes. The command checks every key and shape. OUT is a
    folder that `test` and `predict` accept as a run, or a .safetensors file.

    From torchvision (its COCO Mask R-CNN): the result is a starting point for training. Classes with the same name in
    both keep their rows of the predictors. All other classes get new rows. Train with --run.init-from.

    The command reads weights only. It refuses a file that would run code.

    examples:
      tailseg convert epoch_24.pth runs/gol --recipe my_recipes:gol_r50 --classes lvis_v1_train.json
      tailseg predict runs/gol photo.jpg
      tailseg test runs/gol --val lvis_v1_val.json --val-images val2017
      tailseg convert coco.pth start.safetensors --recipe custom_r50 --classes my.json
      tailseg train custom_r50 --data.train my.json --run.init-from start.safetensors
      tailseg convert runs/mine mine.pth --to mmdet
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A checkpoint (.pth, .safetensors); with --to mmdet, a run's folder or a checkpoint of tailseg."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT"), Output("weights, or a run")]
    """A run's folder or a .safetensors file; with --to mmdet, a .pth or .safetensors file."""
    recipe: str | None = None
    """Network and loss of the file: the name of a recipe, or module:function of your own recipe."""
    classes: Path | None = None
    """Annotation file of the training set (COCO or LVIS format), for class names and frequencies; or a JSON file with
    num_images and categories of id, name, image_count, instance_count. Default: the training set of the recipe."""
    to: Literal["tailseg", "mmdet"] = "tailseg"
    """The layout to write."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""
    checkpoint: Literal["best", "last"] = "best"
    """With --to mmdet: which checkpoint of a run's folder."""


def run(arguments: Sequence[str]) -> None:
    """Converts the file, and prints what was written and what was left out."""
    options = parse(Convert, arguments, command="convert")
    check(options, files_of(options), instead="name another one", overwrite=options.overwrite)
    report = to_mmdet(options) if options.to == "mmdet" else to_tailseg(options)
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
    if options.to == "mmdet":
        return {out: MMDET}
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
        raise ValueError(f"{options.source} does not exist. Expected a checkpoint (.pth, .safetensors)")
    from tailseg.interop.convert import to_tailseg as convert

    return convert(options.source, options.out, recipe, classes)


def to_mmdet(options: Convert) -> "ConversionReport":
    """Converts the file to the layout of mmdetection."""
    if options.recipe or options.classes:
        raise UsageError("--to mmdet reads the recipe and the classes from the checkpoint. Leave these options out")
    require_run(options.source)
    from tailseg.interop.convert import to_mmdet_file

    return to_mmdet_file(options.source, options.out, which=options.checkpoint)
