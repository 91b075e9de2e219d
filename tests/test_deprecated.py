"""Old names of settings: in Python, in recipe.json files, on the command line."""

import dataclasses
import importlib
import json
from dataclasses import dataclass, replace

import pytest

from tailseg.cli import main
from tailseg.cli.common import parse
from tailseg.cli.train import Train
from tailseg.losses import GumbelCE, GumbelCEConfig
from tailseg.models import BoxHeadConfig, CascadeStageConfig, MaskHeadConfig, ModelConfig, PostprocessConfig
from tailseg.recipes import AdamWConfig, RunConfig, SGDConfig, get_recipe
from tailseg.recipes.old_names import with_new_names, with_new_option
from tailseg.recipes.saved import from_plain, list_differences, to_plain

STAGE = {"target_stds": (0.1, 0.1, 0.2, 0.2), "loss_weight": 1.0}
RENAMED = [
    (SGDConfig, {}, "steps", "milestones", (3,)),
    (AdamWConfig, {}, "steps", "milestones", (3,)),
    (SGDConfig, {}, "average", "ema_decay", 0.9),
    (SGDConfig, {}, "accumulate", "accumulation_steps", 4),
    (BoxHeadConfig, {}, "finest", "finest_scale", 16.0),
    (MaskHeadConfig, {}, "finest", "finest_scale", 24.0),
    (BoxHeadConfig, {}, "iou", "positive_iou", 0.6),
    (CascadeStageConfig, STAGE, "iou", "positive_iou", 0.7),
    (BoxHeadConfig, {}, "low_quality", "allow_low_quality_matches", False),
    (BoxHeadConfig, {}, "normalised", "normalized", None),
    (RunConfig, {}, "start_from", "init_from", "weights.pt"),
    (ModelConfig, {}, "test", "postprocess", PostprocessConfig(max_detections=7)),
]
"""Class, the other settings it needs, old name, new name, a value."""


@pytest.mark.parametrize(("kind", "others", "old", "new", "value"), RENAMED)
def test_an_old_name_of_a_setting_is_taken_with_a_warning(kind, others, old, new, value):
    with pytest.warns(FutureWarning, match=rf"{kind.__name__}\({old}=...\) is now {new}="):
        config = kind(**others, **{old: value})
    assert config == kind(**others, **{new: value})
    with pytest.warns(FutureWarning, match=rf"\.{old} is now {new}"):
        assert getattr(config, old) == value
    with pytest.warns(FutureWarning, match=old):
        assert dataclasses.replace(kind(**others, **{new: getattr(config, new)}), **{old: value}) == config


def test_an_old_name_is_checked_as_the_new_one():
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match=r"optim\.accumulation_steps is 1 or more, got 0"):
        SGDConfig(accumulate=0)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("tailseg.models", "TestConfig", "tailseg.models.PostprocessConfig"),
        ("tailseg.models", "NormalisedConfig", "tailseg.models.NormalizedConfig"),
        ("tailseg.models.config", "TestConfig", "tailseg.models.config.PostprocessConfig"),
        ("tailseg.evaluation", "analyse", "tailseg.evaluation.analyze"),
        ("tailseg.models.optimise", "InferenceConfig", "tailseg.models.optimize.InferenceConfig"),
    ],
)
def test_an_old_name_of_a_class_is_found_with_a_warning(module, old, new):
    home, _, name = new.rpartition(".")
    with pytest.warns(FutureWarning, match=rf"{module}\.{old} is now {new}"):
        found = getattr(importlib.import_module(module), old)
    assert found is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = importlib.import_module(module).Nothing


def test_a_recipe_saved_under_old_names_is_the_same():
    recipe = get_recipe("gol_mask_rcnn_r50_rfs_2x")
    saved = json.loads(json.dumps(to_plain(recipe)))
    resolved = saved["resolved"]
    optim, model, run = resolved["optim"], resolved["model"], resolved["run"]
    for fields, old, new in [
        (optim, "steps", "milestones"),
        (optim, "average", "ema_decay"),
        (optim, "accumulate", "accumulation_steps"),
        (run, "start_from", "init_from"),
        (model, "test", "postprocess"),
        (model["box"], "iou", "positive_iou"),
        (model["box"], "low_quality", "allow_low_quality_matches"),
        (model["mask"], "finest", "finest_scale"),
        (model["mask"], "normalised", "normalized"),
    ]:
        fields[old] = fields.pop(new)
    model["mask"]["normalised"]["type"] = "NormalisedConfig"
    assert from_plain(saved) == recipe
    assert list_differences(recipe, with_new_names(saved)) == []


def test_the_stages_of_a_saved_cascade_are_renamed():
    recipe = get_recipe("tiny_cascade_gumbel")
    saved = json.loads(json.dumps(to_plain(recipe)))
    for stage in saved["resolved"]["model"]["cascade"]["later_stages"]:
        stage["iou"] = stage.pop("positive_iou")
    assert from_plain(saved) == recipe


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--optim.steps", ["--optim.milestones"]),
        ("--optim.steps=6", ["--optim.milestones=6"]),
        ("--model.box.low-quality", ["--model.box.allow-low-quality-matches"]),
        ("--model.box.no-low-quality", ["--model.box.no-allow-low-quality-matches"]),
        ("--model.test.nms-iou=0.4", ["--model.postprocess.nms-iou=0.4"]),
        ("--model.mask.normalised.scale", ["--model.mask.normalized.scale"]),
        ("--model.cascade.later_stages.0.iou", ["--model.cascade.later-stages.0.positive-iou"]),
        ("--run.start-from=w.pt", ["--run.init-from=w.pt"]),
        ("--optim.lr=1", ["--optim.lr=1"]),
        ("--data", ["--data"]),
        ("photo.steps.jpg", ["photo.steps.jpg"]),
    ],
)
def test_an_old_option_becomes_the_new_one(old, new):
    assert with_new_option(old)[0] == new


def test_the_command_line_takes_old_options_and_says_so(capsys, tmp_path):
    absent = str(tmp_path / "absent.json")
    assert main(["train", "custom_small", "--data.train", absent, "--optim.steps", "3", "--optim.average=0.9"]) == 1
    error = capsys.readouterr().err
    assert "note: --optim.steps is now --optim.milestones" in error
    assert "note: --optim.average is now --optim.ema-decay" in error
    assert "absent.json" in error


@dataclass(frozen=True)
class EvenConfig:
    """A loss of the user's own, with a field that once was tailseg's."""

    parity: bool = True

    def build(self, frequency):
        return GumbelCE(frequency)


@dataclass(frozen=True)
class OffsetConfig(GumbelCEConfig):
    """A loss of the user's own that inherits the setting that was renamed."""

    offset: float = 0.5


def test_a_setting_of_ones_own_keeps_a_name_that_was_tailsegs():
    recipe = replace(get_recipe("tiny_gumbel"), loss=EvenConfig(parity=False))
    saved = json.loads(json.dumps(to_plain(recipe)))
    assert from_plain(saved, modules=(__name__,)) == from_plain(saved, base=recipe) == recipe
    assert list_differences(recipe, with_new_names(saved)) == []
    assert with_new_option("--loss.no-parity", recipe) == (["--loss.no-parity"], "")
    assert parse(Train, ["--loss.parity"], command="train", default=Train(recipe)).recipe.loss == EvenConfig()


@pytest.mark.parametrize("kind", [f"{__name__}:OffsetConfig", "OffsetConfig"])
def test_a_setting_that_ones_own_class_inherits_is_renamed(kind):
    recipe = replace(get_recipe("tiny_gumbel"), loss=OffsetConfig(published="2022"))
    saved = json.loads(json.dumps(to_plain(recipe)))
    saved["resolved"]["loss"] = {"type": kind, "init_bias": -2.0, "weight": 1.0, "parity": True, "offset": 0.5}
    assert from_plain(saved, base=recipe) == recipe
    assert list_differences(recipe, with_new_names(saved)) == []
