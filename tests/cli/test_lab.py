"""`tailseg lab`: from a run to a ranking, a page and a recipe that trains."""

import json
import shutil
from dataclasses import replace

import pytest

from tailseg.annotations.dataset import with_group_bounds
from tailseg.cli import main
from tailseg.cli.train import train_options
from tailseg.lab.lab import name_recipe
from tailseg.lab.trials import Bench
from tailseg.losses import LOSSES
from tailseg.recipes import get_recipe
from tailseg.recipes.build import build_data


@pytest.fixture(scope="module")
def lab(run, tmp_path_factory):
    """Folder of a small lab, and its command."""
    out = tmp_path_factory.mktemp("lab") / "out"
    options = ["--losses", "gumbel", "softmax", "--seeds=2", "--steps=10", "--best=1", "--directions=32", "--workers=1"]
    command = ["lab", f"--run={run}", f"--out={out}", *options]
    assert main(command) == 0
    return out, command


def test_the_ranking_holds_what_was_tried(lab):
    entries = json.loads((lab[0] / "lab.json").read_text())["lab"]

    names = [entry["name"] for entry in entries]
    assert {"gumbel", "softmax", "gumbel, normalized", "softmax, normalized"} <= set(names)
    assert sum("NorCal 0.6" in name for name in names) == 4  # the recipe's sampling and three others
    assert [entry["gains"] == {} for entry in entries].count(True) == 1
    assert {entry["seeds"] for entry in entries} == {2}
    figures = [entry["figures"]["AP"] for entry in entries]
    assert figures == sorted(figures, reverse=True)


def test_the_page_shows_the_ranking_and_its_limits(lab):
    page = (lab[0] / "lab.html").read_text()

    assert "softmax, normalized" in page
    assert "What this cannot say" in page
    assert f"tailseg train {lab[0] / 'winner.json'}" in page


def test_the_winners_recipe_is_what_train_takes(lab):
    winner = json.loads((lab[0] / "lab.json").read_text())["lab"][0]

    recipe = train_options(str(lab[0] / "winner.json"), ["--optim.epochs", "3"]).recipe

    assert recipe.loss == LOSSES[winner["candidate"]["loss"]]
    assert (recipe.model.box.normalized is not None) == winner["candidate"]["normalized"]
    assert recipe.data.sampling == {"class_aware": "class_aware", "instance_repeat": "instance_repeat"}.get(
        winner["candidate"]["sampling"], "repeat"
    )
    assert recipe.optim.epochs == 3
    assert recipe.run.out == "runs/{name}_lab"


def test_the_winner_starts_from_the_weights_that_the_run_started_from():
    recipe = get_recipe("tiny_gumbel")
    named = name_recipe(replace(recipe, run=replace(recipe.run, init_from="coco")))
    assert named.run.init_from == "coco"


def test_what_was_fitted_is_not_fitted_again(lab, monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError("a fit was repeated")

    monkeypatch.setattr(Bench, "run", refuse)

    assert main(lab[1]) == 0
    assert "The winner: " in capsys.readouterr().out


def test_an_interrupted_lab_names_the_command_that_continues(lab, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tailseg.lab.run_lab", interrupt)

    assert main(lab[1]) == 130
    assert "The same command continues" in capsys.readouterr().err


def test_a_lab_that_continues_has_the_same_figures(lab):
    figures = (lab[0] / "lab.json").read_text()
    (lab[0] / "lab.json").unlink()
    assert main(lab[1]) == 0
    assert (lab[0] / "lab.json").read_text() == figures


def test_features_of_data_that_changed_are_collected_again(lab, tmp_path, monkeypatch, capsys):
    def build_changed(*arguments, **options):
        train, val = build_data(*arguments, **options)
        return train, val.select_images(val.image_ids[1:].tolist())

    def collect(*_, **__):
        raise ValueError("collected again")

    shutil.copytree(lab[0], tmp_path / "out")
    command = [lab[1][0], lab[1][1], f"--out={tmp_path / 'out'}", *lab[1][3:]]
    monkeypatch.setattr("tailseg.lab.lab.collect", collect)
    assert main(command) == 0
    monkeypatch.setattr("tailseg.lab.lab.build_data", build_changed)
    assert main(command) == 1
    assert "collected again" in capsys.readouterr().err
    assert not (tmp_path / "out" / "trials.jsonl").exists()


def test_a_fit_after_a_torn_line_is_kept(lab):
    file = lab[0] / "trials.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-20])
    assert main(lab[1]) == 0
    torn, added = whole[:-20], file.read_text()[len(whole) - 20 :]
    assert file.read_text().startswith(torn)
    assert added.startswith("\n")
    assert all(json.loads(line) for line in added.splitlines()[1:])


def test_the_table_shows_the_figure_that_decides(lab, capsys):
    assert main([*lab[1], "--by", "APc"]) == 0
    assert "in the order of APc" in " ".join(capsys.readouterr().out.split())
    assert '<th class="number">APc to the baseline' in (lab[0] / "lab.html").read_text()
    assert main(lab[1]) == 0


def test_a_figure_that_the_validation_set_does_not_define_is_refused(run, tmp_path, monkeypatch, capsys):
    def build_without_frequent_classes(*arguments, **options):
        train, val = build_data(*arguments, **options)
        return train, with_group_bounds(val, (1, 10**9))

    monkeypatch.setattr("tailseg.lab.lab.build_data", build_without_frequent_classes)

    assert main(["lab", f"--run={run}", f"--out={tmp_path / 'lab'}", "--by", "APf"]) == 1
    text = " ".join(capsys.readouterr().err.split())
    assert "APf cannot decide" in text
    assert "Choose another figure (--by): AP" in text
    assert not (tmp_path / "lab" / "features").exists()


def test_wrong_options_are_refused(run, tmp_path, capsys):
    for arguments, message in (
        ([], "name an annotation file, or a run with --run"),
        (["my.json", f"--run={run}"], "name an annotation file, or a run with --run"),
        ([f"--run={run}", "--val", "val.json"], "--run has its own data and network"),
        ([f"--run={run}", "--losses", "gumble"], "no such loss; did you mean gumbel"),
    ):
        assert main(["lab", *arguments, f"--out={tmp_path}"]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["lab", str(tmp_path / "missing.json"), f"--out={tmp_path}"]) == 1
    assert "missing.json" in capsys.readouterr().err


def test_a_lab_takes_boxes_and_a_validation_set(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("tailseg.lab.train_network", lambda recipe, *_, **__: trained.append(recipe))
    monkeypatch.setattr("tailseg.lab.run_lab", lambda *_, **__: None)
    monkeypatch.setattr("tailseg.cli.lab._tell", lambda *_: None)
    train, val = tmp_path / "train.json", tmp_path / "val.json"
    for file in (train, val):
        file.write_text("{}")
    command = ["lab", str(train), "--boxes-only", "--val", str(val), f"--out={tmp_path / 'out'}"]
    assert main([*command, "--val-images", "photos"]) == 0
    assert trained[0].model.mask is None
    assert (trained[0].data.val, trained[0].data.val_images) == (str(val), "photos")
