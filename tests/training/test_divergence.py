"""A training that diverges ends with an error that says what to lower; one bad batch, or a short run, does not."""

from dataclasses import replace

import pytest

from tailseg.recipes import get_recipe
from tailseg.training.checkpoint import Progress, load
from tailseg.training.divergence import DivergenceError, compute_start, watch_loss
from tailseg.training.loop import train
from tailseg.training.run_files import get_latest

from . import small

RECIPE = get_recipe("custom_small")


def watch(values, recipe=RECIPE, progress=None):
    """The warnings by step, and the state after the last step."""
    progress, warnings = progress or Progress(), {}
    for value in values:
        progress.step += 1
        if warning := watch_loss({"loss_cls": value / 4, "loss_box": value * 3 / 4}, progress, recipe):
            warnings[progress.step] = warning
    return warnings, progress


def test_the_start_is_the_median_and_never_more_than_the_first_loss():
    assert compute_start([5.0, 4.0, 3.0, 2.0, 6.0]) == 4.0
    assert compute_start([4.7, 90.0, 1e4, 1e6]) == 4.7
    assert compute_start([0.001, 0.002]) == 0.1


def test_a_loss_a_hundred_times_its_start_in_three_steps_ends_the_run():
    values = [4.7, 5.0, 4.0] * 10
    warnings, progress = watch([*values, 480.0, 9000.0])
    assert warnings == {}
    with pytest.raises(DivergenceError) as caught:
        watch([471.0], progress=progress)
    text = str(caught.value)
    for part in ("step 33", "diverged", "471", "loss_cls 117.8", "loss_box 353.2", "4.7 at the start"):
        assert part in text
    for option in ("--optim.lr 0.02; it was 0.08, 0.04 in each step", "--optim.warmup-iterations", "frozen-stages"):
        assert option in text
    assert "clip-norm" not in text  # custom_small clips
    unclipped = replace(RECIPE, optim=replace(RECIPE.optim, clip_norm=None))
    with pytest.raises(DivergenceError, match=r"--optim\.clip-norm 10"):
        watch([*values, 480.0, 480.0, 480.0], unclipped)


def test_a_run_that_diverges_in_its_first_steps_is_noticed():
    with pytest.raises(DivergenceError, match="step 4: .* 4.7 at the start"):
        watch([4.7, 1e4, 1e6, 1e8])


@pytest.mark.parametrize(
    "values",
    [
        [4.7] * 30 + [1e6, 1e6, 4.7] * 5,  # bad batches, and never three in a row
        [0.001, 0.002, 0.001, 0.9, 0.9, 0.9],  # from weights that fit: the loss of other images is no divergence
        [4.7, 20.0, 30.0, 40.0, 30.0, 9.0],
        [4.7, 1e9],
    ],
)
def test_no_false_alarm(values):
    assert watch(values)[0] == {}


def test_a_warning_comes_once_from_a_tenth_of_the_limit_on():
    warnings, progress = watch([4.0] * 20 + [50.0] * 10 + [4.0] + [50.0] * 2)
    assert list(warnings) == [23]
    assert "the loss is 50, and it was 4 at the start" in warnings[23]
    assert list(watch([50.0], progress=progress)[0]) == [34]


def test_the_check_can_be_turned_off_and_changed():
    off = replace(RECIPE, optim=replace(RECIPE.optim, max_loss_ratio=None))
    assert watch([4.0] * 20 + [1e9] * 9, off)[0] == {}
    strict = replace(RECIPE, optim=replace(RECIPE.optim, max_loss_ratio=3.0))
    with pytest.raises(DivergenceError):
        watch([4.0] * 20 + [13.0] * 3, strict)


def test_a_checkpoint_of_an_earlier_version_has_no_start_to_compare_with():
    assert watch([1e9] * 9, progress=Progress(step=500))[0] == {}


@pytest.mark.usefixtures("one_thread")
def test_a_training_at_an_absurd_rate_ends(data, tmp_path):
    """Its state after an epoch keeps the start; the diverged state is not saved."""
    recipe = small.recipe(data, tmp_path)
    optim = replace(recipe.optim, lr=8.0, epochs=9, milestones=(), warmup_iterations=10)
    recipe = replace(recipe, optim=optim, run=replace(recipe.run, eval_every=0))
    with pytest.raises(DivergenceError, match=r"the training has diverged.*--optim\.lr 2;"):
        train(recipe)
    saved = load(get_latest(tmp_path)).progress
    assert len(saved.first_losses) == min(saved.step, 20)
    assert saved.diverged_losses < 3
