"""Writes docs/recipes.md from the recipes.

uv run python tools/write_recipes.py
"""

import inspect
from collections.abc import Sequence
from pathlib import Path

from tailseg.recipes import GROUPS, RECIPES, Recipe, describe
from tailseg.recipes.activations import ACTIVATIONS
from tailseg.recipes.gol import GOL
from tailseg.recipes.later import LATER
from tailseg.recipes.published import PUBLISHED
from tailseg.recipes.rivals import RIVALS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"
EXAMPLE = "gol_mask_rcnn_r50_rfs_2x"

TEMPLATE = """\
# Recipes

A recipe is a Python function that returns every setting of a run. `tailseg recipes` lists the recipes. This page
describes the {count} published configurations and what is repaired in them; `tools/write_recipes.py` writes it from the
recipes. **Nobody has trained them with tailseg yet**: the figures below are the published ones.
[Reproductions](reproductions.md) says what counts as a reproduction and takes measured figures; the models that were
trained with tailseg are in the [benchmarks](benchmarks.md).

## Run one

Put LVIS's annotation files and the images of COCO 2017 into one folder, and name it:

```bash
export TAILSEG_DATA=/data  # lvis_v1_train.json, lvis_v1_val.json, train2017/, val2017/
```

(For detectron2's layout, `lvis/lvis_v1_train.json` and `coco/train2017/`, name the folder in `DETECTRON2_DATASETS`. You
can also name the files: `--data.train FILE --data.train-images FOLDER`.)

Then, for `{example}` or any other published name:

| Devices | Command | Images per device at once |
|---|---|---|
{commands}

`tailseg test runs/NAME` evaluates, `tailseg train NAME --help` lists the settings, `tailseg resume runs/NAME`
continues. For several machines, SLURM, and the differences between several processes and one, see
[reliability](reliability.md).

- **Every step has 16 images**, as published (4 devices with 4 images each), for any number of devices. Another
  `--data.batch-size` changes the learning rate in proportion, and the first line of the run's log gives the result:
  `4 images a step, lr 0.005 (0.02 for 16 images)`. Warm-up and milestones stay the same.
- `--optim.accumulation-steps N` processes the images of a step in N parts, one after the other, with the memory of
  16 / N images. The gradient is the mean of the gradients of the parts. It equals the gradient of the whole batch if
  every part averages over as many anchors, RoIs and masks: usually true for anchors (256 in an image) and RoIs (512),
  and approximately for masks. BAGS, DropLoss, the federated loss, Seesaw and EQLv2 count or draw within a part, and
  differ; the table in [reliability](reliability.md#what-is-the-same-and-what-is-not) describes each loss. Several
  processes count and draw as one.
- **Every number has a range**; `--help` prints it with the default. A setting outside its range is refused by name
  before anything is written, on the command line, in Python and in a saved recipe. Settings that are in range but have
  no effect (a warm-up or `optim.milestones` beyond the last step) are reported before the first step.
- Losses count the steps of the optimizer, not the parts of a step (`loss.reweight_after` of LDAM).

## The published configurations

{figures_note}

The names are ours: loss, detector, backbone, `lvis05` for LVIS v0.5 (otherwise v1), `normmask` for a normalized mask
predictor or `normboth` for a normalized mask predictor and classifier, sampling (`random`, or `rfs`: repeat factor
sampling), schedule (1x is 12 epochs). `gol` is DropLoss over Gumbel with a normalized mask predictor.

The files are in the authors' public code: `instance_segmentation/configs` of
[AGLU](https://github.com/kostas1515/AGLU) (commit a64c8b2), which has both folders complete. The page of
[GOL](https://github.com/kostas1515/GOL) calls the folder gol droploss. A fiftieth file has no recipe:
`activations/gumbel_htc_r101_4x4_1x.py` repeats the softmax HTC under a name with Gumbel. "Published after 2022" is the
authors' newer work: [AGLU](https://github.com/kostas1515/AGLU) at commit ed45253 and
[FRACAL](https://github.com/kostas1515/FRACAL) at commit 3543fe4. The last tables are other authors' losses, with the
files of [mmdetection](https://github.com/open-mmlab/mmdetection) 2 (Seesaw),
[EQLv2](https://github.com/tztztztztz/eqlv2) at commit 907fad9 and
[ECM](https://github.com/janghyuncho/ECM-Loss) at commit a637240.

{published}

## Common settings

- **Training**: SGD, learning rate 0.02, momentum 0.9, weight decay 1e-4, no clipping; warm-up of 500 steps from a
  thousandth; the learning rate is divided by ten after epochs 8 and 11 (1x) or 16 and 22 (2x). ImageNet weights; the
  stem and the first stage are frozen, the statistics of batch norm are fixed. Short side 640 to 800, long side at most
  1333, flips.
- **Swin-T**: AdamW, learning rate 1e-4, weight decay 0.05 except for norms and position tables, warm-up of 1,000 steps,
  short side 480 to 800, half of the images cropped first (384 to 600 pixels); 3x is 36 epochs, and the learning rate is
  divided after 27 and 33. Published in float16: `--run.precision float16`; here float32.
- **Cascade, HTC**: three stages, weights 1, 0.5, 0.25, IoU 0.5, 0.6, 0.7; class-agnostic boxes with smooth L1; 2,000
  proposals. In HTC every object keeps its best RoI, even if that RoI overlaps another object more; in Cascade it does
  not. In testing, the logits of the stages are averaged and then activated, and the probabilities of the masks are
  averaged. (mmdetection 3 takes only HTC's last mask: `--model.cascade.test-masks last`.)
- **Testing**: scores above 1e-4, the best 300 of an image; NMS at IoU 0.5, and at 0.3 for the folder gol over Gumbel.
- **The tail** of DropLoss and EQL: classes in less than 0.0011 of the training images (LVIS v1) or 0.00177 (v0.5).

## The authors' newer models

`gol_mask_rcnn_se_r50_aglu_rfs_2x` and `gol_mask_rcnn_se_r101_aglu_rfs_2x` are GOL on SE-ResNets with the activations
AGLU and APA (ECCV 2024). The `fracal_` recipes are the base models of FRACAL (CVPR 2025). The published figures of
FRACAL are those after its calibration, with strength 2; the pages print none without it.

- **Backbones**: the SE-ResNets start from the authors' ImageNet files. Their tensors are under `model`. mmengine's
  loader skips such a file without an error; tailseg reads it. The two numbers of the stem's AGLU are frozen with the
  stem. The authors train them, and so keep the maps of the frozen stage for the backward pass.
- **Mask heads** differ by depth. AGLU's R50 has CARAFE and a learned temperature in its newest configuration, its R101
  a deconvolution and 20. FRACAL's R101 has CARAFE and 20. Only the keys of a published file say which head it has. If
  `tailseg convert` refuses a file, write a recipe of your own with another `mask.upsample` and
  `mask.normalized.learned`.
- **Loss**: the exact Gumbel link. `--loss.published 2024` clamps the logits to [-10, 10], as their code does now.
- **Weight decay** of lambda and kappa is the ordinary one with SGD, as published; AdamW leaves them out.
- **Testing**: NMS at 0.3, and masks from 0.4 on. FRACAL's configuration without the calibration has 0.5 for both, so
  the published gain includes this change. Report both.
- **FRACAL** divides by the dimension of each class. In LVIS v1, 17 rare classes of 4 to 8 boxes have the dimension 2
  from two grids alone, and their scores are divided by 4.
  `tailseg calibrate RUN --least-grids 3` gives them 1.
- **"cos"** in their names is the normalized classifier. The schedule has steps.
- **Mask targets** are bitmaps there; here they come from the polygons or run lengths of the file.
- **V3Det**: `tailseg convert` reads and writes the keys of their Faster and Cascade R-CNN
  (`box.wrapped_cauchy`). There is no recipe.

## Other authors' losses

The `seesaw_`, `eqlv2_` and `ecm_` recipes are baselines to compare with. Their pages print no AP by frequency for
Seesaw and ECM. Normalized predictors have the temperature 20.

- **ECM** trains with a warm-up of 10,000 steps and gradients clipped at 5; its 24 epochs have milestones at 20 and 22.
- **EQLv2** starts from a classifier with random weights of standard deviation 0.01; here all its weights are 0.001.
- **PCB and LOCE** have no recipe. PCB's published figures need heads that predict three times, and LOCE's a second
  training with a memory of features. Their losses are here: `--loss pcb` and `--loss ebl`
  ([differences](reference/losses.md#other-losses-for-long-tails)).

## What is repaired

The published code has defects that change its figures. Here each recipe runs as it was intended; the last column shows
how to get the published behavior where that makes sense.

| | As published | Here | As published, or otherwise |
|---|---|---|---|
{defects}

## The others

{others}
"""

FIGURES_NOTE = """\
AP of masks over all classes and over rare, common and frequent classes, APb of boxes, on the validation set, in
percent. ≈: read from a plot, to within 0.1; empty: not published. The sigmoid's figures were tested with a softmax.
Normalized predictors ("norm.") divide features and weights by their norms."""

DEFECTS = (
    ("The sigmoid baseline, background among its logits, is tested with a softmax", "Tested with the sigmoid", ""),
    (
        "The gradient of a label's logit q vanishes below -3.3: cross entropy on probabilities underflows",
        "-log p = exp(-q); its gradient is bounded only below q = -11",
        "`--loss.published 2022`",
    ),
    ("No gradient for negatives above q = 10", "Exact: 1", "`--loss.published 2022`"),
    (
        "The Gumbel loss is clamped at 20, the class-relative one at 25: above it every gradient is zero",
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
        "DropLoss divides by zero if a step has no object; by luck nothing is dropped then",
        "Nothing is dropped, by design",
        "",
    ),
    ("The table of frequencies stays on the CPU", "It is a buffer and moves with the model", ""),
    ("The temperature's parameter is called `tempearture`", "`temperature`", ""),
    (
        "A normalized classifier forgets its bias: its first loss is about 552 a region",
        "It starts with the loss's bias",
        "`--loss.init-bias 0`",
    ),
    ("The class-relative loss is not registered: its configuration does not start", "It runs", ""),
    (
        "HTC's files lack their base, and one of Cascade's has a wrong base; `cascade_r50` is an R101",
        "They run, under correct names",
        "",
    ),
    (
        "HTC's first mask head has an unused convolution: distributed training stops",
        "It is left out; `tailseg convert` ignores it",
        "",
    ),
    (
        "EQL over the sigmoid uses removed options, and starts with bias 0: its first loss is about 834 a region",
        "It runs, with bias -6.9",
        "`--loss.init-bias 0`",
    ),
    ("The tail (0.0011) includes 17 frequent classes", "As published", "`--loss.tail rc`: rare and common classes"),
    (
        "NMS at 0.3 for Gumbel, at 0.5 for its baselines",
        "As published",
        "`--model.postprocess.nms-iou 0.5` for both, and report both",
    ),
    (
        "Mask targets from polygons in one folder, from bitmaps in the other",
        "Always from the polygons or run lengths of the file",
        "",
    ),
    ("Repeat factors are rounded up", "As published", "`--data.repeat-rounding stochastic`"),
)
"""The published behavior, the behavior here, and how to choose another one."""

DEVICES = {
    1: (f"tailseg train {EXAMPLE} --optim.accumulation-steps 4", 4),
    4: (f"tailseg train {EXAMPLE} --devices 4", 4),
    8: (f"tailseg train {EXAMPLE} --devices 8", 2),
}
"""The command and the images on a device, by the number of devices."""


def format_page() -> str:
    """Returns the text of the page."""
    return TEMPLATE.format(
        count=len(PUBLISHED),
        example=EXAMPLE,
        commands="\n".join(f"| {n} | `{command}` | {images} |" for n, (command, images) in DEVICES.items()),
        figures_note=FIGURES_NOTE,
        published="\n\n".join(
            f"### {title}\n\n{format_tables([make() for make in group])}"
            for title, group in (
                ("Folder activations", ACTIVATIONS),
                ("Folder gol", GOL),
                ("Published after 2022", LATER),
                ("Published by other authors", RIVALS),
            )
        ),
        defects="\n".join(f"| {i} | {' | '.join(row)} |" for i, row in enumerate(DEFECTS, 1)),
        others=format_others(),
    )


def format_tables(recipes: Sequence[Recipe]) -> str:
    """Returns a table for each detector on a data set."""
    return "\n\n".join(
        f"**{heading}**\n\n{format_published(members)}"
        for heading, members in describe.group_by_heading(recipes).items()
    )


def format_published(recipes: Sequence[Recipe]) -> str:
    """Returns a table with the settings, the file and the figures of each recipe."""
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


def format_others() -> str:
    """Returns a table of the recipes that were not published, with the first paragraph of their docstrings."""
    tables = []
    for title, group in GROUPS.items():
        own = [make for make in group if make.__name__ not in PUBLISHED]
        if own:
            lines = [f"| `{make.__name__}` | {get_summary(make.__name__)} |" for make in own]
            tables.append("\n".join([f"**{title}**", "", "| Recipe | Description |", "|---|---|", *lines]))
    return "\n\n".join(tables)


def get_summary(name: str) -> str:
    """Returns the first paragraph of the recipe's docstring."""
    text = inspect.getdoc(RECIPES[name]) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(format_page())
    print(PAGE)
