"""A calibrated loss gives the scores that the formulas give, and leaves the detector as it was."""

import json
import math

import pytest
import torch
from torch import nn

from tailseg.annotations.read import read_dataset
from tailseg.detection.calibration import adjust_logits, fracal_offsets, fracal_sigmoid_scores, norcal_offsets
from tailseg.detection.recalibration import (
    STRENGTHS,
    Calibrated,
    Calibration,
    LogitStatistics,
    Setting,
    apply_calibration,
    copy_calibrated,
    list_calibrations,
    load,
    measure_logits,
    save,
)
from tailseg.losses import BAGSLoss, GumbelCE, SeesawLoss, SigmoidCE, SoftmaxCE
from tailseg.models import Detector
from tailseg.structures import Batch, ClassFrequency, Frame, ImageInfo, Target

COUNTS = torch.tensor([500, 50, 5, 1])
FREQUENCY = ClassFrequency.from_counts(COUNTS, 2 * COUNTS, 600)
DIMENSIONS = (2.0, 1.5, 1.2, 1.0)
STATISTICS = LogitStatistics((-2.0, -3.0, -4.0, -5.0), (1.0, 1.0, 1.0, 1.0), 100)
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
    known = {"FRACAL": {"dimensions": DIMENSIONS, "num_images": 600}, "LogN": {"statistics": STATISTICS}}
    known = known.get(setting.method, {})
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


def test_three_grids_leave_a_class_of_four_objects_without_a_dimension(write, raw):
    """Four boxes in the four quarters of an image: two grids give 2, and 3 were asked for."""
    first, like = raw["images"][0], raw["annotations"][0]
    raw["annotations"] = []
    for i, (x, y) in enumerate([(0.1, 0.1), (0.8, 0.1), (0.1, 0.8), (0.8, 0.8)]):
        left, top = x * first["width"], y * first["height"]
        corners = [left, top, left + 4, top, left + 4, top + 4, left, top + 4]
        box = {"bbox": [left, top, 4, 4], "segmentation": [corners], "area": 16.0}
        raw["annotations"].append(like | box | {"id": 100 + i, "image_id": first["id"]})
    train = read_dataset(write(raw))

    published, corrected = (
        {each.dimensions for each in list_calibrations(train, least_grids=grids) if each.dimensions} for grids in (2, 3)
    )

    assert max(next(iter(published))) == pytest.approx(2)
    assert set(next(iter(corrected))) == {1.0}


def test_fracal_is_given_all_images_of_the_training_set(write, raw, tmp_path):
    """The third image holds no object, and counts all the same."""
    raw["images"].append(raw["images"][0] | {"id": 30, "file_name": "c.jpg"})
    train = read_dataset(write(raw))

    found = list_calibrations(train, LogitStatistics((-1.5, 0.1), (0.3, 1.7), 40))

    assert [each.setting for each in found] == [Setting(), *SETTINGS]
    assert {each.num_images for each in found} == {None, 3}
    for each in found:
        save(each, tmp_path / "calibration.json")
        assert load(tmp_path / "calibration.json", 2) == each
    assert [each.setting.method for each in list_calibrations(None)] == [
        each.setting.method for each in found if each.setting.method not in ("FRACAL", "LogN")
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


def test_logn_without_or_of_other_classes_is_refused(tmp_path):
    file = tmp_path / "calibration.json"
    for statistics in (None, STATISTICS):
        save(Calibration(Setting("LogN", 1.0), statistics=statistics), file)
        with pytest.raises(ValueError, match="does not fit a detector of 3 classes: LogN 1"):
            load(file, 3)


def naive_logn(logits, statistics, strength):
    """Normalized logits, one number at a time."""
    lowest = min(statistics.means)
    rows = [
        [
            (q - strength * (mean - lowest)) / deviation**strength
            for q, mean, deviation in zip(row, statistics.means, statistics.deviations, strict=False)
        ]
        + row[len(statistics.means) :]
        for row in logits.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize(
    "loss",
    [SoftmaxCE(4), SeesawLoss(4), BAGSLoss(FREQUENCY), SigmoidCE(4), SigmoidCE(4, background=True), GumbelCE(4)],
    ids=lambda value: f"{type(value).__name__}-{value.num_logits}",
)
def test_logn_gives_the_loss_s_scores_of_normalized_logits(loss, strength):
    statistics = LogitStatistics((0.5, -1.0, -2.0, 0.1), (2.0, 0.5, 1.0, 1.5), 7)
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(9, loss.num_logits, generator=generator, dtype=torch.float64)
    calibrated = Calibrated(loss, Calibration(Setting("LogN", strength), statistics=statistics), FREQUENCY)

    torch.testing.assert_close(calibrated.scores(logits), loss.scores(naive_logn(logits, statistics, strength)))
    assert calibrated.scores(logits.half()).dtype == torch.float32


def test_under_logn_background_counts_in_a_softmax_alone():
    """A sigmoid's and Gumbel's scores are answers to separate questions."""
    logits = torch.tensor([[1.0, -1.0, 0.5, 0.0, 2.0]], dtype=torch.float64)
    more_background = logits + torch.tensor([0, 0, 0, 0, 3.0])
    calibration = Calibration(Setting("LogN", 1.0), statistics=STATISTICS)
    for loss in (SigmoidCE(4, background=True), GumbelCE(4)):
        scores = Calibrated(loss, calibration, FREQUENCY).scores
        assert torch.equal(scores(logits), scores(more_background))
    scores = Calibrated(SoftmaxCE(4), calibration, FREQUENCY).scores
    assert (scores(more_background) < scores(logits)).all()


class FixedDetector(Detector):
    """Gives the loss fixed regions of each image; two heads, as a cascade has."""

    def __init__(self, regions):
        super().__init__()
        self.regions = regions
        self.heads = nn.ModuleList(nn.Module() for _ in range(2))
        for head in self.heads:
            head.loss = SeesawLoss(4)

    def forward(self, images, targets=None, original_sizes=None):
        logits = torch.cat([self.regions[int(image.max())] for image in images])
        labels = torch.full((len(logits),), 4)
        return {f"loss_{i}": head.loss(logits + i, labels)["loss_cls"] for i, head in enumerate(self.heads)}


def test_the_logits_of_all_regions_are_measured():
    """Against their mean and deviation over a list; an offset of 1e4 would spoil sums of squares in float32."""
    generator = torch.Generator().manual_seed(4)
    regions = [torch.randn(count, 6, generator=generator) + 1e4 for count in (5, 0, 3, 7)]
    detector = FixedDetector(regions).eval()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    images = [torch.full((3, 2, 2), number, dtype=torch.uint8) for number in range(4)]
    boxes = torch.zeros(0, 4)
    empty = Target(boxes, torch.zeros(0, dtype=torch.int64), (), Frame(0, 0, 2, 2), boxes)
    batches = [
        Batch(tuple(images[low:high]), (empty,) * (high - low), (ImageInfo(1, "a.jpg", 2, 2),) * (high - low))
        for low, high in ((0, 1), (1, 2), (2, 4))
    ]
    done = []

    found = measure_logits(detector, batches, device=torch.device("cpu"), progress=done.append)

    values = [
        [row[c] + more for part in regions for row in part.double().tolist() for more in (0, 1)] for c in range(4)
    ]
    means = [math.fsum(column) / len(column) for column in values]
    deviations = [
        math.sqrt(math.fsum((q - mean) ** 2 for q in column) / len(column))
        for mean, column in zip(means, values, strict=True)
    ]
    assert found.num_regions == 30
    assert found.means == pytest.approx(means, rel=1e-12)
    assert found.deviations == pytest.approx(deviations, rel=1e-6)
    assert done == [1, 2, 4]
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items()), (
        "Seesaw counts labels"
    )

    with pytest.raises(ValueError, match="FixedDetector gave no logits .* on 0 training images.*with another method"):
        measure_logits(detector, [], device=torch.device("cpu"))
