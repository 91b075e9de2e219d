"""Writes docs/recipes.md from the recipes.

uv run python tools/write_recipes.py
"""

import inspect
from collections.abc import Sequence
from pathlib import Path

from tailseg.recipes import GROUPS, RECIPES, Recipe, describe
from tailseg.recipes.activations import ACTIVATIONS
from tailseg.recipes.gol import GOL
from tailseg.recipes.published import PUBLISHED

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
EXAMPLE = "gol_mask_rcnn_r50_rfs_2x"

TEMPLATE = """\
# Recipes

A recipe is a Python function that returns every setting of a run. `tailseg recipes` lists them; this page, made from
them by `tools/write_recipes.py`, says where the {count} published configurations stand, and what is repaired in them.
**Nobody has trained them here yet**: the figures below are the published ones. What was trained here is in
[what was measured](benchmarks.md).

## Run one

Put LVIS's annotation files and the images of COCO 2017 into one folder and say where it is:

```bash
export TAILSEG_DATA=/data  # lvis_v1_train.json, lvis_v1_val.json, train2017/, val2017/
```

(In detectron2's layout `DETECTRON2_DATASETS` does: `lvis/lvis_v1_train.json`, `coco/train2017/`. The files may also be
named: `--data.train FILE --data.train-images FOLDER`.)

Then, for `{example}` as for any other published name:

| Devices | Command | Images a device at a time |
|---|---|---|
{commands}

`tailseg test runs/NAME` evaluates, `tailseg train NAME --help` lists the settings, `--resume` goes on. For several
machines, SLURM, and what several processes have in common with one see [reliability](reliability.md).

- **Every step has 16 images**, as published (4 devices with 4 each), however many devices share them. Another
  `--data.batch-size` moves the learning rate in proportion, and the first line of the run's log says what it came to:
  `4 images a step, lr 0.005 (0.02 for 16 images)`. Warm-up and steps stay as they are.
- `--optim.accumulation-steps N` takes a step's images in N parts, one after the other: the memory of 16 / N images. The
  gradient is the mean of the parts' gradients, and that is the whole batch's where every part has as many anchors, RoIs
  and masks to average over: so it is for anchors (256 an image) and RoIs (512) unless they are short, and about so for
  masks. BAGS, DropLoss, the federated loss, Seesaw and EQLv2 count or draw within a part, and differ: the table in
  [reliability](reliability.md#what-is-the-same-and-what-is-not) says how, loss by loss. Processes do not: they count
  and draw as one.
- **Every number has a range**, which `--help` prints beside its default. A setting outside its range is refused by its
  name before anything is written, whether it comes from the command line, from Python or from a saved recipe. What is
  in its range and still never happens (a warm-up or `optim.milestones` beyond the last step) is said before the first
  step.
- Losses count the optimizer's steps, whatever they are made of (`loss.reweight_after` of LDAM).

## The published configurations

{figures_note}

Names are ours: loss, detector, backbone, `lvis05` for LVIS v0.5 (else v1), `normmask` for a normalized mask predictor
or `normboth` for that and a normalized classifier, sampling (`random`, or `rfs`: repeat factor sampling), schedule (1x
is 12 epochs). `gol` is DropLoss over Gumbel with a normalized mask predictor.

The files are those of the authors' public code: `instance_segmentation/configs` of
[AGLU](https://github.com/kostas1515/AGLU) (commit a64c8b2), where both folders stand complete. The page of
[GOL](https://github.com/kostas1515/GOL) calls the folder gol droploss. A fiftieth file has no recipe:
`activations/gumbel_htc_r101_4x4_1x.py` is the softmax HTC once more, under a name that says Gumbel.

{published}

## What they share

- **Training**: SGD, rate 0.02, momentum 0.9, weight decay 1e-4, no clipping; warm-up of 500 steps from a thousandth;
  rate divided by ten after epochs 8 and 11 (1x) or 16 and 22 (2x). ImageNet weights; stem and first stage frozen, batch
  norm's statistics fixed. Short side 640 to 800, long side at most 1333, flips.
- **Swin-T**: AdamW, rate 1e-4, weight decay 0.05 but for norms and tables of positions, warm-up of 1,000 steps, short
  side 480 to 800, half of the images cropped first (384 to 600 pixels); 3x is 36 epochs, rate divided after 27 and 33.
  Published in float16: `--run.precision float16`; here float32.
- **Cascade, HTC**: three stages, weights 1, 0.5, 0.25, IoU 0.5, 0.6, 0.7; class-agnostic boxes with smooth L1; 2,000
  proposals. In HTC every object keeps its best RoI, also one that overlaps another object more; in Cascade it does not.
  In testing the stages' logits are averaged and then activated, and the masks' probabilities are averaged. (mmdetection
  3 takes HTC's last mask alone: `--model.cascade.test-masks last`.)
- **Testing**: scores above 1e-4, the best 300 of an image; NMS at IoU 0.5, and 0.3 for the folder gol over Gumbel.
- **The tail** of DropLoss and EQL: classes in less than 0.0011 of the training images (LVIS v1) or 0.00177 (v0.5).

## What is repaired

The published code has faults that move its figures. Here each recipe runs as it was meant; the last column says how to
have it as published, where that makes sense.

| | As published | Here | As published, or otherwise |
|---|---|---|---|
{defects}

## The others

{others}
"""

FIGURES_NOTE = """\
AP of masks over all classes and over rare, common and frequent ones, APb of boxes, on the validation set, in percent;
≈: read off a plot, to within 0.1; empty: none was published. The sigmoid's figures were tested with a softmax.
Normalized predictors ("norm.") divide features and weights by their norms."""

DEFECTS = (
    ("The sigmoid baseline, background among its logits, is tested with a softmax", "Tested with the sigmoid", ""),
    (
        "The gradient of a label's logit q dies below -3.3: cross entropy on probabilities underflows",
        "-log p = exp(-q), its gradient bounded only below q = -11",
        "`--loss.published 2022`",
    ),
    ("No gradient for negatives above q = 10", "Exact: 1", "`--loss.published 2022`"),
    (
        "The Gumbel loss is clamped at 20, the class-relative one at 25: past it every gradient is zero",
        "Not clamped; a loss that is not finite stops the run. `--optim.clip-norm 35` if steps are too large",
        "`--loss.published 2022`",
    ),
    ("`class_weight` is accepted and never used", "There is no such setting", ""),
    (
        "Gumbel scores underflow to 0 and tie (below q = -2.41 in float16, about -4.5 in float32)",
        "Scores are always float32, and the threshold of 1e-4 cuts at q = -2.22",
        "",
    ),
    ("The loss is refused under autocast", "Computed in float32 under any precision", ""),
    (
        "DropLoss divides by zero where a step has no object; by luck nothing is dropped then",
        "Nothing is dropped, on purpose",
        "",
    ),
    ("The table of frequencies stays on the CPU", "A buffer: it moves with the model", ""),
    ("The temperature's parameter is called `tempearture`", "`temperature`", ""),
    (
        "A normalized classifier forgets its bias: its first loss is about 552 a region",
        "It starts with the loss's bias",
        "`--loss.init-bias 0`",
    ),
    ("The class-relative loss is not registered: its configuration does not start", "It runs", ""),
    (
        "HTC's files lack their base and one of Cascade's names a wrong one; `cascade_r50` is an R101",
        "They run, under names that say what they are",
        "",
    ),
    (
        "HTC's first mask head has a convolution that nothing uses: distributed training stops",
        "Left out; `tailseg convert` knows it",
        "",
    ),
    (
        "EQL over the sigmoid uses options that are gone, and starts with bias 0: its first loss is about 834 a region",
        "It runs, with bias -6.9",
        "`--loss.init-bias 0`",
    ),
    ("The tail (0.0011) takes in 17 frequent classes", "As published", "`--loss.tail rc`: rare and common classes"),
    (
        "NMS at 0.3 for Gumbel, at 0.5 for what it is compared with",
        "As published",
        "`--model.postprocess.nms-iou 0.5` for both, and report both",
    ),
    (
        "Mask targets from polygons in one folder, from bitmaps in the other",
        "One way, from the file's polygons or run lengths",
        "",
    ),
    ("Repeat factors are rounded up", "As published", "`--data.repeat-rounding stochastic`"),
)
"""The published choice, the choice here, and the setting that changes it."""

DEVICES = {
    1: (f"tailseg train {EXAMPLE} --optim.accumulation-steps 4", 4),
    4: (f"tailseg train {EXAMPLE} --devices 4", 4),
    8: (f"tailseg train {EXAMPLE} --devices 8", 2),
}
"""The command and the images per device, by the number of devices."""


def page() -> str:
    """Writes the text of the page."""
    return TEMPLATE.format(
        count=len(PUBLISHED),
        example=EXAMPLE,
        commands="\n".join(f"| {n} | `{command}` | {images} |" for n, (command, images) in DEVICES.items()),
        figures_note=FIGURES_NOTE,
        published="\n\n".join(
            f"### Folder {folder}\n\n{tables([make() for make in group])}"
            for folder, group in (("activations", ACTIVATIONS), ("gol", GOL))
        ),
        defects="\n".join(f"| {i} | {' | '.join(row)} |" for i, row in enumerate(DEFECTS, 1)),
        others=others(),
    )


def tables(recipes: Sequence[Recipe]) -> str:
    """Writes a table for each detector on a data set."""
    return "\n\n".join(
        f"**{heading}**\n\n{published_table(members)}" for heading, members in describe.grouped(recipes).items()
    )


def published_table(recipes: Sequence[Recipe]) -> str:
    """Writes one line per recipe: its description, file and figures."""
    lines = [
        "| Recipe | Published file | Loss | Norm. | Sampling | Epochs | AP | APr | APc | APf | APb |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for recipe in recipes:
        cells = (
            f"`{recipe.name}`",
            f"`{PUBLISHED[recipe.name].file}`",
            describe.loss(recipe.loss),
            describe.normalized(recipe.model),
            describe.sampling(recipe.data),
            str(recipe.optim.epochs),
            *describe.average_precision(recipe),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def others() -> str:
    """Lists the recipes that were not published, with the first line of their docstrings."""
    parts = []
    for title, group in GROUPS.items():
        own = [make for make in group if make.__name__ not in PUBLISHED]
        if own:
            lines = [f"| `{make.__name__}` | {summary(make.__name__)} |" for make in own]
            parts.append("\n".join([f"**{title}**", "", "| Recipe | What it is |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def summary(name: str) -> str:
    """The first paragraph of the recipe's docstring."""
    text = inspect.getdoc(RECIPES[name]) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
