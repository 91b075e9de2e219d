"""`tailseg train` and `tailseg recipes`."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tailseg.cli import main
from tailseg.cli.common import UsageError
from tailseg.cli.train import recipe_note, tell, train_options
from tailseg.losses import SoftmaxCEConfig
from tailseg.recipes import RECIPES, get_recipe
from tailseg.recipes.saved import load_recipe
from tailseg.training import checkpoint
from tailseg.training.distributed import start_processes
from tailseg.training.run_files import choose

OWN_RECIPE = """
from dataclasses import replace
from tailseg.recipes import RECIPES, get_recipe

def mine():
    return replace(RECIPES["tiny_softmax"](), name="mine")

def wrong():
    return 3
"""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_options_is_as_its_function_made_it(name: str) -> None:
    options = train_options(name, [])
    assert options.recipe == RECIPES[name]()
    assert not options.resume


def test_any_setting_can_be_changed() -> None:
    arguments = ["--optim.lr", "0.5", "--data.short-sides", "32", "64", "--loss.init-bias", "-3", "--resume"]
    options = train_options("tiny_softmax", arguments)
    assert options.resume
    assert options.recipe.optim.lr == 0.5
    assert options.recipe.data.short_sides == (32, 64)
    assert options.recipe.loss == SoftmaxCEConfig(init_bias=-3.0)
    assert options.recipe.model == RECIPES["tiny_softmax"]().model


def test_a_file_is_trained_on_with_the_small_custom_recipe() -> None:
    recipe = train_options("my/file.json", ["--data.train-images", "photos"]).recipe
    assert recipe.name == "custom_small"
    assert (recipe.data.train, recipe.data.train_images, recipe.data.val) == ("my/file.json", "photos", None)


def test_initial_weights_choose_a_recipe_that_fits_them() -> None:
    recipe = train_options("my.json", ["--init-from", "coco"]).recipe
    assert (recipe.name, recipe.run.init_from, recipe.data.train) == ("custom_r50", "coco", "my.json")
    options = train_options("my.json", ["--init-from=imagenet", "--backbone", "resnet50"])
    recipe = options.recipe
    assert (recipe.name, recipe.run.init_from) == ("custom_strong", None)
    assert (recipe.model.backbone.depth, recipe.model.backbone.weights) == (50, "imagenet")
    assert "the recipe is custom_strong, whose network fits --init-from imagenet" in recipe_note("my.json", options)
    assert recipe_note("custom_strong", options) == ""
    recipe = train_options("custom_strong", ["--backbone", "timm:convnext_tiny", "--init-from", "imagenet"]).recipe
    assert recipe.model.backbone.weights == "pretrained"
    recipe = train_options("my.json", ["--init-from", "start.safetensors"]).recipe
    assert (recipe.name, recipe.run.init_from) == ("custom_small", "start.safetensors")
    assert train_options("my.json", []).recipe.run.init_from is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["custom_small", "--init-from", "coco"], "custom_small has another network .*model.backbone is a ResNet-18"),
        (["custom_small", "--init-from", "imagenet"], "no ImageNet weights. Choose a backbone .*--backbone resnet18"),
        (["custom_r50", "--backbone", "swin_t", "--init-from", "coco"], "model.backbone is a Swin"),
        (["custom_r50", "--init-from", "a.pt", "--run.init-from", "b.pt"], "short form of --run.init-from"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_to_do(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_options(arguments[0], arguments[1:])


def test_a_run_gives_its_weights_its_recipe_and_nothing_of_its_data(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = photos.parent / "train.json"
    recipe = train_options(str(train), ["--init-from", str(run)]).recipe
    saved = load_recipe(run / "recipe.json")
    assert (recipe.model, recipe.loss, recipe.optim) == (saved.model, saved.loss, saved.optim)
    assert (recipe.data.train, recipe.data.val, recipe.run.out) == (str(train), None, "runs/{name}")
    monkeypatch.chdir(tmp_path)
    options = ["--data.val", str(train), "--run.out=out", "--optim.lr=0", "--no-report"]
    assert main(["train", str(train), "--init-from", str(run), *options]) == 0
    assert "note: the recipe is tiny_gumbel, whose network fits" in capsys.readouterr().out
    first, last = (checkpoint.load(choose(folder, "best")) for folder in (run, Path("out")))
    assert load_recipe(Path("out/recipe.json")).run.init_from == str(choose(run, "best"))
    trained = {name for name, _ in last.model.items() if "running" not in name and "num_batches" not in name}
    assert all(torch.equal(last.model[name], first.model[name]) for name in trained if ".loss." not in name)


def test_an_own_recipe_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_recipes.py").write_text(OWN_RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # what the command does, undone after the test
    assert train_options("own_recipes:mine", []).recipe.name == "mine"
    with pytest.raises(UsageError, match="int"):
        train_options("own_recipes:wrong", [])
    with pytest.raises(UsageError, match="nothing"):
        train_options("own_recipes:nothing", [])
    with pytest.raises(UsageError, match="no_such_module"):
        train_options("no_such_module:mine", [])


def test_an_unknown_recipe_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny_gumbl"]) == 2
    assert "tiny_gumbel" in capsys.readouterr().err


def test_an_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny_gumbel", "--optim.rl", "0.1"]) == 2
    assert "--optim.lr" in capsys.readouterr().err


def test_an_option_of_the_wrong_type_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny_gumbel", "--optim.lr", "fast"]) == 2
    assert "--optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["custom_small", "my.json"], "does not expect 'my.json' here. Name the annotation file with --data.train"),
        (["tiny_gumbel", "tiny_sigmoid"], "`tailseg train tiny_gumbel` does not expect 'tiny_sigmoid' here"),
        (["no_module:recipe"], "no module is called 'no_module'.*PYTHONPATH$"),
    ],
)
def test_a_second_name_and_a_missing_module_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_options(arguments[0], arguments[1:])


def test_the_folder_of_a_run_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").touch()
    with pytest.raises(UsageError, match="tailseg resume"):
        train_options(str(tmp_path), ["--resume"])


def test_an_option_before_the_recipe_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "tiny_gumbel"]) == 2
    assert "the recipe comes first" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my.json", "tiny_softmax", "custom_r50"])
def test_a_recipe_learns_boxes_alone(name: str) -> None:
    recipe = train_options(name, ["--boxes-only", "--optim.lr", "0.5"]).recipe
    plain = train_options(name, ["--optim.lr", "0.5"]).recipe
    assert recipe.model.mask is None
    assert replace(recipe, model=plain.model) == plain


def test_a_cascade_learns_masks(capsys: pytest.CaptureFixture[str]) -> None:
    cascades = [name for name, make in RECIPES.items() if make().model.cascade is not None]
    assert main(["train", cascades[0], "--boxes-only"]) == 2
    assert f"{cascades[0]} is a cascade, whose stages learn masks" in capsys.readouterr().err


def test_a_missing_file_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.json"), f"--run.out={tmp_path / 'run'}"]) == 1
    assert "none.json" in capsys.readouterr().err


def test_a_number_of_devices_that_cannot_be_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny_gumbel", "--devices", "0"]) == 2
    assert "--devices is 1 or more, got 0" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--devices is a number of processes"):
        start_processes(0, [])


def test_images_that_cannot_be_shared_are_told_before_processes_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tailseg.training.distributed.start_processes", lambda *_: pytest.fail("started"))
    options = ["--devices=2", "--data.batch-size=3", f"--run.out={tmp_path / 'run'}"]
    assert main(["train", "tiny_gumbel", *options]) == 1
    assert "a step's 3 images cannot be shared by 2 processes" in capsys.readouterr().err


def test_training_leaves_a_run(run: Path) -> None:
    saved = json.loads((run / "recipe.json").read_text())
    assert saved["recipe"] == "tiny_gumbel"
    assert saved["resolved"]["data"]["train"] == "tiny_tail:test"
    assert {"checkpoints", "log.jsonl", "metrics.json", "results.json"} <= {path.name for path in run.iterdir()}


def test_a_folder_with_a_run_is_not_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tiny_gumbel", f"--run.out={run}"]) == 1
    assert f"tailseg resume {run}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("checkpoint", "message"), [(None, "nothing was saved"), ("step_1.pt", "continue with `tailseg resume")]
)
def test_an_interrupted_run_says_whether_it_saved(
    checkpoint: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tailseg.training.loop.train", interrupt)
    if checkpoint:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / checkpoint).touch()
    arguments = ["--data.train=tiny_tail:test", "--data.val=tiny_tail:test", f"--run.out={tmp_path}"]
    assert main(["train", "tiny_gumbel", *arguments]) == 130
    assert message in " ".join(capsys.readouterr().err.split())


def test_recipes_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in RECIPES)


def test_a_run_is_not_written_over_the_users_own_files(photos, tmp_path, monkeypatch, capsys):
    """``data/train.json`` of the user's would become the run's own part, and each test would take another tenth."""
    (tmp_path / "data").mkdir()
    for name in ("train.json", "val.json"):
        shutil.copy(photos.parent / name, tmp_path / "data" / name)
    shutil.copy(photos.parent / "val.json", tmp_path / "mine.json")
    (tmp_path / "results.json").write_text("[1]")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.chdir(tmp_path)
    for file in ("data/train.json", "mine.json"):
        assert main(["train", file, "--run.out", "."]) == 2
    (tmp_path / "results.json").unlink()
    assert main(["train", "mine.json", "--run.out", "."]) == 2
    assert "data/train.json exists" in " ".join(capsys.readouterr().err.split())
    del before[tmp_path / "results.json"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("out", ["runs/{x}", "runs/{", "runs/{0}", "runs/{name.x}"])
def test_braces_in_the_name_of_a_folder_are_explained(out, capsys):
    assert main(["train", "tiny_gumbel", "--run.out", out]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert out in error
    assert "expected no braces except in {name}, which is the recipe's name" in error


def test_commands_to_paste_hold_a_folder_with_a_space(tmp_path, capsys):
    base = get_recipe("tiny_gumbel")
    recipe = replace(base, run=replace(base.run, out=str(tmp_path / "my runs" / "x")))
    tell(SimpleNamespace(table=lambda: ""), recipe, tmp_path / "my runs" / "x" / "report.html")
    lines = [shlex.split(line, comments=True) for line in capsys.readouterr().out.splitlines() if "my runs" in line]
    folder = str(tmp_path / "my runs" / "x")
    assert lines[1:] == [
        ["open", f"{folder}/report.html"],
        ["tailseg", "predict", folder, "photos"],
        ["tailseg", "test", folder],
        ["tailseg", "resume", folder, "--extend", str(-(-recipe.optim.epochs // 2))],
        ["tensorboard", "--logdir", folder],
    ]
