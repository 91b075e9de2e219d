"""The code of the documentation runs as a reader would run it.

These pages have the mark `page tested`; `.ci/blocks.py` explains the marks and runs the other pages.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tailseg.cli.parts import PARTS
from tailseg.recipes import get_recipe
from tailseg.recipes.saved import load_recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNNER = runpy.run_path(str(DOCS.parent / ".ci" / "blocks.py"))


def blocks(page):
    """Returns the blocks of the page in order."""
    return RUNNER["read_blocks"](DOCS / page, own_marks=True)


def run(command, folder):
    """Runs one line of a page; `tailseg` and `python` are this environment's."""
    program, *arguments = command.split()
    start = {"tailseg": [sys.executable, "-m", "tailseg"], "python": [sys.executable]}[program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TAILSEG_HOME": str(folder / "home")}
    done = subprocess.run(
        [*start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
def test_a_loss_of_ones_own_from_the_first_line_to_its_trained_model(tmp_path):
    """All of write-a-loss.md in its order: the files, their tests, training, evaluation, use from Python."""
    printed = []
    for block in blocks("how-to/write-a-loss.md"):
        if block.language == "python":
            name = block.code.split("\n", 1)[0].removeprefix("# ")
            assert name.endswith(".py"), "the first line of a block names its file"
            with (tmp_path / name).open("a") as file:
                file.write(f"{block.code}\n")
            if name == "use.py":
                printed.append(run("python use.py", tmp_path))
            continue
        printed += [run(command, tmp_path) for command in RUNNER["split_commands"](block)]
    assert not [done.stderr for done in printed if "Warning" in done.stderr]
    assert re.search(r"CountedSoftmaxConfig\(.*tau=0\.5\)", printed[-1].stdout)  # the run's setting, not the recipe's
    assert (tmp_path / "runs/mirrored/metrics.json").is_file()


@pytest.mark.parametrize("block", [b for b in blocks("reference/losses.md") if b.language == "python"])
def test_the_references_blocks_run(block):
    exec(block.code, {})


def test_training_from_python(tmp_path, monkeypatch):
    """The callbacks of train-from-python.md on a small data set, with the augmentation of the same page."""
    from dataclasses import replace

    from tailseg import recipes
    from tailseg.data.tiny_tail import generate

    data = generate(tmp_path / "data", preset="test")
    base = recipes.get_recipe("tiny_gumbel")
    files = {"train": str(data / "train.json"), "val": str(data / "val.json"), "workers": 0}
    base = replace(base, data=replace(base.data, **files), run=replace(base.run, out=str(tmp_path / "run")))
    monkeypatch.setattr(recipes, "get_recipe", lambda name: base)
    training, augmentation, _ = blocks("how-to/train-from-python.md")
    names = {}
    exec(augmentation.code, names)
    base = names["recipe"]()
    exec(training.code.replace("StopAtLowLoss(0.5)", "StopAtLowLoss(100.0)"), names)
    assert (tmp_path / "run/metrics.json").is_file()
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("step*")) == ["step_0000002.pt"]


def test_own_parts_on_own_data(tmp_path, monkeypatch, capsys):
    """The commands of own-parts.md in its order, in a folder with the examples, an annotation file and photos."""
    from tailseg.cli import main
    from tailseg.data.tiny_tail import generate

    data = generate(tmp_path / "drawn", preset="test")
    for old, new in (("train.json", "my.json"), ("train", "train"), ("val", "photos")):
        (data / old).rename(tmp_path / new)
    for example in (DOCS.parent / "examples").glob("own_*.py"):
        shutil.copy(example, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_loss", "own_backbone", "poly"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for block in blocks("how-to/own-parts.md"):
        if block.language == "python":
            name = block.code.split("\n", 1)[0].removeprefix("# ")
            assert name != "own_loss.py" or block.code.split("\n", 1)[1].strip() in (tmp_path / name).read_text()
            (tmp_path / name).write_text(block.code)
            continue
        for command in () if block.mark == "skip" else RUNNER["split_commands"](block):
            assert main(command.split()[1:]) == 0, f"{command}\n{capsys.readouterr()}"
    recipe = get_recipe("poly:recipe")
    assert (recipe.loss.epsilon, recipe.data.train, type(recipe.optim).__name__) == (2, "my.json", "AdamWConfig")
    assert load_recipe(tmp_path / "runs/gol/recipe.json").data.groups == (5, 30)


def test_the_built_in_parts_of_the_page_are_all_there_are():
    """own-parts.md lists the short names of losses, backbones and optimizers."""
    lines = (DOCS / "how-to/own-parts.md").read_text().splitlines()
    for option, part in PARTS.items():
        (line,) = [line for line in lines if f"| `{option}` |" in line]
        assert line.split("|")[3].strip() == ", ".join(f"`{name}`" for name in part.names)
