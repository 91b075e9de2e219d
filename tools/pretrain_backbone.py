"""Train the small backbone that tailseg carries, on shapes and surfaces that tiny_tail does not hold.

    uv run python tools/pretrain_backbone.py

A Mask R-CNN starts from random weights, trains all of its layers and its batch norm on ``tiny_tail:pretrain`` with
softmax cross entropy (so that none of the losses compared on tiny_tail had a hand in it), and only its backbone is
kept: ResNet-18 at half width in float16, 5.6 MB.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from safetensors.torch import save_file

from tailseg.losses import SoftmaxCEConfig
from tailseg.recipes.recipe import OptimConfig, Recipe
from tailseg.recipes.tiny import tiny_softmax
from tailseg.training.checkpoint import latest, load
from tailseg.training.loop import train

OUT = Path(__file__).parents[1] / "src/tailseg/models/tiny_backbone.safetensors"


@dataclass(frozen=True)
class Options:
    epochs: int = 8
    run: str = "runs/pretrain_backbone"
    """Folder of the training run; a stopped run is resumed."""
    out: Path = OUT
    """Where the backbone is written."""


def pretraining(options: Options) -> Recipe:
    """The run whose backbone is kept."""
    recipe = tiny_softmax()
    backbone = replace(recipe.model.backbone, weights="none", frozen_stages=0, fixed_norm=False)
    return replace(
        recipe,
        data=replace(recipe.data, train="tiny_tail:pretrain", val="tiny_tail:pretrain"),
        model=replace(recipe.model, backbone=backbone),
        loss=SoftmaxCEConfig(),
        optim=OptimConfig(
            lr=0.04,
            epochs=options.epochs,
            steps=(options.epochs - 3, options.epochs - 1),
            warmup_iterations=300,
            clip_norm=10.0,
        ),
        run=replace(recipe.run, out=options.run, eval_every=4),
    )


def main(options: Options) -> None:
    train(pretraining(options), resume=latest(Path(options.run)) is not None)
    checkpoint = latest(Path(options.run))
    assert checkpoint is not None
    weights = {
        name.removeprefix("backbone."): value.half() if value.is_floating_point() else value
        for name, value in load(checkpoint).model.items()
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked")
    }
    temporary = options.out.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
    temporary.rename(options.out)
    print(f"{options.out}: {len(weights)} tensors, {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    torch.manual_seed(0)
    main(tyro.cli(Options))
