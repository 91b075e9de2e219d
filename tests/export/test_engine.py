"""An exported file in place of torch: `tailseg predict --engine`."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from tailseg.cli import main
from tailseg.export.engine import Engine
from tailseg.inference import Predictor
from tailseg.report.server import Service, make_answer, read_upload

pytest.importorskip("onnxruntime")


@pytest.fixture
def photos(run: Path) -> Path:
    return run.parent / "data" / "val"


def predict(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main(["predict", *map(str, words)]) == code
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


def test_an_engine_detects_what_the_predictor_detects(exported: Path, run: Path, photos: Path) -> None:
    engine, predictor = Engine(exported / "model.onnx", threads=1), Predictor.from_run(run, device="cpu")
    assert engine.names == predictor.names
    assert engine.categories == predictor.categories
    assert engine.groups == predictor.frequency.groups
    assert engine.thresholds == predictor.thresholds == (0.4,) * len(engine.names)
    for file in sorted(photos.iterdir())[:2]:
        found, expected = engine.detect(engine.read(file)), predictor(file)
        assert found.labels.tolist() == expected.labels.tolist()
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=0.05, rtol=0)
        assert (found.height, found.width, found.class_names) == (expected.height, expected.width, expected.class_names)
        assert found.masks is not None
        same = sum(one == other for one, other in zip(found.masks, expected.masks, strict=True))
        assert same >= 0.9 * len(found)


def test_predict_with_the_file_of_the_run(
    exported: Path, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = predict(capsys, run, photos, "--engine=onnx", "--out", tmp_path, code=2)
    assert f"there is no exported file {run / 'exported' / 'model.onnx'}: write it with `tailseg export" in said
    assert "or name an exported file in place of the run" in said
    said = predict(capsys, exported / "model.onnx", photos, "--out", tmp_path, code=2)
    assert "is an exported file, and --engine is torch. Add --engine onnx" in said
    inside = run / "exported" / "model.onnx"
    inside.parent.mkdir()
    inside.write_bytes((exported / "model.onnx").read_bytes())
    try:
        said = predict(capsys, run, photos, "--engine=onnx", "--out", tmp_path)
        assert f"{inside}: step 0, float32" in said
        assert "newer checkpoint" not in said
        assert "Score threshold of all classes: 0.4 (" in said
        os.utime(inside, (0, 0))
        assert "the run has a newer checkpoint" in predict(
            capsys, run, photos, "--engine=onnx", "--no-pictures", "--out", tmp_path / "again"
        )
    finally:
        inside.unlink()
        inside.parent.rmdir()
    predict(capsys, run, photos, "--out", tmp_path / "torch", "--no-pictures")
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path, tmp_path / "torch"))
    # not their order: scores that are nearly equal may change places
    objects = [
        Counter((record["file_name"], record["category"]) for record in records) for records in (found, expected)
    ]
    assert objects[0] == objects[1]
    assert all(record["score"] >= 0.4 for record in found)
    pictures = sorted(path.stem for path in tmp_path.glob("*.jpg"))
    assert pictures == sorted(path.stem for path in photos.iterdir())


def test_predict_with_a_file(exported: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported / "model.onnx"
    said = predict(capsys, file, photos, "--engine=onnx", "--no-pictures", "--score-threshold=0", "--out", tmp_path)
    assert "20 objects in 1 image" in said or f"objects in {len(list(photos.iterdir()))} images" in said
    said = predict(capsys, file, photos, "--engine=openvino", "--out", tmp_path, code=2)
    assert f"{file} is not for --engine openvino, whose files end with .xml" in said
    said = predict(capsys, file, photos, "--engine=onnx", "--precision=bfloat16", "--out", tmp_path, code=2)
    assert "--precision is for --engine torch: give it to `tailseg export`" in said


def test_serve_with_a_file(
    exported: Path, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    services: list[Service] = []

    def keep(service: Service, **_: object) -> None:
        services.append(service)
        raise SystemExit(0)

    monkeypatch.setattr("tailseg.report.server.make_server", keep)
    assert main(["serve", str(exported / "model.onnx"), "--engine=onnx"]) == 0
    (service,) = services
    assert isinstance(service.predictor, Engine)
    assert (service.threshold, service.batch_size, service.report) == ((0.4,) * len(service.predictor.names), 1, None)
    photo = min(photos.iterdir())
    image = read_upload(photo.read_bytes(), service.predictor.orientation)
    (found,) = service.predictor.detect_batch([image])
    answer = make_answer(service, image, found, 0.0, picture=False)
    predictor = Predictor.from_run(run, device="cpu")
    expected = predictor(photo)
    assert [each["category"] for each in answer["detections"]] == [predictor.names[label] for label in expected.labels]
    assert [each["score"] for each in answer["detections"]] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    assert main(["serve", str(exported / "model.onnx"), "--engine=onnx", "--device=cuda"]) == 2
    assert "--device is for --engine torch" in capsys.readouterr().err
