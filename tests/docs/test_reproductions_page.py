"""docs/reproductions.md is what the recipes and the ledger say, and its verdicts follow the band."""

import json
import sys
from pathlib import Path

import pytest

from tailseg.recipes import get_recipe
from tailseg.recipes.published import PUBLISHED
from tailseg.recipes.saved import save_recipe

ROOT = Path(__file__).resolve().parents[2]
GOL = "gol_mask_rcnn_r50_rfs_2x"  # published 27.7, rare 21.4, common 27.7, frequent 30.4, boxes 27.5


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reproduce

    yield reproduce
    sys.modules.pop("reproduce")


def entry(recipe=GOL, changed=(), **figures):
    return {
        "recipe": recipe,
        "changed": list(changed),
        "figures": {"AP": 27.9, "APr": 20.0, "APc": 27.1, "APf": 31.1, "APb": 27.5} | figures,
        "seed": 0,
        "precision": "float32",
        "torch": "2.15.0",
        "device": "a GPU",
        "date": "2026-11-29",
        "by": "Ada",
    }


def test_the_page_is_current(reproduce):
    remedy = "docs/reproductions.md is not what the recipes say: run benchmarks/reproduce.py page"
    assert (ROOT / "docs/reproductions.md").read_text() == reproduce.format_page(reproduce.read_ledger()), remedy


def test_every_recipe_is_on_it(reproduce):
    text = reproduce.format_page([])
    assert [name for name in PUBLISHED if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (entry(), "reproduced"),
        (entry(AP=28.2), "reproduced"),
        (entry(AP=28.3), "AP +0.6"),
        (entry(AP=27.1, APr=19.0), "AP -0.6, APr -2.4"),
        (entry(APb=None), "APb not measured"),
        (entry(changed=["optim.epochs: 24, saved 12"]), "other settings"),
        (entry("gumbel_mask_rcnn_r101_random_1x", AP=20.0, APr=4.8), "reproduced"),  # from a plot: 0.1 more
        (entry("tiny_gol"), ""),
    ],
)
def test_the_verdict_follows_the_band(reproduce, measured, verdict):
    measured["figures"] = {name: value for name, value in measured["figures"].items() if value is not None}
    assert reproduce.judge(measured) == verdict


def test_a_measured_run_stands_below_the_published_figures(reproduce):
    text = reproduce.format_page([entry()])
    published, measured = (line for line in text.splitlines() if line.startswith(f"| `{GOL}`"))
    assert "| published | 27.7 | 21.4 |" in published
    assert "| measured | 27.9 | 20.0 | 27.1 | 31.1 | 27.5 | reproduced | 2026-11-29 | a GPU" in measured


def test_the_line_of_a_run_says_which_settings_differ_and_no_path(reproduce, tmp_path):
    save_recipe(get_recipe(GOL), tmp_path / "recipe.json")
    saved = json.loads((tmp_path / "recipe.json").read_text())
    saved["resolved"]["optim"]["epochs"] = 12
    saved["resolved"]["data"]["workers"] = 1
    saved["resolved"]["model"]["backbone"]["weights"] = "/home/ada/r50.pth"
    (tmp_path / "recipe.json").write_text(json.dumps(saved))
    scores = {"segm": {"AP": 0.2771, "APr": 0.2139}, "bbox": {"AP": 0.275}}
    (tmp_path / "metrics.json").write_text(json.dumps({"scores": scores}))
    run = reproduce.read_run(tmp_path, by="Ada")
    assert run["figures"] == {"AP": 27.71, "APr": 21.39, "APb": 27.5}
    assert run["changed"] == ["model.backbone.weights: 'imagenet', saved 'r50.pth'", "optim.epochs: 24, saved 12"]


def test_an_unfinished_run_is_refused(reproduce, tmp_path):
    with pytest.raises(SystemExit, match=r"no metrics.json: let the training end, or run `tailseg test"):
        reproduce.read_run(tmp_path)
