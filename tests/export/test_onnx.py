"""The exported ONNX file: its detections are torch's, and its runner needs neither torch nor tailseg."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tailseg import __version__
from tailseg.cli import main
from tailseg.cli.file_kinds import MODELS, OPENVINO_WEIGHTS
from tailseg.data.images import load_image
from tailseg.evaluation import Metrics
from tailseg.export import runner
from tailseg.export.comparison import Agreement, Comparison, compare_with_torch
from tailseg.inference import Predictor
from tailseg.recipes.build import build_validation
from tailseg.structures import Detections

from .conftest import SIZES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor.from_run(run, device="cpu")


@pytest.fixture(scope="module")
def model(exported: Path) -> runner.Model:
    return runner.Model(exported / "model.onnx", threads=1)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_detections_are_torchs(sizes, model: runner.Model, predictor: Predictor, make_inputs) -> None:
    """For batches of several images, images of any size, and images that the file was not traced with."""
    images, inputs = make_inputs(sizes)
    outputs = model.run(dict(zip(runner.PARTS, (tensor.numpy() for tensor in inputs), strict=True)))
    with torch.no_grad():
        expected = predictor.model(images, original_sizes=[tuple(size) for size in inputs[2].tolist()])
    assert outputs["counts"].tolist() == [len(image) for image in expected] == [20] * len(sizes)
    for row, image in enumerate(expected):
        assert outputs["labels"][row].tolist() == image.labels.tolist()
        np.testing.assert_allclose(outputs["scores"][row], image.scores, atol=1e-4)
        np.testing.assert_allclose(outputs["boxes"][row], image.boxes, atol=0.05)
        np.testing.assert_array_equal(outputs["above"][row], image.scores >= 0.4)


def test_the_file_is_valid_and_describes_itself(exported: Path, predictor: Predictor, model: runner.Model) -> None:
    file = exported / "model.onnx"
    onnx.checker.check_model(file, full_check=True)
    settings = model.settings
    assert settings["version"] == __version__
    assert [entry["name"] for entry in settings["classes"]] == list(predictor.names)
    assert [entry["id"] for entry in settings["classes"]] == [category.id for category in predictor.categories]
    assert (settings["short_side"], settings["max_long_side"], settings["orientation"]) == (96, 128, "shown")
    assert settings["thresholds"] == [0.4] * len(predictor.names)
    assert os.fsencode(Path(__file__).parents[2]) not in file.read_bytes(), "a path of this machine is in the file"
    shapes = {
        value.name: [part.dim_param or part.dim_value for part in value.type.tensor_type.shape.dim]
        for value in onnx.load(file).graph.input
    }
    assert shapes == {
        "images": ["batch", "32*rows", "32*columns", 3],
        "sizes": ["batch", 2],
        "original_sizes": ["batch", 2],
    }


WITHOUT = "import sys, runpy; sys.modules.update(torch=None, torchvision=None, tailseg=None); sys.argv = sys.argv[1:]; "


def run_file(exported: Path, *arguments: object, code: int = 0) -> str:
    """Calls detect.py in a process that cannot import torch and tailseg; returns what it prints."""
    program = WITHOUT + "runpy.run_path(sys.argv[0], run_name='__main__')"
    words = [str(exported / "detect.py"), str(exported / "model.onnx"), *map(str, arguments)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=exported)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_runner_makes_the_results_of_predict(exported: Path, predictor: Predictor, tmp_path: Path) -> None:
    photos, out = Path(predictor.recipe.data.val).parent / "val", tmp_path / "results.json"
    count = len(list(photos.iterdir()))
    said = run_file(exported, photos, "--all", "--out", out)
    results = json.loads(out.read_text())
    assert f"{20 * count} detections in {count} images, written to {out}" in said
    file = min(photos.iterdir())
    found, records = predictor(file), [record for record in results if record["file_name"] == file.as_posix()]
    expected = found.to_coco(1, [category.id for category in predictor.categories])
    # the runner's image may differ by 1 in some pixels, since Pillow and torchvision resize it
    scores: dict[int, list[float]] = {}
    for record in records:
        scores.setdefault(record["category_id"], []).append(record["score"])
    near = [
        any(abs(score - record["score"]) < 0.05 for score in scores.get(record["category_id"], ()))
        for record in expected
    ]
    assert sum(near) >= 0.9 * len(near)
    assert {record["image_id"] for record in results} == set(range(1, count + 1))
    assert all(record["segmentation"]["size"] == [found.height, found.width] for record in records)
    run_file(exported, photos, "--out", out)
    assert all(record["score"] >= 0.4 for record in json.loads(out.read_text()))


def test_the_python_code_of_the_page(exported: Path, predictor: Predictor) -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/export.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (exported / "photos").mkdir(exist_ok=True)
    shutil.copy(min((Path(predictor.recipe.data.val).parent / "val").iterdir()), exported / "photos" / "a.jpg")
    program = "import sys; sys.modules.update(torch=None, torchvision=None, tailseg=None)\n" + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=exported)
    assert done.returncode == 0, done.stderr
    scores = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()]
    assert min(scores) >= 0.4
    assert scores == sorted(scores, reverse=True)


def test_the_runner_takes_an_annotation_file_and_names_what_it_cannot_read(
    exported: Path, predictor: Predictor, tmp_path: Path
) -> None:
    truth = json.loads(Path(predictor.recipe.data.val).read_text())
    photos = Path(predictor.recipe.data.val).parent
    ids = [image["id"] for image in truth["images"]][:2]
    images = [*truth["images"][:2], {"id": 77, "file_name": "gone.jpg"}]
    (tmp_path / "some.json").write_text(json.dumps({"images": images}))
    arguments = (tmp_path, photos, "--annotations", tmp_path / "some.json", "--all", "--out", tmp_path / "r.json")
    said = run_file(exported, *arguments, code=1)
    assert f"error: image {tmp_path / 'gone.jpg'}: " in said
    assert {record["image_id"] for record in json.loads((tmp_path / "r.json").read_text())} == set(ids)
    (tmp_path / "empty").mkdir()
    assert "there is no image in" in run_file(exported, tmp_path / "empty", code=1)
    assert "no image could be read" in run_file(exported, tmp_path / "gone", "--out", tmp_path / "none.json", code=1)
    assert not (tmp_path / "none.json").exists()


def test_the_comparison_with_torch(exported: Path, predictor: Predictor) -> None:
    report = (exported / "comparison.md").read_text()
    assert "6 images of the validation set" in report
    assert "120 of torch, 120 of the file" in report
    result = compare_with_torch(
        predictor, exported / "model.onnx", build_validation(predictor.recipe), images=2, threads=1
    )
    assert (result.agreement.num_torch, result.agreement.num_file, result.agreement.num_equal) == (40, 40, 40)
    assert result.agreement.score <= 1e-4
    assert result.find_largest_difference() <= 0.0002


def make_detections(**changes: object) -> Detections:
    mask = {"size": [4, 4], "counts": "04l0"}
    found = Detections(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0.5]), torch.tensor([3]), (mask,), 4, 4)
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, 1),
        ({"scores": torch.tensor([0.50005])}, 1),
        ({"scores": torch.tensor([0.5002])}, 0),
        ({"boxes": torch.tensor([[0.0, 0, 4, 4.04]])}, 1),
        ({"boxes": torch.tensor([[0.0, 0, 4, 4.06]])}, 0),
        ({"labels": torch.tensor([2])}, 0),
        ({"masks": ({"size": [4, 4], "counts": "03m0"},)}, 0),
    ],
    ids=str,
)
def test_detections_that_differ_are_not_equal(changes, equal: int) -> None:
    agreement = Agreement()
    agreement.add(make_detections(), make_detections(**changes))
    assert (agreement.num_torch, agreement.num_file, agreement.num_equal) == (1, 1, equal)


def test_a_detection_has_one_partner() -> None:
    agreement, once = Agreement(), make_detections()
    twice = once.select(torch.tensor([0, 0]))
    agreement.add(twice, once)
    assert (agreement.num_torch, agreement.num_file, agreement.num_equal) == (2, 1, 1)


def test_the_largest_difference_of_ap() -> None:
    def measured(boxes: float, masks: float) -> Metrics:
        return Metrics({"bbox": {"AP": boxes}, "segm": {"AP": masks}}, {}, "lvis", 300, 1, 1)

    result = Comparison(Path(), Agreement(), measured(0.2, 0.1), measured(0.21, 0.13), 1.0, 1.0, 1)
    assert result.find_largest_difference() == pytest.approx(0.03)


def test_files_that_are_no_exported_models(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "other", values[:1], values[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other.onnx was not written by `tailseg export`"):
        runner.Model(tmp_path / "other.onnx")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main([str(tmp_path / "gone.onnx"), str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: there is no file {tmp_path / 'gone.onnx'}\n"
    (tmp_path / "text.onnx").write_text("text")
    assert runner.main([str(tmp_path / "text.onnx"), str(tmp_path)]) == 1
    assert "text.onnx is not a file that tailseg export wrote: " in capsys.readouterr().err


def test_openvino_finds_the_same(exported: Path, model: runner.Model, make_inputs, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from tailseg.export.openvino_file import write_openvino

    write_openvino(exported / "model.onnx", tmp_path / "model.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert MODELS["openvino"].is_own(tmp_path / "model.xml")
    assert OPENVINO_WEIGHTS.is_own(tmp_path / "model.bin")
    converted = runner.Model(tmp_path / "model.xml", threads=1)
    assert converted.settings == model.settings
    for sizes in SIZES:
        _, inputs = make_inputs(sizes)
        arrays = dict(zip(runner.PARTS, (tensor.numpy() for tensor in inputs), strict=True))
        expected, found = model.run(arrays), converted.run(arrays)
        assert found.keys() == expected.keys()
        for name, tolerance in (("labels", 0), ("counts", 0), ("scores", 1e-4), ("boxes", 0.05), ("masks", 1e-3)):
            np.testing.assert_allclose(found[name], expected[name], atol=tolerance, rtol=0)


def test_images_in_which_nothing_is_found(exported: Path, make_inputs, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from tailseg.export.openvino_file import write_openvino

    model = onnx.load(exported / "model.onnx")
    *_, last = (node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    limit = onnx.helper.make_tensor("limit", onnx.TensorProto.FLOAT, [1], [2.0])  # no score is above it
    model.graph.initializer.append(limit)
    last.input[4] = limit.name
    onnx.save(model, tmp_path / "model.onnx")
    write_openvino(tmp_path / "model.onnx", tmp_path / "model.xml")
    for file in ("model.onnx", "model.xml"):
        for sizes in SIZES:
            arrays = dict(zip(runner.PARTS, (tensor.numpy() for tensor in make_inputs(sizes)[1]), strict=True))
            found = runner.Model(tmp_path / file, threads=1).run(arrays)
            assert found["counts"].tolist() == [0] * len(sizes)
            assert found["boxes"].shape == (len(sizes), 20, 4)
            assert not any(values.any() for name, values in found.items() if name != "masks")


def test_wrong_use(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "gone")]) == 1
    assert "no run in" in capsys.readouterr().err
    checkpoint = run / "checkpoints" / "best.pt"
    assert main(["export", str(checkpoint)]) == 2
    assert "is a file: name the folder to write to (--out)" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "model.onnx").write_text("mine")
    assert main(["export", str(run), "--out", str(tmp_path)]) == 2
    assert "is not an exported model that tailseg wrote" in " ".join(capsys.readouterr().err.split())


def test_pixels_are_those_of_tailseg(predictor: Predictor) -> None:
    file = min((Path(predictor.recipe.data.val).parent / "val").iterdir())
    np.testing.assert_array_equal(runner.read_image(file), load_image(file).permute(1, 2, 0))
