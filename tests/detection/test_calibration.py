"""Calibration after training: the formulas by hand, on logits and on scores, and where they change nothing."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.detection import calibration
from tailseg.detection.calibration import (
    adjust_binary_scores,
    adjust_logits,
    adjust_scores,
    fracal_offsets,
    fracal_sigmoid_scores,
    fractal_dimensions,
    logit_adjustment_offsets,
    norcal_offsets,
)

COUNTS = torch.tensor([1000, 100, 10, 1])
IMAGES = 1050  # in all: one may hold several classes, or none
DIMENSIONS = torch.tensor([1.8, 1.5, 1.2, 1.0], dtype=torch.float64)


def logits_of(num_regions, num_logits, seed=0):
    return 2 * torch.randn(num_regions, num_logits, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_logit_adjustment_by_hand():
    offsets = logit_adjustment_offsets(torch.tensor([6, 2]), tau=2.0)
    assert offsets.tolist() == pytest.approx([-2 * math.log(1.5), 2 * math.log(2)])


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_logit_adjustment_divides_by_the_prior(tau):
    logits = logits_of(7, 5)
    adjusted = adjust_logits(logits, logit_adjustment_offsets(COUNTS, tau=tau)).softmax(1)
    prior = [count / 1111 for count in COUNTS.tolist()] + [1 / 4]  # background: that of a class of average size
    for row, ours in zip(logits.tolist(), adjusted.tolist(), strict=True):
        weights = [math.exp(q) / p**tau for q, p in zip(row, prior, strict=True)]
        assert ours == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-9)


@pytest.mark.parametrize("gamma", [0.3, 0.6, 1.0])
def test_norcal_by_its_formula(gamma):
    logits = logits_of(7, 5)
    scores = adjust_scores(logits.softmax(1)[:, :-1], norcal_offsets(COUNTS, gamma=gamma))
    for row, ours in zip(logits.tolist(), scores.tolist(), strict=True):
        weights = [math.exp(q) / count**gamma for q, count in zip(row[:-1], COUNTS.tolist(), strict=True)]
        expected = [weight / (sum(weights) + math.exp(row[-1])) for weight in weights]
        assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_fracal_by_its_formula(strength):
    logits = logits_of(7, 5)
    offsets = fracal_offsets(COUNTS, DIMENSIONS, num_images=IMAGES, strength=strength)
    ours = adjust_logits(logits, offsets).softmax(1)[:, :-1]
    w = np.append(-np.log10(COUNTS.numpy() / IMAGES) - np.log10(4), 0)
    divisor = np.append(DIMENSIONS.numpy(), 1) ** strength
    for row, result in zip(logits.numpy(), ours.numpy(), strict=True):
        s = np.exp(row + w) / np.exp(row + w).sum() / divisor
        np.testing.assert_allclose(result, (s / s.sum())[:-1], rtol=1e-9)
    torch.testing.assert_close(adjust_scores(logits.softmax(1)[:, :-1], offsets), ours)


def test_fracal_of_sigmoids_by_its_formula():
    logits = logits_of(7, 4)
    ours = fracal_sigmoid_scores(logits, COUNTS, DIMENSIONS, num_images=IMAGES, strength=2.0)
    w = -np.log10(COUNTS.numpy() / IMAGES) - np.log10(4)
    squares = DIMENSIONS.numpy() ** 2
    f = -np.log10(squares / squares.sum()) - np.log10(4)
    for row, result in zip(logits.numpy(), ours.numpy(), strict=True):
        np.testing.assert_allclose(result, 1 / (1 + np.exp(-row)) / (1 + np.exp(-(row + w + f))), rtol=1e-9)


UNMOVED = {
    "logit adjustment, equal counts": logit_adjustment_offsets(torch.full((4,), 17)),
    "logit adjustment, tau 0": logit_adjustment_offsets(COUNTS, tau=0.0),
    "NorCal, gamma 0": norcal_offsets(COUNTS, gamma=0.0),
    "NorCal, one image a class": norcal_offsets(torch.ones(4, dtype=torch.int64)),
    "FRACAL, one of four classes an image and dimensions 1": fracal_offsets(
        torch.full((4,), 17), torch.ones(4), num_images=68
    ),
    "FRACAL, one of four classes an image and strength 0": fracal_offsets(
        torch.full((4,), 17), DIMENSIONS, num_images=68, strength=0.0
    ),
}


@pytest.mark.parametrize("offsets", UNMOVED.values(), ids=UNMOVED.keys())
def test_changes_nothing_where_it_should_not(offsets):
    logits = logits_of(6, 5)
    scores = logits.softmax(1)[:, :-1]
    torch.testing.assert_close(adjust_logits(logits, offsets), logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(adjust_scores(scores, offsets), scores, rtol=1e-12, atol=0)
    torch.testing.assert_close(adjust_binary_scores(scores, offsets), scores, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "offsets",
    [
        logit_adjustment_offsets(COUNTS),
        norcal_offsets(COUNTS),
        fracal_offsets(COUNTS, DIMENSIONS, num_images=IMAGES),
    ],
    ids=["logit adjustment", "NorCal", "FRACAL"],
)
def test_raises_the_rare_above_the_frequent(offsets):
    """Four classes with one score: afterwards the rarer is the higher, background's share apart."""
    (scores,) = adjust_scores(torch.full((1, 4), 0.2), offsets)
    assert (scores.diff() > 0).all()


@settings(max_examples=100, deadline=None)
@given(
    num_classes=st.integers(1, 30),
    num_regions=st.integers(0, 6),
    scale=st.sampled_from([0.0, 1.0, 20.0, 1e3]),
    spread=st.sampled_from([0.0, 1.0, 30.0, 500.0]),
    seed=st.integers(0, 1000),
)
def test_scores_agree_with_logits_and_stay_in_range(num_classes, num_regions, scale, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_regions, num_classes + 1, generator=generator, dtype=torch.float64)
    offsets = spread * torch.randn(num_classes, generator=generator, dtype=torch.float64)
    for result in (
        adjust_scores(logits.softmax(1)[:, :-1], offsets),
        adjust_binary_scores(logits[:, :-1].sigmoid(), offsets),
    ):
        assert result.shape == (num_regions, num_classes)
        assert ((result >= 0) & (result <= 1 + 1e-12)).all()
    if scale <= 1 and spread <= 30:  # beyond it the scores have lost what the logits knew
        ours = adjust_scores(logits.softmax(1)[:, :-1], offsets)
        torch.testing.assert_close(ours, adjust_logits(logits, offsets).softmax(1)[:, :-1], rtol=1e-6, atol=1e-12)
        ours = adjust_binary_scores(logits[:, :-1].sigmoid(), offsets)
        torch.testing.assert_close(ours, (logits[:, :-1] + offsets).sigmoid(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_type_of_what_it_is_given(dtype):
    offsets = norcal_offsets(COUNTS)
    assert adjust_logits(torch.zeros(2, 5, dtype=dtype), offsets).dtype == dtype
    assert adjust_scores(torch.full((2, 4), 0.1, dtype=dtype), offsets).dtype == dtype
    assert adjust_binary_scores(torch.full((2, 4), 0.1, dtype=dtype), offsets).dtype == dtype


def test_background_and_objectness_stay_where_they_are():
    adjusted = adjust_logits(torch.zeros(2, 6), norcal_offsets(COUNTS))
    assert (adjusted[:, 4:] == 0).all()
    assert (adjusted[:, :3] < 0).all()


def test_classes_never_seen_count_as_seen_once():
    unseen, once = torch.tensor([0, 5]), torch.tensor([1, 5])
    assert torch.equal(norcal_offsets(unseen), norcal_offsets(once))
    assert torch.equal(logit_adjustment_offsets(unseen), logit_adjustment_offsets(once))
    ours, expected = (fracal_offsets(counts, torch.ones(2), num_images=6) for counts in (unseen, once))
    assert torch.equal(ours, expected)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="4 offsets need at least as many logits"):
        adjust_logits(torch.zeros(2, 3), norcal_offsets(COUNTS))
    with pytest.raises(ValueError, match="add up to 1 at most in a region, got a sum of 2"):
        adjust_scores(torch.full((1, 4), 0.5), norcal_offsets(COUNTS))
    # By its own check: the shapes of a call are checked before it in tests alone.
    with pytest.raises(ValueError, match="scores of 4 classes"):
        calibration._check_scores(torch.zeros(1, 3), norcal_offsets(COUNTS))
    with pytest.raises(ValueError, match="divided by their image"):
        fractal_dimensions(torch.tensor([[1.5, 0.5]]), torch.tensor([0]), num_classes=1)
    with pytest.raises(ValueError, match=r"0 \.\. 0, got 1 \.\. 1"):
        fractal_dimensions(torch.tensor([[0.5, 0.5]]), torch.tensor([1]), num_classes=1)
    with pytest.raises(ValueError, match="max_grid and least_grids must be 2 or more, got 1 and 2: a slope"):
        fractal_dimensions(torch.rand(50, 2), torch.zeros(50, dtype=torch.int64), num_classes=1, max_grid=1)
    for fracal in (fracal_offsets, partial(fracal_sigmoid_scores, torch.zeros(1, 4))):
        with pytest.raises(ValueError, match="num_images must count all training images, got 999, but .* in 1000"):
            fracal(COUNTS, DIMENSIONS, num_images=999)


def naive_dimension(centers, max_grid):
    """Cells counted one by one, the line fitted by numpy."""
    if len(centers) < 4:
        return 1.0
    grids = [g for g in range(1, max_grid + 1) if g * g <= len(centers)]
    occupied = [len({(min(int(x * g), g - 1), min(int(y * g), g - 1)) for x, y in centers}) for g in grids]
    return max(1.0, np.polyfit(np.log(grids), np.log(occupied), 1)[0])


def test_fractal_dimensions_agree_with_counting_cells_one_by_one():
    generator = torch.Generator().manual_seed(0)
    sizes = [0, 3, 4, 50, 900, 5000]
    centers = torch.rand(sum(sizes), 2, generator=generator, dtype=torch.float64)
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor(sizes))
    centers[labels == 3, 1] = 0.5  # on a line
    centers[labels == 4] = centers[labels == 4] ** 4  # towards a corner
    centers[-1] = 1.0
    order = torch.randperm(len(labels), generator=generator)
    for max_grid in (8, 64):
        ours = fractal_dimensions(centers[order], labels[order], num_classes=6, max_grid=max_grid)
        expected = [naive_dimension(centers[labels == j].tolist(), max_grid) for j in range(6)]
        assert ours.tolist() == pytest.approx(expected, rel=1e-9)
        assert ours[0] == ours[1] == 1
        assert ours[4] < ours[5]


def test_four_boxes_in_four_quarters_have_dimension_2_from_two_grids_alone():
    quarters = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.2, 0.8], [0.8, 0.8]])
    many = torch.rand(100, 2)
    centers, labels = torch.cat([quarters, many]), torch.tensor([0] * 4 + [1] * 100)
    published, corrected = (fractal_dimensions(centers, labels, num_classes=2, least_grids=n) for n in (2, 3))
    assert published[0] == pytest.approx(2)
    assert corrected[0] == 1
    assert corrected[1] == published[1] > 1.5


def test_a_full_grid_has_dimension_2_and_a_spot_1():
    side = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    plane = torch.cartesian_prod(side, side)
    spot = torch.full((256, 2), 0.3, dtype=torch.float64)
    labels = torch.repeat_interleave(torch.arange(2), 256)
    dimensions = fractal_dimensions(torch.cat([plane, spot]), labels, num_classes=2)
    assert dimensions.tolist() == pytest.approx([2, 1])
    empty = fractal_dimensions(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), num_classes=3)
    assert empty.tolist() == [1, 1, 1]


def test_the_name_before_it_moved_works_with_a_warning():
    from tailseg.evaluation import calibration as before

    with pytest.warns(DeprecationWarning, match=r"import norcal_offsets from tailseg\.detection\.calibration"):
        assert before.norcal_offsets is norcal_offsets


@pytest.mark.parametrize("bad", [[1.0, 0.0, 1.5, 2.0], [1.0, math.nan, 1.0, 1.0]])
def test_what_is_no_fractal_dimension_is_refused(bad):
    """As a table gives it whose first row stands for no class; the scores would be infinite or NaN."""
    dimensions = torch.tensor(bad)
    with pytest.raises(ValueError, match=r"a fractal dimension above 0 for each of 4 classes, got 4 numbers: \[1.0, "):
        fracal_offsets(COUNTS, dimensions, num_images=IMAGES)
    with pytest.raises(ValueError, match="a fractal dimension above 0"):
        fracal_sigmoid_scores(torch.zeros(2, 4), COUNTS, dimensions, num_images=IMAGES)
