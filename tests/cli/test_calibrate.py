"""`tailseg calibrate`: sweeps, measures on other images, stores; `predict` then uses what was stored."""

import json
import shutil

import pytest

from tailseg.cli import main
from tailseg.detection.recalibration import STRENGTHS, Calibration, Setting, load, save
from tailseg.inference import Predictor
from tailseg.recipes import build


@pytest.fixture
def own(run, tmp_path):
    """A copy of the small run, to store things in."""
    return shutil.copytree(run, tmp_path / "run")


def test_a_calibration_is_chosen_measured_and_stored(own, capsys):
    assert main(["calibrate", str(own), "--images=3", "--by=APc"]) == 0

    printed = capsys.readouterr().out
    for method, strengths in STRENGTHS.items():
        for strength in strengths:
            assert f"{method} {strength:g}" in printed
    assert "On the other half" in printed
    stored = load(own / "calibration.json", len(Predictor.from_run(own, calibrated=False).names))
    assert f"Stored for predict: {stored.setting}" in printed


def test_predict_uses_it_unless_told_not_to(own, photos, tmp_path, capsys):
    save(Calibration(Setting("NorCal", 0.8)), own / "calibration.json")
    found = {}
    for option in ("--calibrated", "--no-calibrated"):
        out = tmp_path / option
        arguments = ["predict", str(own), str(photos), "--score-threshold=0", "--no-pictures", f"--out={out}", option]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert ("Scores are calibrated: NorCal 0.8" in printed) == (option == "--calibrated")
        found[option] = json.loads((out / "results.json").read_text())

    assert found["--calibrated"] != found["--no-calibrated"]


def test_without_the_training_set_fracal_is_left_out(own, capsys, monkeypatch):
    def absent(recipe):
        raise FileNotFoundError("no training set")

    monkeypatch.setattr("tailseg.recipes.build.build_training", absent)

    assert main(["calibrate", str(own), "--images=1"]) == 0

    printed = capsys.readouterr().out
    assert "FRACAL and LogN are left out, because the training set was not found" in printed
    assert "FRACAL 1" not in printed
    assert "LogN 1" not in printed


def test_a_training_set_that_lost_images_is_not_looked_at(own, capsys, monkeypatch):
    read = build.build_training
    monkeypatch.setattr(
        build, "build_training", lambda recipe: (train := read(recipe)).select_images(train.image_ids[:2].tolist())
    )

    assert main(["calibrate", str(own), "--images=1"]) == 0

    printed = capsys.readouterr().out
    assert "train.json has 2 images, and the run was trained on" in printed
    assert "FRACAL 1" not in printed
    assert "LogN 1" in printed


def test_logn_is_stored_and_used(own, photos, tmp_path, capsys, monkeypatch):
    """Only LogN is tried here, and APc of this run is 0 with any scores, so that the choice is made by hand."""
    monkeypatch.setattr("tailseg.detection.recalibration.STRENGTHS", {"LogN": (1.0,)})
    monkeypatch.setattr("tailseg.inference.calibration._choose", lambda tried, *_: tried[-1][0])

    assert main(["calibrate", str(own), "--images=1", "--train-images=2"]) == 0

    assert "Stored for predict: LogN 1" in capsys.readouterr().out
    names = Predictor.from_run(own, calibrated=False).names
    statistics = load(own / "calibration.json", len(names)).statistics
    assert len(statistics.means) == len(names)
    assert min(statistics.deviations) > 0
    assert main(["predict", str(own), str(photos), "--no-pictures", f"--out={tmp_path / 'out'}"]) == 0
    assert "Scores are calibrated: LogN 1" in capsys.readouterr().out

    assert main(["calibrate", str(own), "--images=1", "--train-images=0"]) == 0
    assert "LogN" not in capsys.readouterr().out


def test_a_training_image_that_is_gone_leaves_logn_out(own, capsys, monkeypatch):
    from tailseg.annotations.image_files import ImageError

    def missing(*_, **__):
        raise ImageError("a.jpg is not there")

    monkeypatch.setattr("tailseg.detection.recalibration.measure_logits", missing)

    assert main(["calibrate", str(own), "--images=1"]) == 0

    printed = capsys.readouterr().out
    assert "LogN is left out, because a training image cannot be read: a.jpg is not there" in printed
    assert "FRACAL 1" in printed
    assert "LogN 1" not in printed


def test_a_calibration_of_another_detector_is_refused(own, capsys, photos):
    save(Calibration(Setting("FRACAL", 1.0), dimensions=(1.0, 2.0)), own / "calibration.json")

    assert main(["predict", str(own), str(photos)]) == 1
    assert "Calibrate it again" in capsys.readouterr().err

    (own / "calibration.json").write_text("{}")
    assert main(["predict", str(own), str(photos)]) == 1
    assert "was not written by `tailseg calibrate`" in capsys.readouterr().err


def test_least_grids_reaches_fracal(own, monkeypatch):
    asked = []

    def compute(train, *, least_grids):
        asked.append(least_grids)
        return (1.0,) * train.num_classes

    monkeypatch.setattr("tailseg.detection.recalibration.compute_dimensions", compute)

    assert main(["calibrate", str(own), "--images=1", "--train-images=0", "--least-grids=3"]) == 0

    assert asked == [3]


def test_wrong_usage_is_explained(own, capsys):
    assert main(["calibrate", str(own), "--least-grids=1"]) == 2
    assert "--least-grids is 2 or more" in capsys.readouterr().err
    assert main(["calibrate", str(own), "--images=0"]) == 2
    assert "--images is 1 or more" in capsys.readouterr().err
    assert main(["calibrate", str(own / "recipe.json")]) == 2
    assert "is not a folder of a run" in capsys.readouterr().err
