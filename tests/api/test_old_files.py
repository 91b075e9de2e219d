"""Runs, weights and recipes that build 2f2c8dc wrote still load, resume, test, predict and report.

tools/write_old_files.sh made the files. The networks are tiny and know little, so the detections are compared, too.
"""

import json
import lzma
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tailseg.annotations.read import open_file
from tailseg.cli import main
from tailseg.data.tiny_tail import prepare
from tailseg.inference import Predictor
from tailseg.recipes import RECIPES
from tailseg.recipes.saved import from_plain, load_recipe
from tailseg.training.loop import train

GOLDEN = Path(__file__).parents[1] / "golden/2f2c8dc"
MAX_SIZE = 1_500_000
"""Bytes of the files that old builds wrote."""
EVALUATED = ("gumbel_parity", "started", "gol_normalized", "own_loss", "cascade", "htc", "held_out", "learned")
OWN = {"own_loss": ["--recipe", "old_recipes:own_loss"]}
"""What opens a run with classes of the user's own."""

pytestmark = pytest.mark.filterwarnings("ignore:.* is now :FutureWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old files as a user has them today: in a folder of another name, with the images of ``my/train.json``."""
    folder = tmp_path_factory.mktemp("old")
    with lzma.open(GOLDEN / "files.tar.xz") as file, tarfile.open(fileobj=file) as archive:
        archive.extractall(folder, filter="data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILSEG_HOME", str(folder / "home"))
        images = prepare("tiny_tail:test")[0].parent / "train"
    shutil.copytree(images, folder / "my/train")
    return folder


@pytest.fixture(autouse=True)
def _in_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("TAILSEG_HOME", str(files / "home"))
    monkeypatch.syspath_prepend(GOLDEN)


def scores(results: Path) -> np.ndarray:
    """The scores of a results file, image by image, best first."""
    records = json.loads(results.read_text())
    return np.array(sorted((record["image_id"], -record["score"]) for record in records))


@pytest.mark.parametrize("name", EVALUATED)
def test_a_run_is_tested_with_the_same_figures(name: str) -> None:
    run = Path("runs") / name
    figures, detections = json.loads((run / "metrics.json").read_text()), scores(run / "results.json")
    assert main(["test", str(run), *OWN.get(name, [])]) == 0
    new = json.loads((run / "metrics.json").read_text())
    for kind, values in figures["scores"].items():
        assert new["scores"][kind] == {key: pytest.approx(value, abs=2e-3) for key, value in values.items()}
    np.testing.assert_allclose(scores(run / "results.json"), detections, atol=1e-3)


@pytest.mark.parametrize("name", [*EVALUATED, "converted", "killed_sgd", "killed_adamw"])
def test_a_run_predicts(name: str, tmp_path: Path) -> None:
    assert main(["predict", f"runs/{name}", "my/train/000001.jpg", "--out", str(tmp_path), *OWN.get(name, [])]) == 0


@pytest.mark.parametrize("name", ["cascade", "held_out", "own_loss"])
def test_a_run_is_reported(name: str, tmp_path: Path) -> None:
    assert main(["report", f"runs/{name}", "--out", str(tmp_path / "page.html"), *OWN.get(name, [])]) == 0


def test_runs_are_compared() -> None:
    assert main(["compare", "runs/cascade", "runs/htc", "--samples", "10"]) == 0


@pytest.mark.parametrize("name", ["killed_sgd", "killed_adamw"])
def test_a_killed_run_is_resumed_as_that_build_would_have_done(name: str) -> None:
    run = Path("runs") / name
    train(load_recipe(run / "recipe.json"), resume=True)
    new, old = (
        [json.loads(line) for line in (run / name).read_text().splitlines()]
        for name in ("log.jsonl", "whole_log.jsonl")
    )
    assert [line["step"] for line in new] == [line["step"] for line in old]
    for now, then in zip(new, old, strict=True):
        losses = {key: value for key, value in then.items() if key.startswith(("loss", "lr", "gradient"))}
        assert {key: now[key] for key in losses} == pytest.approx(losses, rel=1e-3)
    np.testing.assert_allclose(scores(run / "results.json"), scores(run / "whole_results.json"), atol=1e-3)


OLD_OPTIONS = """
    --model.fpn.channels=4 --model.box.hidden=8 --model.box.finest=16 --model.mask.channels=4
    --model.test.max-detections=10 --model.backbone.base-width=2 --model.backbone.weights=none --loss.parity
    --data.train=tiny_tail:test --data.val=tiny_tail:test --data.short-sides=64 --data.test-short-side=64
    --data.workers=0 --optim.epochs=1 --optim.steps=1 --optim.average=0.9 --optim.accumulate=2 --no-report
    --run.start-from=runs/gumbel_parity/checkpoints/step_0000004.pt
"""


def test_the_command_line_of_that_build_starts_the_same_training(tmp_path: Path) -> None:
    assert main(["train", "tiny_gumbel", *OLD_OPTIONS.split(), f"--run.out={tmp_path / 'run'}"]) == 0
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())["resolved"]
    assert recipe["optim"]["ema_decay"] == 0.9
    assert recipe["optim"]["accumulation_steps"] == 2
    assert recipe["run"]["init_from"].endswith("step_0000004.pt")


def test_weights_for_mmdetection_are_converted_back(tmp_path: Path) -> None:
    predictor = Predictor.from_run("runs/converted")
    assert len(predictor.names) == len(open_file(Path("my/train.json")).categories)
    assert main(["convert", "runs/cascade", str(tmp_path / "cascade.pth"), "--to", "mmdet"]) == 0


def test_a_stored_calibration_is_used() -> None:
    assert Predictor.from_run("runs/learned").calibration.setting.method == "NorCal"


@pytest.mark.parametrize("name", ["gol_normalized", "held_out"])
def test_saved_settings_are_read_as_they_were(name: str) -> None:
    saved = json.loads((Path("runs") / name / "recipe.json").read_text())["resolved"]
    recipe = load_recipe(Path("runs") / name / "recipe.json")
    assert list(recipe.optim.milestones) == saved["optim"]["steps"]
    assert recipe.model.postprocess.max_detections == saved["model"]["test"]["max_detections"] == 10


def test_the_recipes_of_that_build_are_the_recipes_of_today(files: Path) -> None:
    saved = json.loads((files / "recipes.json").read_text())
    assert saved.keys() <= RECIPES.keys()
    focal = saved["tiny_focal"]["resolved"]["loss"]
    assert focal.pop("init_bias") == -4.6  # which None now means for the sigmoid, see `tailseg.losses.focal.BIASES`
    assert [name for name, plain in saved.items() if from_plain(plain) != RECIPES[name]()] == []


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) <= MAX_SIZE
