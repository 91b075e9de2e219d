"""Files in reduced precision, in torch's own format, and with masks of the image."""

import copy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tailseg.cli import main
from tailseg.cli.file_kinds import MODELS
from tailseg.export import files, runner
from tailseg.inference import InferenceConfig, Predictor
from tailseg.models.optimize import for_inference
from tailseg.models.precision import autocast
from tailseg.ops.masks import decode_mask
from tailseg.structures import Detections

from .conftest import SIZES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tailseg.export import layers, onnx_file  # noqa: E402 - after the packages that they need

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.from_run(run, device="cpu")


@pytest.fixture(scope="module")
def simple(exported: Path) -> "onnx.ModelProto":
    return layers.simplify(onnx.load(exported / "model.onnx"))


@pytest.fixture(scope="module")
def settings(exported: Path) -> dict:
    return runner.Model(exported / "model.onnx", threads=1).settings


def to_arrays(inputs: tuple[torch.Tensor, ...]) -> Arrays:
    return dict(zip(runner.PARTS, (tensor.numpy() for tensor in inputs), strict=True))


def count_found(expected: Arrays, found: Arrays) -> float:
    """The share of the expected detections that have one of the same class with an IoU of 0.5 or more."""
    hits = []
    for box, label in zip(expected["boxes"][0], expected["labels"][0], strict=True):
        low = np.maximum(found["boxes"][0][:, :2], box[:2])
        high = np.minimum(found["boxes"][0][:, 2:], box[2:])
        shared = np.prod(np.clip(high - low, 0, None), 1)
        areas = [np.prod(boxes[..., 2:] - boxes[..., :2], -1) for boxes in (found["boxes"][0], box)]
        hits.append(bool(((found["labels"][0] == label) & (shared >= 0.5 * (areas[0] + areas[1] - shared))).any()))
    return float(np.mean(hits))


def test_layers_are_chosen(simple: "onnx.ModelProto") -> None:
    chosen = set(layers.find_layers(simple))
    weights = {node.input[1]: node.name in chosen for node in simple.graph.node if node.op_type in ("Conv", "Gemm")}
    assert [name for name, is_chosen in weights.items() if not is_chosen] == [
        "detector.model.rpn.objectness.weight",
        "detector.model.rpn.box_deltas.weight",
        "detector.model.box_head.classifier.weight",
        "detector.model.box_head.regressor.weight",
    ]
    kinds = Counter(node.op_type for node in simple.graph.node if node.name in chosen)
    assert kinds["Relu"] >= 17, "ReLUs of the backbone"
    assert kinds["Add"] >= 8, "the additions of its blocks"
    assert kinds["MaxPool"] >= 1
    assert kinds["Resize"] == 3, "those of the pyramid"
    assert not {"RoiAlign", "NonMaxSuppression", "TopK", "Sigmoid", "Exp"} & kinds.keys()


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision(
    precision: str, exported: Path, simple: "onnx.ModelProto", settings: dict, make_inputs: Callable, tmp_path: Path
) -> None:
    openvino_file = pytest.importorskip("tailseg.export.openvino_file")
    model = onnx.ModelProto()
    model.CopyFrom(simple)
    file = tmp_path / "model.onnx"
    onnx_file.save(layers.lower_precision(model, precision), file, settings | {"precision": precision})
    assert file.stat().st_size < 0.7 * (exported / "model.onnx").stat().st_size
    openvino_file.write_openvino(file, tmp_path / "model.xml")
    arrays = to_arrays(make_inputs(SIZES[1])[1])
    expected = runner.Model(exported / "model.onnx", threads=1).run(arrays)
    for path in [tmp_path / "model.xml", *([file] if precision == "float16" else [])]:
        found = runner.Model(path, threads=1).run(arrays)
        assert count_found(expected, found) >= 0.8
        assert 0 < np.abs(found["scores"] - expected["scores"]).max() < 0.05


def test_int8_of_the_command(
    run: Path, exported: Path, make_inputs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traced model is that of ``exported``: tracing takes nearly all the time."""
    monkeypatch.setattr(files, "trace", lambda *_, **_named: None)
    monkeypatch.setattr(onnx_file, "to_onnx", lambda _: onnx.load(exported / "model.onnx"))
    words = ["export", str(run), "--precision=int8", "--samples=2", "--images=2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "In the file, convolutions and linear layers are in int8" in (tmp_path / "comparison.md").read_text()
    model = runner.Model(tmp_path / "model.onnx", threads=1)
    assert model.settings["precision"] == "int8"
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert kinds["QuantizeLinear"] >= 20
    assert model.run(to_arrays(make_inputs(SIZES[1])[1]))["counts"].tolist() == [20]


def test_precisions_that_a_format_does_not_have(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, reason in [
        (["--precision=bfloat16"], "onnxruntime has no convolutions in bfloat16"),
        (["--to=torch", "--precision=int8"], "torch has no static int8"),
        (["--sample-images", str(run.parent / "data" / "val")], "--sample-images is for --precision int8"),
    ]:
        assert main(["export", str(run), *words, "--out", str(tmp_path)]) == 2
        assert reason in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchs_format_with_whole_masks(run: Path, predictor: Predictor, make_inputs: Callable, tmp_path: Path) -> None:
    """The file runs in a process without tailseg, and its masks are those that torch pastes."""
    words = ["export", str(run), "--to=torch", "--masks=image", "--images=0", "--out", str(tmp_path)]
    assert main(words) == 0
    assert MODELS["torch"].is_own(tmp_path / "model.pt2")
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "model.pt2").read_bytes()
    images, inputs = make_inputs(SIZES[0])
    np.savez(tmp_path / "inputs.npz", **to_arrays(inputs))
    program = """
import sys
sys.modules["tailseg"] = None
import numpy as np, detect
model = detect.Model("model.pt2", threads=1)
np.savez("outputs.npz", **model.run(dict(np.load("inputs.npz"))))
records = model.detect(np.zeros((40, 50, 3), np.uint8), above=False)
assert all(record["segmentation"]["size"] == [40, 50] for record in records)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    found = np.load(tmp_path / "outputs.npz")
    with torch.no_grad():
        expected: list[Detections] = predictor.model(images, original_sizes=[tuple(s) for s in inputs[2].tolist()])
    assert found["masks"].dtype == bool
    assert found["masks"].shape == (2, 20, *inputs[2].amax(0).tolist())
    for row, image in enumerate(expected):
        assert found["labels"][row].tolist() == image.labels.tolist()
        np.testing.assert_allclose(found["boxes"][row], image.boxes, atol=0.05)
        assert image.masks is not None
        pairs = list(zip(found["masks"][row], image.masks, strict=True))
        different = sum(int((mask[: image.height, : image.width] != decode_mask(rle)).sum()) for mask, rle in pairs)
        assert different <= 1e-4 * found["masks"][row].size, "rounding may decide about a pixel at the threshold"
        assert sum(decode_mask(rle).sum() for rle in image.masks) > 1000
        assert not found["masks"][row][:, image.height :].any()


@pytest.mark.slow
def test_torch_in_half_precision(predictor: Predictor, make_inputs: Callable, tmp_path: Path) -> None:
    """All layers are reduced, as with the precision of a predictor; the smallest map has one row."""
    files.export_model(predictor, tmp_path / "model.pt2", "torch", precision="bfloat16")
    model_of_file = runner.Model(tmp_path / "model.pt2", threads=1)
    images, inputs = make_inputs(SIZES[1])
    found = model_of_file.run(to_arrays(inputs))
    model = for_inference(copy.deepcopy(predictor.model), InferenceConfig(precision="bfloat16"))
    with torch.no_grad(), autocast(torch.device("cpu"), "bfloat16"):
        (expected,) = model(images, original_sizes=[tuple(size) for size in inputs[2].tolist()])
    assert found["counts"].tolist() == [len(expected)] == [20]
    # roundings of 3 digits may exchange two detections, and depend on the number of threads
    common = Counter(found["labels"][0].tolist()) & Counter(expected.labels.tolist())
    assert common.total() >= 18
    np.testing.assert_allclose(found["scores"][0], expected.scores, atol=0.05)
