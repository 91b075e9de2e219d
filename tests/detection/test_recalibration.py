"""A calibrated loss gives the scores that the formulas give, and leaves the detector as it was."""

import json

import pytest
import torch
from torch import nn

from tailseg.annotations.read import read_dataset
from tailseg.detection.calibration import adjust_logits, fracal_offsets, fracal_sigmoid_scores, norcal_offsets
from tailseg.detection.recalibration import (
    STRENGTHS,
    Calibrated,
    Calibration,
    Setting,
    apply_calibration,
    copy_calibrated,
    list_calibrations,
    load,
    save,
)
from tailseg.losses import GumbelCE, SigmoidCE, SoftmaxCE
from tailseg.structures import ClassFrequency

COUNTS = torch.tensor([500, 50, 5, 1])
FREQUENCY = ClassFrequency.from_counts(COUNTS, 2 * COUNTS, 600)
DIMENSIONS = (2.0, 1.5, 1.2, 1.0)
SETTINGS = [Setting(method, strength) for method, strengths in STRENGTHS.items() for strength in strengths]


@pytest.fixture
def logits():
    return 3 * torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_softmax_scores_are_those_of_adjusted_logits(logits):
    loss = Calibrated(SoftmaxCE(4), Calibration(Setting("NorCal", 0.6)), FREQUENCY)

    expected = adjust_logits(logits, norcal_offsets(COUNTS, gamma=0.6)).softmax(1)[:, :-1]

    torch.testing.assert_close(loss.scores(logits), expected)


def test_fracal_takes_the_form_that_fits_the_scores(logits):
    fracal = Calibration(Setting("FRACAL", 2.0), DIMENSIONS, num_images=700)
    dimensions = torch.tensor(DIMENSIONS, dtype=torch.float64)

    softmax = Calibrated(SoftmaxCE(4), fracal, FREQUENCY).scores(logits)
    sigmoid = Calibrated(SigmoidCE(4), fracal, FREQUENCY).scores(logits[:, :4])

    known = {"num_images": 700, "strength": 2.0}
    offsets = fracal_offsets(COUNTS, dimensions, **known)
    torch.testing.assert_close(softmax, adjust_logits(logits, offsets).softmax(1)[:, :-1])
    torch.testing.assert_close(sigmoid, fracal_sigmoid_scores(logits[:, :4], COUNTS, dimensions, **known))


def test_a_calibrated_loss_keeps_the_kind_of_its_scores():
    calibration = Calibration(Setting("NorCal", 0.5))
    assert Calibrated(SoftmaxCE(4), calibration, FREQUENCY).scores_are_exclusive
    assert not Calibrated(SigmoidCE(4), calibration, FREQUENCY).scores_are_exclusive


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("loss", [SoftmaxCE(4), GumbelCE(4)], ids=lambda value: type(value).__name__)
def test_rare_classes_gain_against_frequent_ones(logits, loss, setting):
    """In log odds, where the classes move apart by the same in every region (FRACAL's product for sigmoids apart)."""
    known = {"dimensions": DIMENSIONS, "num_images": 600} if setting.method == "FRACAL" else {}
    calibration = Calibration(setting, **known)
    before, after = loss.scores(logits), Calibrated(loss, calibration, FREQUENCY).scores(logits)

    assert ((after >= 0) & (after <= 1)).all()
    if setting.method == "FRACAL" and isinstance(loss, GumbelCE):
        before = before**2  # sigmoid(q) sigmoid(q + w): the product of the score and the moved one
    assert (after[:, 3] >= before[:, 3]).all()
    assert (after[:, 0] <= before[:, 0]).all()


@pytest.fixture
def model():
    model = nn.Module()
    model.head = nn.Linear(3, 4)
    model.head.loss = SigmoidCE(4)
    return model


def test_a_calibrated_copy_shares_the_weights_and_leaves_the_detector_as_it_was(model):
    loss = model.head.loss

    copied = copy_calibrated(model, Calibration(Setting("NorCal", 0.5)), FREQUENCY)

    assert isinstance(copied.head.loss, Calibrated)
    assert model.head.loss is loss
    assert copied.head.weight is model.head.weight


def test_a_calibration_is_applied_in_place_or_not_at_all(model):
    loss = model.head.loss
    apply_calibration(model, Calibration(Setting()), FREQUENCY)
    assert model.head.loss is loss, "as trained"

    apply_calibration(model, Calibration(Setting("NorCal", 0.5)), FREQUENCY)
    assert model.head.loss.loss is loss

    with pytest.raises(ValueError, match="Linear has no ClassificationLoss among its modules, and NorCal 0.5"):
        apply_calibration(nn.Linear(2, 2), Calibration(Setting("NorCal", 0.5)), FREQUENCY)


def test_fracal_is_given_all_images_of_the_training_set(write, raw, tmp_path):
    """The third image holds no object, and counts all the same."""
    raw["images"].append(raw["images"][0] | {"id": 30, "file_name": "c.jpg"})
    train = read_dataset(write(raw))

    found = list_calibrations(train)

    assert [each.setting for each in found] == [Setting(), *SETTINGS]
    assert {each.num_images for each in found} == {None, 3}
    for each in found:
        save(each, tmp_path / "calibration.json")
        assert load(tmp_path / "calibration.json", 2) == each
    assert [each.setting.method for each in list_calibrations(None)] == [
        each.setting.method for each in found if each.setting.method != "FRACAL"
    ]


def test_what_earlier_builds_stored_is_read_but_for_fracal(tmp_path):
    """Their FRACAL divided by another number; the strength was chosen with scores that nobody gets any more."""
    file = tmp_path / "calibration.json"
    stored = {"setting": {"method": "NorCal", "strength": 0.4}, "dimensions": None}
    file.write_text(json.dumps(stored))
    assert load(file, 4) == Calibration(Setting("NorCal", 0.4))

    file.write_text(json.dumps(stored | {"setting": {"method": "FRACAL", "strength": 2.0}, "dimensions": DIMENSIONS}))
    with pytest.raises(ValueError, match="FRACAL 2 without the number of training images.*`tailseg calibrate"):
        load(file, 4)
