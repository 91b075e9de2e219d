"""What does not fit a checkpoint is refused, and the first difference named."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tailseg.recipes import get_recipe
from tailseg.training import fit
from tailseg.training.checkpoint import CheckpointError

from .saved import make


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"another network .*: weight is \[4\], expected \[2, 4\]; bias is"):
        fit.check_model(make(), torch.nn.Linear(4, 2), tmp_path)


def test_another_recipe_is_refused_and_the_differences_named(tmp_path):
    recipe = get_recipe("tiny_gumbel")
    other = replace(recipe, optim=replace(recipe.optim, lr=0.5), loss=get_recipe("tiny_softmax").loss)
    saved = rf"another recipe \(tiny_gumbel\).*loss.*optim\.lr: 0\.5, saved {recipe.optim.lr}"
    with pytest.raises(CheckpointError, match=saved):
        fit.check_recipe(make(recipe), other, tmp_path)


def test_settings_that_change_nothing_that_is_learned_may_differ(tmp_path):
    recipe = get_recipe("tiny_gumbel")
    run = replace(recipe.run, out="elsewhere", log_every=1, device="cpu")
    fit.check_recipe(make(recipe), replace(recipe, run=run, data=replace(recipe.data, workers=0)), tmp_path)


def test_other_classes_are_refused_and_the_first_difference_named(tmp_path):
    ours = make().categories
    fit.check_classes(make(), ours, tmp_path)
    with pytest.raises(CheckpointError, match=r"\(7, 'dog'\) in the checkpoint, \(8, 'dog'\) in the data\. Give"):
        fit.check_classes(make(), (ours[0], replace(ours[1], id=8)), tmp_path)
    with pytest.raises(CheckpointError, match=r"2 classes and the data set has 1.*None in the data"):
        fit.check_classes(make(), ours[:1], tmp_path)


@pytest.mark.parametrize(
    ("images", "parts", "processes", "words"),
    [
        (
            3,
            1,
            2,
            r"3 images cannot be shared by 2 processes: make data.batch_size a multiple of 2 \(--data.batch-size 4",
        ),
        (
            4,
            2,
            4,
            r"by 4 processes that take them in 2 equal parts: .* of 8 .*optim.accumulation_steps .* \(--devices",
        ),
    ],
)
def test_images_that_cannot_be_shared_are_told_with_what_would_do(images, parts, processes, words):
    recipe = get_recipe("tiny_gumbel")
    recipe = replace(
        recipe, data=replace(recipe.data, batch_size=images), optim=replace(recipe.optim, accumulation_steps=parts)
    )
    with pytest.raises(ValueError, match=words):
        fit.check_shares(recipe, processes)
    fit.check_shares(recipe, 1)


@pytest.mark.parametrize(
    ("longest", "sizes", "said"),
    [
        (10, [[60, 100], [100, 80], [0, 0]], "no image reaches .* \\(32\\): .* with short sides of 6 to 8 pixels"),
        (10, [[60, 100]], "short sides of 6 pixels"),
        (52, [[60, 100], [100, 80]], ""),  # 32 x 40
        (10, [[0, 0]], ""),
        (10, [], ""),
    ],
)
def test_long_sides_that_keep_all_images_small_are_told(longest, sizes, said):
    data = replace(get_recipe("tiny_gumbel").data, short_sides=(40, 32), max_long_side=longest)
    notes = fit.list_size_notes(data, np.array(sizes, np.int64).reshape(-1, 2))
    assert len(notes) == bool(said)
    assert re.search(said, "".join(notes))
