"""A saved recipe comes back as it was, and nothing that the file says is taken on trust."""

import json
from dataclasses import dataclass, replace

import pytest

from tailseg.losses import GumbelCEConfig
from tailseg.models import (
    GroupedConfig,
    ModelConfig,
    ResNetConfig,
    SwinConfig,
    TimmConfig,
    cascade_mask_rcnn,
    hybrid_task_cascade,
)
from tailseg.recipes import RECIPES, get_recipe
from tailseg.recipes.saved import from_plain, list_differences, load_recipe, save_recipe, to_plain


@dataclass(frozen=True)
class OwnLossConfig(GumbelCEConfig):
    sharpness: float = 3.0


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_equal(name, tmp_path):
    recipe = get_recipe(name)
    save_recipe(recipe, tmp_path / "recipe.json")
    assert load_recipe(tmp_path / "recipe.json") == recipe
    assert recipe.name == name


def test_changed_settings_of_every_kind_come_back():
    recipe = get_recipe("tiny_gumbel")
    changed = replace(
        recipe,
        data=replace(recipe.data, val=None, short_sides=(96, 128), repeat_threshold=1.0),
        model=replace(recipe.model, mask=None),
        optim=replace(recipe.optim, clip_norm=None, milestones=()),
    )
    saved = json.loads(json.dumps(to_plain(changed)))
    saved["resolved"]["data"]["repeat_threshold"] = 1  # JSON written by hand says 1 for 1.0
    loaded = from_plain(saved)
    assert loaded == changed
    assert isinstance(loaded.data.repeat_threshold, float)


@pytest.mark.parametrize(
    "config",
    [
        cascade_mask_rcnn(),
        hybrid_task_cascade(),
        ModelConfig(backbone=ResNetConfig(depth=101, grouped=GroupedConfig())),
        ModelConfig(backbone=SwinConfig()),
        ModelConfig(backbone=TimmConfig()),
    ],
    ids=["cascade", "htc", "resnext", "swin", "timm"],
)
def test_every_kind_of_model_comes_back(config):
    recipe = replace(get_recipe("tiny_gumbel"), model=config)
    assert from_plain(json.loads(json.dumps(to_plain(recipe)))) == recipe


def test_an_unknown_key_is_an_error_that_names_its_neighbor():
    saved = to_plain(get_recipe("tiny_gumbel"))
    saved["resolved"]["optim"]["warmup_ration"] = 0.1
    with pytest.raises(ValueError, match="no field 'warmup_ration'; did you mean warmup_ratio"):
        from_plain(saved)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("optim", "epochs", "12", "epochs: expected int, got '12'"),
        ("optim", "epochs", True, "epochs: expected int, got True"),
        ("optim", "lr", None, "lr: expected float, got None"),
        ("optim", "steps", [8, 11.5], r"milestones: expected int, got 11\.5"),
        ("run", "precision", "half", "precision: expected .*'float32', 'tf32', 'bfloat16', 'float16'"),
        ("data", "val", 3, "val: expected str, got 3"),
        ("model", "box", [], "box: expected the fields of BoxHeadConfig"),
        ("optim", "lr", 10**400, "lr: expected float, got 1000"),
        ("model", "backbone", {"type": ["ResNetConfig"]}, r"backbone: expected one of .*, got \['ResNetConfig'\]"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_field(section, field, value, message):
    saved = to_plain(get_recipe("tiny_gumbel"))
    saved["resolved"][section][field] = value
    with pytest.raises(ValueError, match=message):
        from_plain(saved)


def test_fields_that_an_older_version_did_not_know_come_from_the_recipe():
    saved = to_plain(get_recipe("tiny_gumbel"))
    del saved["resolved"]["optim"]["clip_norm"], saved["resolved"]["run"]["keep_checkpoints"]
    del saved["resolved"]["model"]["cascade"], saved["resolved"]["model"]["backbone"]["type"]
    assert from_plain(saved) == get_recipe("tiny_gumbel")


def test_a_loss_of_ones_own_is_found_through_ones_own_recipe_or_module_only(monkeypatch):
    own = replace(get_recipe("tiny_gumbel"), name="mine:recipe", loss=OwnLossConfig(sharpness=5.0))
    saved = to_plain(own)
    assert saved["resolved"]["loss"]["type"] == f"{__name__}:OwnLossConfig"
    base = replace(own, loss=OwnLossConfig())
    assert from_plain(saved, base=base) == own
    with monkeypatch.context() as context:
        context.setattr("tailseg.recipes.saved.import_module", pytest.fail)
        with pytest.raises(ValueError, match=r"OwnLossConfig is not part of tailseg.*--module .*module:function"):
            from_plain(saved)
    assert from_plain(saved, modules=(__name__,)) == own


@dataclass(frozen=True)
class CountConfig:
    """A metric of the user's own."""

    most: int = 10

    def build(self):
        return lambda annotations, results: {"count": min(len(results), self.most)}


def test_a_metric_of_ones_own_is_found_through_ones_own_recipe_or_module():
    base = replace(get_recipe("tiny_gumbel"), metrics=(CountConfig(),))
    recipe = replace(base, metrics=(CountConfig(3), CountConfig(5)))
    assert from_plain(to_plain(recipe), base=base) == from_plain(to_plain(recipe), modules=(__name__,)) == recipe
    with pytest.raises(ValueError, match="no code is loaded because a file names it"):
        from_plain(to_plain(recipe), base=replace(base, metrics=()))


def test_an_own_class_that_its_module_does_not_have_is_named():
    own = replace(get_recipe("tiny_gumbel"), loss=OwnLossConfig())
    saved = to_plain(own)
    saved["resolved"]["loss"]["type"] = f"{__name__}:Gone"
    with pytest.raises(ValueError, match="has no dataclass Gone"):
        from_plain(saved, modules=(__name__,))


def test_a_loss_of_ones_own_that_was_saved_without_its_module_is_found_through_the_recipe():
    own = replace(get_recipe("tiny_gumbel"), name="mine:recipe", loss=OwnLossConfig(sharpness=5.0))
    saved = to_plain(own)
    saved["resolved"]["loss"]["type"] = "OwnLossConfig"
    assert from_plain(saved, base=replace(own, loss=OwnLossConfig())) == own
    assert list_differences(own, saved) == []


def test_a_recipe_of_ones_own_with_built_in_parts_needs_no_import():
    own = replace(get_recipe("tiny_gumbel"), name="mine:recipe")
    assert from_plain(to_plain(own)) == own


@pytest.mark.parametrize("text", ["", "[1]", '{"recipe": "tiny_gumbel"}', '{"resolved": {}, "recipe": 3}'])
def test_another_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"recipe\.json"):
        load_recipe(path)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="no recipe at .*run/recipe"):
        load_recipe(tmp_path / "run" / "recipe.json")


def test_differences_name_both_values():
    recipe = get_recipe("tiny_gumbel")
    other = replace(recipe, optim=replace(recipe.optim, lr=0.5), model=replace(recipe.model, mask=None))
    found = list_differences(other, to_plain(recipe))
    assert f"optim.lr: 0.5, saved {recipe.optim.lr}" in found
    assert [line.split(":")[0] for line in found] == ["model.mask", "optim.lr"]


def test_a_setting_that_came_later_had_its_default_in_an_older_run():
    recipe = get_recipe("custom_small")
    saved = json.loads(json.dumps(to_plain(recipe)))
    del saved["resolved"]["data"]["crowds"], saved["resolved"]["data"]["on_problem"]
    assert list_differences(recipe, saved) == []
    changed = replace(recipe, data=replace(recipe.data, crowds="objects"))
    assert list_differences(changed, saved) == ["data.crowds: 'objects', saved 'ignore'"]


def test_a_setting_of_another_class_has_no_default_of_this_one():
    recipe = get_recipe("tiny_gumbel")
    backbone = TimmConfig(name="resnet18", weights="none")
    saved = to_plain(replace(recipe, model=replace(recipe.model, backbone=backbone)))
    assert "model.backbone.depth: 18, saved None" in list_differences(recipe, saved)
