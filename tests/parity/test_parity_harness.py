"""The harness of benchmarks/parity.py: every stage of every golden detector, and what it says when something is off."""

from pathlib import Path

import pytest
import torch

from tailseg.interop.golden import Golden, golden_files, load_golden
from tailseg.interop.parity import measure, measure_file, measure_test, their_loss


@pytest.mark.parametrize(
    "name",
    ["a_mask_rcnn", "a2_mask_rcnn_normed_mask", "a3_mask_rcnn_gumbel", "b_cascade_mask_rcnn", "c_htc"],
)
def test_every_stage_is_equal_to_rounding(shared: Path, name: str) -> None:
    differences = measure(load_golden(shared / "golden", name))
    assert [d for d in differences if not d.equal] == []
    stages = {d.stage for d in differences}
    for part in ("feature maps", "RPN objectness", "proposals", "box deltas", "mask logits", "detections: masks"):
        assert any(stage.startswith(part) for stage in stages)


@pytest.mark.parametrize("name", ["d_resnext", "d_swin", "e_ops"])
def test_backbones_and_operators_are_equal_to_rounding(shared: Path, name: str) -> None:
    folder = shared / "golden"
    differences = measure_file(folder, name, golden_files(folder)[name])
    assert [d for d in differences if not d.equal] == []
    assert len(differences) == 5


def test_every_file_of_the_folder_is_found(shared: Path, tmp_path: Path) -> None:
    files = golden_files(shared / "golden")
    assert [files[name] for name in ("a_mask_rcnn", "d_swin", "e_ops")] == ["detector", "backbone", "operators"]
    assert len(files) == len(list((shared / "golden").glob("*.safetensors")))
    with pytest.raises(ValueError, match="no golden files in"):
        golden_files(tmp_path)


@pytest.fixture
def golden(shared: Path) -> Golden:
    return load_golden(shared / "golden", "a_mask_rcnn")


@pytest.mark.parametrize(
    ("parameter", "stage"),
    [
        ("fpn.output.0.bias", "feature maps P2 .. P6"),
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


def test_names_of_losses() -> None:
    assert their_loss("loss_rpn_box") == "loss_rpn_bbox"
    assert their_loss("loss_rpn_cls") == "loss_rpn_cls"
    assert their_loss("loss_box_1") == "s1.loss_bbox"
    assert their_loss("loss_mask_2") == "s2.loss_mask"
