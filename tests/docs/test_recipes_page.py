"""docs/recipes.md is what the recipes say today, and its commands are understood."""

import runpy
import shlex
from pathlib import Path

import pytest

from tailseg.cli.train import train_options
from tailseg.recipes import RECIPES, get_recipe

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "write_recipes.py"))


def test_the_page_is_current():
    remedy = "docs/recipes.md is not what the recipes say: run tools/write_recipes.py"
    assert (ROOT / "docs" / "recipes.md").read_text() == TOOL["format_page"](), remedy


def test_every_recipe_is_on_it():
    text = TOOL["format_page"]()
    assert [name for name in RECIPES if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("devices", TOOL["DEVICES"])
def test_the_command_for_some_devices_gives_each_its_images(devices):
    command, images = TOOL["DEVICES"][devices]
    words = shlex.split(command)
    name, *options = words[words.index("train") + 1 :]
    parsed = train_options(name, options)
    recipe = parsed.recipe
    assert parsed.devices == devices
    assert recipe.data.batch_size == get_recipe(name).data.batch_size == 16
    assert recipe.data.batch_size == devices * recipe.optim.accumulation_steps * images


@pytest.mark.parametrize("row", TOOL["DEFECTS"], ids=range(1, 20))
def test_the_settings_against_defects_are_understood(row):
    """Every `--option` of the table, on a recipe that has it."""
    for text in row:
        for option in (part for part in text.split("`") if part.startswith("--")):
            options = shlex.split(option)
            train_options("gol_mask_rcnn_r50_rfs_2x", options)
