"""The harness of benchmarks/parity.py: every stage of every golden file, and what it says when something is off."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .assertions import TRIMMED, assert_equal, files, place
from .golden import Golden, golden_files, load_golden
from .kinks import settle
from .parity import Difference, compare_detections, measure, measure_file, measure_test, their_loss

# Sums shared between threads are rounded otherwise and put other ReLU inputs on the other side of zero.
pytestmark = pytest.mark.usefixtures("one_thread")

DETECTORS = ("a_mask_rcnn", "a2_mask_rcnn_normed_mask", "a3_mask_rcnn_gumbel", "b_cascade_mask_rcnn", "c_htc")


EVERY = [pytest.param(file, marks=pytest.mark.slow if file == "full/c_htc" else ()) for file in files(*DETECTORS)]
"""The full HTC takes a minute; the trimmed one has the same stages."""


@pytest.mark.parametrize("place", EVERY, indirect=True)
def test_every_stage_is_equal_to_rounding(place: tuple[Path, str]) -> None:
    differences = measure(load_golden(*place))
    assert_equal(differences)
    stages = {d.stage for d in differences}
    for part in ("RPN objectness", "proposals", "box deltas", "mask logits", "detections: masks", "gradients, these"):
        assert any(stage.startswith(part) for stage in stages)


@pytest.fixture(name="place")
def place_fixture(request: pytest.FixtureRequest) -> tuple[Path, str]:
    return place(request)


WITH_MAPS = [file for file in files(*DETECTORS) if file != "trimmed/a3_mask_rcnn_gumbel"]
"""That one starts from its images, and has not kept its finest maps."""


@pytest.mark.parametrize("place", WITH_MAPS, indirect=True)
def test_from_the_golden_maps_on_everything_is_equal_to_a_few_roundings(place: tuple[Path, str]) -> None:
    """Without the 2e-5 that fifty layers of float32 leave, nothing differs by more than 1e-5 of scale or two roundings.

    Beyond 1,024 pixels float32 has steps of 1.2e-4: which way a processor's kernels round the last one differs.

    Of 500 masks three differ, each by one pixel whose probability is 0.5 to five digits: 0.992 for the least mask.
    """
    limits = {"of scale": 1e-5, "relative": 1e-5, "of the norm": 1e-5, "absolute": 1e-5, "px": 2.5e-4, "count": 0}
    limits |= {"out of rank": 0, "masks": 0, "pixels": 0, "1 - IoU": 1e-2, "from p = 0.5": 1e-5}
    differences = measure(load_golden(*place, from_maps=True))
    assert [d for d in differences if d.value > limits[d.unit]] == []
    (masks,) = [d.value for d in differences if d.stage == "detections: masks, all"]
    assert masks < 1e-4


@pytest.mark.parametrize("place", files("d_resnext", "d_swin", "e_ops"), indirect=True)
def test_backbones_and_operators_are_equal_to_rounding(place: tuple[Path, str]) -> None:
    folder, name = place
    assert_equal(measure_file(folder, name, golden_files(folder)[name]))


def test_the_golden_files_are_small_and_found() -> None:
    kinds = golden_files(TRIMMED)
    assert [kinds[name] for name in ("a3_mask_rcnn_gumbel", "d_swin", "e_ops")] == ["detector", "backbone", "operators"]
    assert len(kinds) == len(list(TRIMMED.glob("*.safetensors")))
    assert sum(path.stat().st_size for path in TRIMMED.iterdir()) <= 6_000_000


def test_a_folder_without_golden_files_or_with_damaged_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no golden files in"):
        golden_files(tmp_path)
    shutil.copy(TRIMMED / "d_swin.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"has no d_swin\.json beside it"):
        golden_files(tmp_path)
    (tmp_path / "d_swin.safetensors").write_bytes((TRIMMED / "d_swin.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated"):
        golden_files(tmp_path)


@pytest.fixture
def golden() -> Golden:
    return load_golden(TRIMMED, "a3_mask_rcnn_gumbel")


@pytest.mark.parametrize(
    ("parameter", "stage"),
    [
        ("fpn.output.3.bias", "feature maps P2 .. P6"),
        ("rpn.box_deltas.bias", "RPN deltas"),
        ("box_head.regressor.bias", "box deltas, stage 0"),
        ("mask_head.predictor.bias", "mask logits"),
    ],
)
def test_a_wrong_weight_shows_first_in_its_stage(golden: Golden, parameter: str, stage: str) -> None:
    with torch.no_grad():
        golden.model.get_parameter(parameter).add_(0.1)
    off = [d.stage for d in measure_test(golden) if not d.equal]
    assert off[0] == stage


def test_masks_that_differ_where_no_rounding_explains_it_show(golden: Golden) -> None:
    """One pixel in the middle of one mask: 0.9999 of all pixels, and a probability far from 0.5."""
    golden.model.eval()
    rle = golden.facts["rle"][0]
    rle[0], rle[1] = rle[1], rle[0]
    with torch.no_grad():
        off = {d.stage for d in compare_detections(golden) if not d.equal}
    assert "mask pixels that differ" in off


# kinks


WEIGHT = torch.tensor([1.0, 1.0], requires_grad=True)
WANTED = torch.tensor([[1.0], [1.0]])
"""The gradient of sum relu(X w) where the second row of X does not pass."""


def backward(loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, WEIGHT, retain_graph=True)[0][:, None]


@pytest.mark.parametrize(("x", "flipped", "gradient"), [(-0.5 + 1e-7, [1], WANTED), (-0.49, [], WANTED + 0.5)])
def test_inputs_at_zero_alone_are_put_on_the_other_side(x: float, flipped: list[int], gradient: Tensor) -> None:
    """X w = (2, 1e-7) or (2, 0.01)."""
    inputs = torch.tensor([[1.0, 1.0], [0.5, x]])
    settled = settle(lambda: (inputs @ WEIGHT).relu().sum(), backward, WANTED, limit=1e-4)
    assert [unit.place for unit in settled.flipped] == flipped
    torch.testing.assert_close(settled.gradients[:1], gradient[:1])


def test_equal_gradients_are_not_searched() -> None:
    calls = []

    def counted(loss: Tensor) -> Tensor:
        calls.append(loss)
        return backward(loss)

    inputs = torch.tensor([[1.0, 1.0], [0.5, -0.5 - 1e-7]])
    assert settle(lambda: (inputs @ WEIGHT).relu().sum(), counted, WANTED, limit=1e-4).flipped == ()
    assert len(calls) == 1


def test_names_of_losses() -> None:
    assert their_loss("loss_rpn_box") == "loss_rpn_bbox"
    assert their_loss("loss_rpn_cls") == "loss_rpn_cls"
    assert their_loss("loss_box_1") == "s1.loss_bbox"
    assert their_loss("loss_mask_2") == "s2.loss_mask"


def test_a_difference_is_equal_up_to_its_limit() -> None:
    assert Difference("x", "px", 0.01, 0.01).equal
    assert not Difference("x", "px", 0.011, 0.01).equal
    assert not Difference("x", "px", float("nan"), 0.01).equal
