"""`tailseg demo`."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.markup import escape
from rich.progress import track

from tailseg.cli.common import find_recipe, output, parse
from tailseg.cli.file_kinds import PICTURE
from tailseg.cli.outputs import check
from tailseg.cli.train import files_of
from tailseg.files import DETECTIONS, Output, write_picture
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.inference import Predictor
    from tailseg.recipes.recipe import Recipe

SHEET_PAIRS = 6
PANELS = ("ground truth", "detections")


@dataclass(frozen=True)
class Demo:
    """Watch a small Mask R-CNN learn a long-tailed data set with the Gumbel loss. Nothing is downloaded.

    The command draws the embedded data set tiny_tail (preset demo: 40 classes with a few to some hundreds of images
    each). It trains the recipe demo_gumbel, evaluates it, draws predictions next to the ground truth, and opens a
    report of every class in a browser. The backbone was trained before on other shapes and surfaces. The demo takes
    about 5 minutes on two CPU cores. After an interruption, use the same command again: it continues.

    examples:
      tailseg demo
      tailseg demo --quick      one minute, to check that everything works; the network learns almost nothing
    """

    out: Annotated[Path | None, Output("a run, demo.png, predictions/*.jpg")] = None
    """Folder of the run. The default is runs/demo, or runs/demo_quick with --quick."""
    quick: bool = False
    """Use a very small data set and a few steps."""
    pictures: Annotated[int, Range(ge=1)] = 24
    """Number of validation images to draw predictions for."""
    score_threshold: Annotated[float, Range(ge=0, le=1)] = 0.3
    """Do not draw detections with a lower score."""


def run(arguments: Sequence[str]) -> None:
    """Draws the data set, trains, evaluates, and draws pictures."""
    options = parse(Demo, arguments, command="demo")
    recipe = demo_recipe(options)
    targets = {**files_of(recipe, report=True), Path(recipe.run.out) / "demo.png": PICTURE}
    check(options, targets, instead="name another folder (--out)")
    folder, console, began = Path(recipe.run.out), output(), time.monotonic()
    from tailseg.cli.report import show, write_run_report
    from tailseg.data.tiny_tail import prepare
    from tailseg.inference import Predictor
    from tailseg.recipes.build import build_data
    from tailseg.training.loop import train

    console.print(f"[bold]1/4[/] drawing the data set {escape(recipe.data.train)}")
    prepare(recipe.data.train, progress=True)
    console.print("[bold]2/4[/] training a small Mask R-CNN with the Gumbel loss")
    command = shlex.join(["tailseg", "demo", *arguments])
    try:
        metrics = train(recipe, resume=True, resume_command=command)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or f"interrupted without saving. Continue with `{command}`") from None
    console.print("[bold]3/4[/] evaluation on unseen images (r, c, f: rare, common, frequent classes)")
    console.print(metrics.table())
    console.print("[bold]4/4[/] drawing its predictions")
    _, val = build_data(recipe)
    sheet = draw_pairs(Predictor.from_run(folder, checkpoint="last"), val, folder, options)
    report = write_run_report(folder, recipe)
    console.print(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Look at\n"
        + (f"  {report}   the report: every class, with pictures, in a browser\n" if report else "")
        + f"  {sheet}   ground truth on the left, predictions on the right\n"
        f"  {folder / 'predictions'}   {min(options.pictures, val.num_images)} such pictures\n"
        f"  tensorboard --logdir {shlex.quote(str(folder))}   training curves\n"
        "Then try\n"
        f"  tailseg data show {recipe.data.train}   the data set of the demo\n"
        "  tailseg train my.json   your own COCO- or LVIS-format file\n"
        "  tailseg train tiny_softmax   another loss on the full data set\n"
        "  tailseg recipes   all recipes",
        markup=False,
        soft_wrap=True,
    )
    if report:
        show(report)


def demo_recipe(options: Demo) -> "Recipe":
    """Returns the recipe demo_gumbel, or a version of it that takes seconds."""
    recipe = find_recipe("demo_gumbel")
    if options.quick:
        recipe = replace(
            recipe,
            data=replace(recipe.data, train="tiny_tail:test", val="tiny_tail:test", batch_size=4, workers=0),
            optim=replace(recipe.optim, epochs=2, milestones=(1,), warmup_iterations=4),
        )
    out = options.out or Path("runs") / ("demo_quick" if options.quick else "demo")
    return replace(recipe, run=replace(recipe.run, out=str(out)))


def draw_pairs(predictor: "Predictor", val: "Annotations", folder: Path, options: Demo) -> Path:
    """Draws predictions next to the ground truth.

    Args:
        predictor: the trained model.
        val: the validation set.
        folder: the folder of the run.
        options: how many images to draw, and which detections.

    Returns:
        The file of one sheet with some of the pictures; each picture has its own file, too.
    """
    from PIL import Image

    from tailseg.drawing import contact_sheet, draw, read_ground_truth

    names, groups = predictor.names, predictor.groups
    panels: list[Image.Image] = []
    for index in track(range(min(options.pictures, val.num_images)), "drawing", transient=True, console=output()):
        file = val.get_info(index).file
        tensor = predictor.read(file)
        image = Image.fromarray(tensor.permute(1, 2, 0).numpy())
        truth = draw(image, read_ground_truth(val, index), names, groups, show_scores=False)
        predicted = draw(image, predictor.detect(tensor).above(options.score_threshold), names, groups)
        pair = contact_sheet([truth, predicted], PANELS, columns=2, cell=truth.size)
        write_picture(folder / "predictions" / f"{Path(file).stem}.jpg", pair, DETECTIONS)
        panels += [truth, predicted]
    shown = panels[: 2 * SHEET_PAIRS]
    sheet = folder / "demo.png"
    write_picture(sheet, contact_sheet(shown, PANELS * (len(shown) // 2), columns=4, cell=(360, 360)), DETECTIONS)
    return sheet
