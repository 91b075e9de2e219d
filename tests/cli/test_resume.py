"""`tailseg resume`, folders with numbers, and `train --dry-run`: every command that a message names is run."""

import json
import os
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from tailseg.cli import main
from tailseg.data.tiny_tail import generate
from tailseg.losses.settings import LOSSES
from tailseg.recipes import get_recipe
from tailseg.recipes.commands import make_run_command
from tailseg.recipes.places import get_latest, number_folder
from tailseg.recipes.recipe import Recipe, run_folder
from tailseg.training import loop

from .conftest import SMALL

TRAIN = ["train", "data/train.json", "--loss", "gol", *SMALL, "--run.device=cpu", "--run.log-every=1", "--no-report"]


@pytest.fixture(scope="module")
def project(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run in the default folder; it has an epoch of 2 steps."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILSEG_HOME", str(home))
        generate(folder / "data", preset="test")
        patch.chdir(folder)
        assert main(TRAIN) == 0
    return folder


@pytest.fixture
def mine(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which is the working directory."""
    copy = shutil.copytree(project, tmp_path / "mine")
    monkeypatch.chdir(copy)
    return copy


def read_losses(run: str) -> list[dict]:
    lines = [json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def find_command(text: str, pattern: str) -> list[str]:
    """The arguments of a command in a message."""
    (command,) = re.findall(pattern, " ".join(text.split()))
    program, *arguments = shlex.split(command)
    assert program == "tailseg"
    return arguments


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that commands would train; nothing is trained."""
    recipes: list[Recipe] = []

    def stop(recipe: Recipe, **_: object) -> None:
        recipes.append(recipe)
        raise KeyboardInterrupt("not trained")

    monkeypatch.setattr("tailseg.training.loop.train", stop)
    return recipes


def test_a_stopped_run_is_continued_by_its_folder_and_extended_by_the_command_that_it_names(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = loop.train_step

    def stop_after(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_after)
        assert main(TRAIN) == 130
    told = capsys.readouterr()
    assert "runs/custom_small has a run already, so this run is in runs/custom_small-2." in told.out
    resume = find_command(told.err, r"continue with `(.*?)`")
    assert resume == ["resume", "runs/custom_small-2"]
    assert main([*resume, "--no-report"]) == 0
    assert read_losses("runs/custom_small-2") == read_losses("runs/custom_small")
    capsys.readouterr()
    assert main(resume) == 0
    extend = find_command(capsys.readouterr().out, r"runs/custom_small-2 is finished, after 1 epoch. To .*: (.*)")
    assert main([*extend, "--no-report"]) == 0
    told = capsys.readouterr()
    assert "the run is extended from 1 epoch to 2. The learning rate was" in told.err
    assert "Saved in runs/custom_small-2. Next:" in told.out
    assert [line["step"] for line in read_losses("runs/custom_small-2") if line["kind"] == "train"] == [1, 2, 3, 4]
    test = find_command(told.out, r"(tailseg test \S+)")
    assert main(test) == 0


def test_numbers_of_folders(mine: Path, trained, monkeypatch) -> None:
    shutil.copytree("runs/custom_small", "runs/custom_small-2")
    assert main(TRAIN) == 130
    assert trained[0].run.out == "runs/{name}-3"
    assert number_folder(trained[0]).run.out == "runs/{name}-3"  # it has no weights yet
    assert main([*TRAIN, "--resume"]) == 130
    assert main([*TRAIN, "--run.out=runs/{name}"]) == 130
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")  # restarted processes must find their folder again
    assert main(TRAIN) == 130
    assert [run_folder(recipe) for recipe in trained[1:]] == [Path("runs/custom_small")] * 3


def test_data_elsewhere(mine: Path, trained, monkeypatch, capsys) -> None:
    """A run with a validation file, whose data have moved: the message says where they were searched."""
    recipe = json.loads(Path("runs/custom_small/recipe.json").read_text())
    names = {"train": "train.json", "val": "val.json", "train_images": "train"}
    recipe["resolved"]["data"] |= {key: str(mine / "data" / name) for key, name in names.items()}
    recipe["folder"] = str(mine / "runs/custom_small")
    Path("runs/custom_small/recipe.json").write_text(json.dumps(recipe))
    shutil.move("data", "elsewhere")
    shutil.move("runs", "../runs")
    monkeypatch.chdir("..")
    assert main(["resume", "runs/custom_small", "--extend=2"]) == 1
    error = capsys.readouterr().err
    assert f"(searched: {mine}/data/train.json, {mine.parent}/data/train.json)" in error.replace("\n", "")
    command = find_command(error, r"(tailseg resume .* FILE)")
    files = [word.replace("FILE", "mine/elsewhere/train.json") for word in command]
    options = ["--data.val", "mine/elsewhere/val.json", "--run.eval-every=0", "--data.workers=3"]
    assert main([*files, *options, "--extend=2"]) == 130
    data, run, optim = trained[0].data, trained[0].run, trained[0].optim
    assert (data.train, data.val) == ("mine/elsewhere/train.json", "mine/elsewhere/val.json")
    assert (data.train_images, data.workers, run.eval_every, optim.epochs) == (None, 3, 0, 3)
    assert trained[0].loss == LOSSES["gol"]  # as the training named it


def test_what_cannot_be_resumed(mine: Path, capsys, monkeypatch) -> None:
    best = "runs/custom_small/checkpoints/best.pt"
    assert main(["resume", best]) == 2
    assert "Name the folder of the run: tailseg resume runs/custom_small" in capsys.readouterr().err
    assert main(["resume", "runs/custom_small", "--data.val=data/val.json"]) == 2
    assert "tailseg test runs/custom_small --val data/val.json" in capsys.readouterr().err
    assert main(["resume", "runs/custom_small", "--optim.lr=0.1"]) == 2
    assert "--optim.lr: a run keeps this setting" in capsys.readouterr().err
    assert main(["resume", "runs/custom_small", "--data.trian=x.json"]) == 2
    assert "did you mean --data.train" in capsys.readouterr().err
    assert main(["resume", "runs/custom_small", "--extend=0"]) == 2
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert main(["resume", "runs/custom_small", "--extend=1"]) == 2
    assert "--optim.epochs NUMBER" in capsys.readouterr().err
    for checkpoint in Path(best).parent.iterdir():
        checkpoint.unlink()
    Path(best).with_name("converted.safetensors").touch()
    assert main(["resume", "runs/custom_small"]) == 2
    assert "--run.init-from runs/custom_small/checkpoints/converted.safetensors" in capsys.readouterr().err


def test_a_refused_command_does_not_change_the_run(mine: Path, capsys) -> None:
    changed = json.loads(Path("data/train.json").read_text())
    changed["annotations"].pop()
    Path("data/changed.json").write_text(json.dumps(changed))
    before = Path("runs/custom_small/recipe.json").read_text()
    assert main(["resume", "runs/custom_small", "--extend=1", "--data.train=data/changed.json"]) == 1
    assert "data/changed.json has changed since" in capsys.readouterr().err
    assert Path("runs/custom_small/recipe.json").read_text() == before


def test_a_run_with_its_best_checkpoint_alone_is_extended(mine: Path, capsys) -> None:
    get_latest(Path("runs/custom_small")).unlink()
    assert main([*TRAIN, "--run.out=runs/custom_small"]) == 1
    assert "runs/custom_small has a run already" in capsys.readouterr().err
    assert main(["resume", "runs/custom_small", "--extend=1", "--no-report"]) == 0
    assert [line["step"] for line in read_losses("runs/custom_small") if line["kind"] == "train"] == [1, 2, 3, 4]


def test_trainings_that_start_at_once_have_different_folders(mine: Path, trained, monkeypatch, capsys) -> None:
    shutil.rmtree("runs/custom_small")
    others: list[FileLock] = []

    def take(recipe: Recipe) -> None:
        """Another training takes the folder after this one has chosen it."""
        assert run_folder(recipe) == Path("runs/custom_small")
        Path("runs/custom_small").mkdir()
        others.append(FileLock("runs/custom_small/lock"))
        others[0].acquire()

    monkeypatch.setattr("tailseg.recipes.build.require_data", take)
    assert main(TRAIN) == 130
    others[0].release()
    assert [run_folder(recipe) for recipe in trained] == [Path("runs/custom_small-2")]
    assert "so this run is in runs/custom_small-2" in capsys.readouterr().out


def test_commands_for_a_folder_that_looks_like_an_option() -> None:
    recipe = get_recipe("custom_small")
    recipe = replace(recipe, run=replace(recipe.run, out="-x"))
    assert make_run_command("resume", recipe) == "tailseg resume ./-x"


def test_a_dry_run_writes_nothing(mine: Path, capsys) -> None:
    before = sorted(mine.rglob("*"))
    assert main([*TRAIN, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert sorted(mine.rglob("*")) == before
    assert "14 images with 75 objects to train on, 12 classes, 1 epoch" in shown
    assert "into runs/custom_small-2" in shown
    assert re.search(r"step: .* s \(the mean of 1 step, after a first step of .* s\)", shown)
    assert re.search(r"run: .* for 1 epoch, 2 steps, without evaluations and checkpoints", shown)
    assert re.search(r"memory: +at the peak \d\.\d\d GB of main memory", shown)
    assert find_command(shown, r"To train: (.*)") == TRAIN
    assert get_latest(Path("runs/custom_small-2")) is None
    assert main([*TRAIN, "--dry-run", "--resume"]) == 2
    assert main([*TRAIN, "--dry-run", "--run.out=runs/custom_small"]) == 1
    assert "has a run already" in capsys.readouterr().err
