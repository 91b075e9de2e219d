"""Parts of a recipe by name on the command line, and options that do not exist."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tailseg.cli import main
from tailseg.cli.common import UsageError
from tailseg.cli.train import optimizer_note, train_options
from tailseg.cli.unknown_options import find_unknown_option, nearest_options
from tailseg.data.settings import ColorConfig, CopyPasteConfig, CropConfig, JitterConfig
from tailseg.losses import LOSSES, DropLossConfig
from tailseg.models import NormalizedConfig, SwinConfig, TimmConfig
from tailseg.models.config import SEConfig
from tailseg.recipes import AdamWConfig, ScheduleConfig, SGDConfig, get_recipe
from tailseg.recipes.bases import with_normalized_classifier
from tailseg.recipes.commands import list_own_modules

from .conftest import SMALL

OWN = '''
from dataclasses import dataclass, replace
from tailseg.losses import GumbelCE, GumbelCEConfig
from tailseg.models import ModelConfig
from tailseg.recipes import SGDConfig

@dataclass(frozen=True)
class OwnLossConfig(GumbelCEConfig):
    """A loss of the user's own."""
    sharpness: float = 3.0

    def build(self, frequency):
        return GumbelCE(frequency.num_classes, weight=self.weight)

@dataclass(frozen=True)
class OwnDetector(ModelConfig):
    """A detector of the user's own."""

def loss():
    return OwnLossConfig(sharpness=2.0)

ready = OwnLossConfig(sharpness=5.0)

def number():
    return 3

def with_argument(factor):
    return OwnLossConfig(sharpness=factor)

def broken():
    import no_such_module_at_all

def optim():
    return SGDConfig(lr=0.5, epochs=3, milestones=(2,))
'''


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_a_name(name):
    assert train_options("my.json", ["--loss", name]).recipe.loss == LOSSES[name]


@pytest.mark.parametrize("arguments", [["--loss", "gol", "--loss.tail", "r"], ["--loss.tail=r", "--loss=gol"]])
def test_the_settings_of_a_part_may_follow_or_precede_it(arguments):
    assert train_options("tiny_gumbel", arguments).recipe.loss == DropLossConfig(tail="r")


def test_a_named_optimizer_keeps_the_schedule_and_has_its_own_learning_rate():
    recipe = get_recipe("custom_small")
    options = train_options("my.json", ["--optim", "adamw", "--optim.epochs", "7"])
    assert isinstance(options.recipe.optim, AdamWConfig)
    kept = {field.name for field in fields(ScheduleConfig)} - {"lr", "epochs"}
    assert {name: getattr(options.recipe.optim, name) for name in kept} == {
        name: getattr(recipe.optim, name) for name in kept
    }
    assert (options.recipe.optim.lr, options.recipe.optim.epochs) == (AdamWConfig().lr, 7)
    assert train_options("my.json", ["--optim", "sgd"]).recipe.optim == recipe.optim


def test_backbones_and_groups():
    options = train_options("my.json", ["--backbone", "timm:convnext_tiny", "--groups", "5", "30"])
    assert options.recipe.model.backbone == TimmConfig(name="convnext_tiny")
    assert options.recipe.data.groups == (5, 30)
    assert "AdamW" in optimizer_note(options)
    options = train_options("my.json", ["--backbone=swin_t", "--optim=adamw"])
    assert options.recipe.model.backbone == SwinConfig()
    assert optimizer_note(options) == ""
    assert optimizer_note(train_options("my.json", ["--backbone", "resnet50"])) == ""


@pytest.mark.parametrize(("name", "sharpness"), [("loss", 2.0), ("ready", 5.0), ("OwnLossConfig", 3.0)])
def test_a_part_of_ones_own(name, sharpness):
    recipe = train_options("my.json", ["--loss", f"own_parts:{name}", "--loss.weight", "2"]).recipe
    assert (recipe.loss.sharpness, recipe.loss.weight) == (sharpness, 2.0)
    assert list_own_modules(recipe) == ["own_parts"]


def test_an_optimizer_of_ones_own_is_taken_as_it_is():
    recipe = train_options("my.json", ["--optim", "own_parts:optim"]).recipe
    assert recipe.optim == SGDConfig(lr=0.5, epochs=3, milestones=(2,))


def test_a_detector_comes_before_its_backbone():
    recipe = train_options("my.json", ["--backbone", "swin_t", "--detector", "own_parts:OwnDetector"]).recipe
    assert type(recipe.model).__name__ == "OwnDetector"
    assert recipe.model.backbone == SwinConfig()


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--loss", "goll", "no loss is called 'goll'; did you mean gol?"),
        ("--loss", "my_loss.py", "no loss is called 'my_loss.py'"),
        ("--optim", "adam", "did you mean adamw?"),
        ("--backbone", "resnet5", "did you mean resnet50"),
        ("--loss", "own_parts:nothing", "the module own_parts has no 'nothing'"),
        ("--loss", "no_such_module:loss", "no module is called 'no_such_module'"),
        ("--loss", "own_parts.py:loss", "write it as own_parts:loss"),
        (
            "--loss",
            "own_parts:number",
            "gave an object of the class int, which is not a config: expected a frozen dataclass with a",
        ),
        ("--loss", "own_parts:with_argument", "missing a required argument: 'factor'"),
        ("--augmentation", "own_parts:number", r"a method build\(data\)"),
    ],
)
def test_a_wrong_part_is_named_with_what_to_do(option, name, message):
    with pytest.raises(UsageError, match=message):
        train_options("my.json", [option, name])


def test_a_run_with_a_loss_of_ones_own_is_opened_by_its_module(tmp_path, capsys):
    data = ["--data.train=tiny_tail:test", "--data.val=tiny_tail:test"]
    arguments = [*data, *SMALL, "--loss=own_parts:loss", "--no-report", f"--run.out={tmp_path / 'run'}"]
    assert main(["train", "tiny_gumbel", *arguments]) == 0
    assert "--module own_parts" in capsys.readouterr().out
    assert main(["test", str(tmp_path / "run")]) == 1
    assert "--module own_parts" in " ".join(capsys.readouterr().err.split())
    assert main(["test", str(tmp_path / "run"), "--module", "own_parts"]) == 0
    assert main(["resume", str(tmp_path / "run")]) == 1
    assert "--module own_parts" in " ".join(capsys.readouterr().err.split())
    assert main(["resume", str(tmp_path / "run"), "--module", "own_parts"]) == 0
    assert "is finished" in capsys.readouterr().out


OPTIONS = ["--optim.lr", "--optim.epochs", "--loss.weight", "--data.train", "--resume"]


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("--optim.lrr", ["--optim.lr"]),
        ("--lr", ["--optim.lr"]),
        ("--loss.wieght", ["--loss.weight"]),
        ("--resum", ["--resume"]),
        ("--xyz", []),
    ],
)
def test_the_nearest_option_is_suggested(word, nearest):
    assert nearest_options(word, OPTIONS) == nearest


def test_values_and_what_follows_two_dashes_are_no_unknown_options():
    assert find_unknown_option(["a", "--optim.lr", "-1", "--data_train", "--", "--nonsense"], ["--optim.lr"]) == (
        "--data_train"
    )
    assert find_unknown_option(["--data.train=x", "--", "--nonsense"], OPTIONS) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "tiny_gumbel", "--optim.lrr", "1"],
            "--optim.lrr is not an option of `tailseg train tiny_gumbel`",
        ),
        (["train", "tiny_gumbel", "--epochs=3"], "did you mean --optim.epochs?"),
        (["train", "tiny_gumbel", "--images=a"], "did you mean --data.train-images or --data.val-images or "),
        (["test", "--devize", "cpu"], "--devize is not an option of `tailseg test`; did you mean --device?"),
        (["eval", "a", "b", "--zzz"], "--zzz is not an option of `tailseg eval`; `tailseg eval --help` lists the opt"),
        (["data", "show", "a", "--imges", "b"], "did you mean --images?"),
        (["submit", "--nods", "2", "--", "tiny_gumbel"], "did you mean --nodes?"),
    ],
)
def test_an_unknown_option_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_wrong_value_is_named_on_a_wide_terminal(capsys, monkeypatch):
    """The help has several columns there, and the options are read from it."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["train", "tiny_gumbel", "--data.train", "a.json", "--optim.clip-norm", "-1"]) == 2
    assert "optim.clip_norm is above 0" in capsys.readouterr().err


def test_a_wrong_value_is_told_once(capsys):
    assert main(["eval", "a", "b", "--classes", "x"]) == 2
    assert capsys.readouterr().err.count("Error parsing --classes") == 1


def test_an_old_option_works_and_says_the_new_name(capsys):
    options = train_options("tiny_gumbel", ["--optim.steps", "5", "--run.start-from=a.pt"])
    assert options.recipe.optim.milestones == (5,)
    assert options.recipe.run.init_from == "a.pt"
    assert "note: --optim.steps is now --optim.milestones" in capsys.readouterr().err


def test_help_lists_the_parts():
    done = subprocess.run(
        [sys.executable, "-m", "tailseg", "train", "--help"], capture_output=True, text=True, check=True
    )
    assert all(option in done.stdout for option in ("--loss", "--optim", "--backbone", "--groups"))


def test_steps_of_the_augmentation_are_added_by_name() -> None:
    assert train_options("tiny_gol", []).recipe.data.paste is None
    data = train_options(
        "tiny_gol", ["--data.paste", "--data.jitter.scale", "0.5", "1.5", "--optim.lr=0.5"]
    ).recipe.data
    assert data.paste == CopyPasteConfig()
    assert data.jitter == JitterConfig(scale=(0.5, 1.5))
    assert data.color is data.crop is None
    data = train_options(
        "tiny_gol", ["--data.color.hue=0.1", "--data.crop", "--data.paste.edge", "blurred"]
    ).recipe.data
    assert data.color == ColorConfig(hue=0.1)
    assert data.crop == CropConfig()
    assert data.paste == CopyPasteConfig(edge="blurred")
    assert data.jitter is None


@pytest.mark.parametrize("order", [1, -1])
def test_copy_paste_takes_the_place_of_kept_maps(order: int) -> None:
    words = ["--data.train=a.json", "--data.no-keep-maps", "--data.paste"][::order]
    data = train_options("custom_frozen", words).recipe.data
    assert data.paste == CopyPasteConfig()
    assert not data.keep_maps


def test_kept_maps_and_copy_paste_are_refused_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "custom_frozen", "--data.train=a.json", "--data.paste"]) == 2
    assert "Leave one of the two out (--data.no-keep-maps)" in " ".join(capsys.readouterr().err.split())


def test_steps_of_a_recipe_are_changed_and_removed() -> None:
    swin = "gol_mask_rcnn_swin_t_rfs_1x"
    assert get_recipe(swin).data.crop == CropConfig()
    assert train_options(swin, ["--data.crop", "--data.crop.least", "200"]).recipe.data.crop == CropConfig(least=200)
    assert train_options(swin, ["--data.no-crop"]).recipe.data.crop is None


def test_optional_parts_of_the_model_are_added_and_removed() -> None:
    plain = train_options("tiny_gol", []).recipe.model
    assert plain.mask.normalized is plain.box.normalized is plain.backbone.se is None
    words = ["--model.mask.normalized.learned", "--model.box.normalized", "--model.backbone.se.gate", "apa"]
    model = train_options("tiny_gol", words).recipe.model
    assert model.mask.normalized == NormalizedConfig(learned=True)
    assert model.box == with_normalized_classifier(plain).box
    assert model.backbone.se == SEConfig(gate="apa")
    swin = "gol_mask_rcnn_swin_t_rfs_1x"
    for words in (
        ["--model.mask.no-normalized"],
        ["--model.mask.normalized", "None"],
        ["--model.mask.normalized=None"],
    ):
        assert get_recipe(swin).model.mask.normalized is not None
        assert train_options(swin, words).recipe.model.mask.normalized is None
    with pytest.raises(UsageError, match="two kinds of classifier"):
        train_options("tiny_gol", ["--model.box.normalized", "--model.box.wrapped-cauchy"])


def test_a_backbone_without_the_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((UsageError, SystemExit)):
        train_options("gol_mask_rcnn_swin_t_rfs_1x", ["--model.backbone.se"])


@pytest.mark.parametrize(
    "option", ["--data.paste.no-such", "--data.pastes", "--data.no-paste.scale", "--data.paste=yes", "--data.no-flip"]
)
def test_options_of_steps_that_do_not_exist(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((UsageError, SystemExit)):
        train_options("tiny_gol", [option])
