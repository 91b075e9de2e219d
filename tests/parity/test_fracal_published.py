"""FRACAL's prior and test scores against those of its authors' code, for all classes of LVIS v1."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tailseg.detection.calibration import adjust_logits, adjust_scores, fracal_offsets, fracal_sigmoid_scores
from tailseg.detection.recalibration import Calibrated, Calibration, Setting
from tailseg.losses import SigmoidCE, SoftmaxCE
from tailseg.structures import ClassFrequency

from .assertions import TRIMMED

# The authors' code computes in float32; a score of a softmax carries the rounding of 1,204 others.
CLOSE = {"rtol": 2e-6, "atol": 1e-7}


@pytest.fixture(scope="module", params=["trimmed", "full"])
def golden(request):
    """Their tensors, with the counts that their statistics hold."""
    if request.param == "trimmed":
        return load_file(TRIMMED / "2024/k_fracal.safetensors")
    shared = request.getfixturevalue("shared")
    tensors = load_file(shared / "golden/2024/k_fracal.safetensors")
    statistics = json.loads((shared / "data/lvis/lvis_v1_fractal.json").read_text())
    tensors["image_counts"] = torch.tensor([each["image_frequency"] for each in statistics["categories"]])
    tensors["num_images"] = torch.tensor(statistics["num_images"])
    return tensors


def known(golden, strength):
    """Counts, dimensions, and what else the functions want."""
    settings = {"num_images": int(golden["num_images"]), "strength": strength}
    return golden["image_counts"], golden["sigmoid.dimensions"], settings


def scores_at(golden, form):
    """Their scores by strength, of the first regions alone but at the published one."""
    return {2.0: golden[f"{form}.scores"]} | {
        float(strength): golden[f"{form}.scores.strength_{strength}"] for strength in (0, 1)
    }


def test_the_prior_divides_by_the_number_of_images(golden):
    counts, _, settings = known(golden, 2.0)
    ours = fracal_offsets(counts, torch.ones(len(counts)), **settings)
    for form in ("softmax", "sigmoid"):
        torch.testing.assert_close(ours.float(), golden[f"{form}.weights"][:1203], rtol=0, atol=5e-7)
    assert golden["softmax.weights"][1203] == 0, "background stays"


def test_scores_of_a_softmax(golden):
    for strength, theirs in scores_at(golden, "softmax").items():
        logits = golden["softmax.logits"][: len(theirs)]
        counts, dimensions, settings = known(golden, strength)
        offsets = fracal_offsets(counts, dimensions, **settings)
        theirs = theirs[:, :-1]
        torch.testing.assert_close(adjust_logits(logits, offsets).softmax(1)[:, :-1], theirs, **CLOSE)
        torch.testing.assert_close(adjust_scores(logits.softmax(1)[:, :-1], offsets), theirs, **CLOSE)


def test_scores_of_sigmoids(golden):
    for strength, theirs in scores_at(golden, "sigmoid").items():
        counts, dimensions, settings = known(golden, strength)
        ours = fracal_sigmoid_scores(golden["sigmoid.logits"][: len(theirs)], counts, dimensions, **settings)
        torch.testing.assert_close(ours, theirs[:, :-1], **CLOSE)


@pytest.mark.parametrize("loss", [SoftmaxCE(1203), SigmoidCE(1203)], ids=lambda loss: type(loss).__name__)
def test_a_calibrated_detector_gives_them(golden, loss):
    form = "softmax" if isinstance(loss, SoftmaxCE) else "sigmoid"
    counts, dimensions, settings = known(golden, 2.0)
    frequency = ClassFrequency.from_counts(counts, counts, 99_388)  # of the images with objects, as a run counts them
    calibration = Calibration(Setting("FRACAL", 2.0), tuple(dimensions.tolist()), settings["num_images"])

    ours = Calibrated(loss, calibration, frequency).scores(golden[f"{form}.logits"])

    # In float32 a sigmoid's score is turned back into a logit.
    torch.testing.assert_close(ours, golden[f"{form}.scores"][:, :-1], rtol=1e-5, atol=1e-7)


def test_what_it_leaves_of_a_region_that_is_nine_tenths_background(golden):
    """The classes' scores add up to 0.112. By the sum of the counts in place of the images it was 0.180."""
    counts, dimensions, settings = known(golden, 2.0)
    scores = torch.full((1, 1203), 0.1 / 1203, dtype=torch.float64)

    def foreground(num_images):
        return adjust_scores(scores, fracal_offsets(counts, dimensions, num_images=num_images)).sum().item()

    assert foreground(settings["num_images"]) == pytest.approx(0.112, abs=5e-4)
    assert foreground(int(counts.sum())) == pytest.approx(0.1805, abs=5e-4)
