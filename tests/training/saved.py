"""A small checkpoint, for tests of what is done with one."""

import torch

from tailseg.annotations.dataset import Category
from tailseg.recipes import get_recipe
from tailseg.recipes.saved import to_plain
from tailseg.structures import ClassFrequency
from tailseg.training.checkpoint import Checkpoint, Progress


def make(recipe=None, step=3):
    counts = torch.tensor([5, 50])
    return Checkpoint(
        recipe=to_plain(recipe or get_recipe("tiny_gumbel")),
        categories=(Category(3, "cat", "r"), Category(7, "dog", "c")),
        frequency=ClassFrequency.from_counts(counts, counts * 2, 60),
        model={"weight": torch.arange(4.0)},
        optimizer={"state": {0: {"momentum_buffer": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        progress=Progress(epoch=1, step_in_epoch=1, step=step, best=0.25, window={"loss_cls": 0.1, "steps": 1.0}),
    )
