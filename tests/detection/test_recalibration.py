"""A calibrated loss gives the scores that the formulas give, and leaves the detector as it was."""

import pytest
import torch
from torch import nn

from tailseg.detection.calibration import adjust_logits, fracal_offsets, fracal_sigmoid_scores, norcal_offsets
from tailseg.detection.recalibration import Calibrated, Calibration, Setting, in_place, replacements, settings
from tailseg.losses import ECMLossConfig, GumbelCE, SeesawLossConfig, SigmoidCE, SoftmaxCE
from tailseg.structures import ClassFrequency

COUNTS = torch.tensor([500, 50, 5, 1])
FREQUENCY = ClassFrequency.from_counts(COUNTS, 2 * COUNTS, 600)
DIMENSIONS = (2.0, 1.5, 1.2, 1.0)


@pytest.fixture
def logits():
    return 3 * torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_softmax_scores_are_those_of_adjusted_logits(logits):
    loss = Calibrated(SoftmaxCE(4), Calibration(Setting("NorCal", 0.6)), FREQUENCY)

    expected = adjust_logits(logits, norcal_offsets(COUNTS, gamma=0.6)).softmax(1)[:, :-1]

    torch.testing.assert_close(loss.scores(logits), expected)


def test_fracal_takes_the_form_that_fits_the_scores(logits):
    fracal = Calibration(Setting("FRACAL", 2.0), DIMENSIONS)
    dimensions = torch.tensor(DIMENSIONS, dtype=torch.float64)

    softmax = Calibrated(SoftmaxCE(4), fracal, FREQUENCY).scores(logits)
    sigmoid = Calibrated(SigmoidCE(4), fracal, FREQUENCY).scores(logits[:, :4])

    offsets = fracal_offsets(COUNTS, dimensions, strength=2.0)
    torch.testing.assert_close(softmax, adjust_logits(logits, offsets).softmax(1)[:, :-1])
    torch.testing.assert_close(sigmoid, fracal_sigmoid_scores(logits[:, :4], COUNTS, dimensions, strength=2.0))


@pytest.mark.parametrize(
    ("loss", "shares"),
    [
        (SoftmaxCE(4), True),
        (SeesawLossConfig().build(FREQUENCY), True),
        (SigmoidCE(4), False),
        (GumbelCE(4), False),
        (ECMLossConfig().build(FREQUENCY), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_shares_are_told_from_separate_answers(loss, shares):
    assert Calibrated(loss, Calibration(Setting("NorCal", 0.5)), FREQUENCY).are_shares is shares


@pytest.mark.parametrize("setting", settings(fracal=True)[1:], ids=str)
@pytest.mark.parametrize("loss", [SoftmaxCE(4), GumbelCE(4)], ids=lambda value: type(value).__name__)
def test_rare_classes_gain_against_frequent_ones(logits, loss, setting):
    """In log odds, where the classes move apart by the same in every region (FRACAL's product for sigmoids apart)."""
    calibration = Calibration(setting, DIMENSIONS if setting.method == "FRACAL" else None)
    before, after = loss.scores(logits), Calibrated(loss, calibration, FREQUENCY).scores(logits)

    assert ((after >= 0) & (after <= 1)).all()
    if setting.method == "FRACAL" and isinstance(loss, GumbelCE):
        before = before**2  # sigmoid(q) sigmoid(q + w): the product of the score and the moved one
    assert (after[:, 3] >= before[:, 3]).all()
    assert (after[:, 0] <= before[:, 0]).all()


def test_the_detector_stays_as_it_was():
    loss = SigmoidCE(4)
    model = nn.Module()
    model.head = nn.Module()
    model.head.loss = loss

    with in_place(replacements(model, Calibration(Setting("NorCal", 0.5)), FREQUENCY)):
        assert isinstance(model.head.loss, Calibrated)
    assert model.head.loss is loss
    with in_place(replacements(model, Calibration(Setting()), FREQUENCY)):
        assert model.head.loss is loss, "as trained"
