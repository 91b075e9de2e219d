"""`tailseg convert`: a run goes to mmdetection's layout and comes back as a run that predicts and tests the same."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tailseg.cli import main
from tailseg.recipes import RECIPES
from tailseg.recipes.saved import load_recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def small(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run's recipe as a user's own, ``my_recipes:small``, and that with another loss, ``my_recipes:sigmoid``."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "my_recipes.py").write_text(
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from tailseg.losses import SigmoidCEConfig\n"
        "from tailseg.recipes.saved import load_recipe\n"
        f"def small(): return load_recipe(Path({str(run / 'recipe.json')!r}))\n"
        "def sigmoid(): return replace(small(), loss=SigmoidCEConfig())\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "my_recipes", raising=False)
    return "my_recipes:small"


@pytest.fixture
def theirs(run: Path, tmp_path: Path) -> Path:
    """The run's model as mmdetection would keep it."""
    out = tmp_path / "mmdet.pth"
    assert main(["convert", str(run), str(out), "--to", "mmdet"]) == 0
    return out


def train_file(photos: Path) -> str:
    return str(photos.parent / "train.json")


def test_to_mmdet_has_their_names_and_classes(run: Path, theirs: Path) -> None:
    content = torch.load(theirs, weights_only=True)
    assert {key.split(".")[0] for key in content["state_dict"]} == {"backbone", "neck", "rpn_head", "roi_head"}
    assert content["meta"]["CLASSES"] == content["meta"]["dataset_meta"]["classes"]
    assert "roi_head.bbox_head.fc_cls.weight" in content["state_dict"]


def test_there_and_back_predicts_and_tests_the_same(
    run: Path, theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back = tmp_path / "back"
    assert main(["convert", str(theirs), str(back), "--recipe", small, "--classes", train_file(photos)]) == 0
    assert "every key accounted for" in capsys.readouterr().out
    assert load_recipe(back / "recipe.json") == load_recipe(run / "recipe.json")
    image = str(min(photos.iterdir()))
    found = {}
    for folder in (run, back):
        out = tmp_path / f"found_{folder.name}"
        assert main(["predict", str(folder), image, "--out", str(out), "--score-threshold", "0", "--no-pictures"]) == 0
        found[folder] = json.loads((out / "results.json").read_text())
    assert found[run] == found[back]
    assert found[run]
    assert main(["test", str(back)]) == 0
    assert (back / "results.json").read_text() == (run / "results.json").read_text()
    ours, again = (json.loads((folder / "metrics.json").read_text()) for folder in (run, back))
    assert again == {**ours, "notes": again["notes"]}  # the run's notes may have advice about its training


def test_one_file_is_enough_for_predict_and_test(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the training set, and with the results beside the file."""
    file = tmp_path / "alone" / "x.safetensors"
    assert main(["convert", str(theirs), str(file), "--recipe", small, "--classes", train_file(photos)]) == 0
    assert [path.name for path in file.parent.iterdir()] == ["x.safetensors"]
    moved = shutil.copytree(photos.parent, tmp_path / "data")
    (moved / "train.json").unlink()
    assert main(["test", str(file), "--val", str(moved / "val.json")]) == 0
    assert "APr" in capsys.readouterr().out
    assert (file.parent / "metrics.json").is_file()


def test_training_starts_from_a_converted_file(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "start.safetensors"
    assert main(["convert", str(theirs), str(file), "--recipe", small, "--classes", train_file(photos)]) == 0
    out = tmp_path / "trained"
    assert main(["train", small, f"--run.init-from={file}", f"--run.out={out}", "--optim.lr=0"]) == 0
    back = tmp_path / "again.pth"
    assert main(["convert", str(out), str(back), "--to", "mmdet"]) == 0
    first, again = (torch.load(path, weights_only=True)["state_dict"] for path in (theirs, back))
    assert all(torch.equal(first[key], again[key]) for key in first if "num_batches_tracked" not in key)


def test_training_refuses_weights_of_another_network(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "start.safetensors"
    assert main(["convert", str(theirs), str(file), "--recipe", small, "--classes", train_file(photos)]) == 0
    options = [f"--run.init-from={file}", f"--run.out={tmp_path / 'trained'}"]
    assert main(["train", "my_recipes:sigmoid", *options]) == 1
    assert "holds the weights of another network" in capsys.readouterr().err


def test_another_loss_is_refused(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--recipe", "my_recipes:sigmoid", "--classes", train_file(photos)]
    assert main(["convert", str(theirs), str(out), *options]) == 1
    assert "Choose the recipe of the loss" in capsys.readouterr().err
    assert not out.exists()


def test_the_copies_of_the_ema_hook_are_a_choice(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(theirs, weights_only=True)
    key = "roi_head.bbox_head.fc_cls.bias"
    content["state_dict"][f"ema_{key.replace('.', '_')}"] = content["state_dict"][key] + 1
    file = tmp_path / "ema.pth"
    torch.save(content, file)
    biases = []
    for source, options in [(theirs, []), (file, []), (file, ["--ema"])]:
        out = tmp_path / f"{len(biases)}.safetensors"
        command = ["convert", str(source), str(out), "--recipe", small, "--classes", train_file(photos), *options]
        assert main(command) == 0
        message = " ".join(capsys.readouterr().out.split())
        assert ("note: 1 tensor with a second copy named ema_..." in message) == (source == file)
        assert ("(--ema takes them)" in message) == (source == file and not options)
        biases.append(load_file(out)["box_head.classifier.bias"])
    assert torch.equal(biases[0], biases[1])
    assert torch.equal(biases[0] + 1, biases[2])
    assert main(["convert", str(theirs), *command[2:]]) == 1
    assert "has no weights of mmcv 1's EMAHook" in capsys.readouterr().err


def test_classes_in_another_order_are_refused(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(Path(train_file(photos)).read_text())
    a, b, *_ = content["categories"]
    a["name"], b["name"] = b["name"], a["name"]
    (tmp_path / "other.json").write_text(json.dumps(content))
    options = ["--recipe", small, "--classes", str(tmp_path / "other.json")]
    assert main(["convert", str(theirs), str(tmp_path / "out"), *options]) == 1
    assert "classes in another order" in capsys.readouterr().err


def test_a_trained_run_is_not_overwritten(
    run: Path, theirs: Path, small: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(theirs), str(run), "--recipe", small, "--classes", train_file(photos)]) == 2
    assert "has a trained run already" in capsys.readouterr().err


def test_a_file_is_not_written_over_itself(
    run: Path, theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.safetensors"
    options = ["--recipe", small, "--classes", train_file(photos)]
    assert main(["convert", str(theirs), str(file), *options]) == 0
    content = file.read_bytes()
    assert main(["convert", str(file), str(tmp_path / "." / "x.safetensors"), "--to", "mmdet"]) == 2
    assert "the command would write over its own input" in capsys.readouterr().err
    assert file.read_bytes() == content


def test_a_file_in_the_place_of_the_folder(
    theirs: Path, small: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").write_text("mine")
    options = ["--recipe", small, "--classes", train_file(photos)]
    assert main(["convert", str(theirs), str(tmp_path / "out"), *options]) == 2
    assert "out is a file, but the command needs a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_the_how_to_guide_runs_as_it_stands(
    run: Path, theirs: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/how-to/convert.md from a folder with the files that it names; its torchvision part needs a large network."""
    here = tmp_path / "here"
    shutil.copytree(photos, here / "val2017")
    shutil.copytree(photos, here / "photos")
    shutil.copytree(run, here / "runs" / "mine")
    shutil.copy(theirs, here / "epoch_24.pth")
    shutil.copy(min(photos.iterdir()), here / "photo.jpg")
    for name in ("train", "val"):
        shutil.copy(photos.parent / f"{name}.json", here / f"lvis_v1_{name}.json")
    (here / "my_recipes.py").write_text(
        "from pathlib import Path\nfrom tailseg.recipes.saved import load_recipe\n"
        f"def small(): return load_recipe(Path({str(run / 'recipe.json')!r}))\n"
    )
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "my_recipes", raising=False)
    commands = re.findall(r"^tailseg (.*)$", (DOCS / "how-to" / "convert.md").read_text(), re.MULTILINE)
    small_enough = [command for command in commands if not re.search(r"custom_r50|model_final\.pkl", command)]
    assert len(small_enough) == 9
    for command in small_enough:
        assert main(command.replace("gol_mask_rcnn_r50_rfs_2x", "my_recipes:small").split()) == 0, command
    assert (here / "runs" / "gol" / "metrics.json").is_file()
    assert (here / "mine.pth").is_file()
    assert (here / "runs" / "trash" / "predictions" / "results.json").is_file()


def test_called_wrongly(tmp_path: Path, theirs: Path, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    for arguments, code, message in (
        ([str(theirs), out], 2, "name the recipe"),
        ([str(theirs), out, "--recipe", "nothing"], 2, "no recipe is called"),
        ([str(theirs), out, "--recipe", small, "--classes", "absent.json"], 2, "absent.json does not exist"),
        ([str(theirs), out, "--recipe", small, "--to", "mmdet"], 2, "Leave these options out"),
        (["absent.pth", out, "--recipe", small, "--classes", __file__], 1, "absent.pth does not exist"),
        ([str(theirs), f"{out}.pth", "--recipe", small, "--classes", __file__], 1, "into a folder"),
        ([str(theirs), out, "--recipe", small, "--classes", __file__], 1, "is not JSON"),
        ([str(tmp_path), f"{out}.pth", "--to", "mmdet"], 1, "no run in"),
        ([str(theirs), f"{out}.txt", "--to", "mmdet"], 1, "written to a .pth or .safetensors"),
    ):
        assert main(["convert", *arguments]) == code
        assert message in capsys.readouterr().err


def test_the_recipes_own_training_set_names_the_classes(
    theirs: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--recipe", "gumbel_mask_rcnn_r50_random_1x"]
    assert main(["convert", str(theirs), "out", *options]) == 2
    assert "lvis_v1_train.json does not exist. Name the annotation file" in capsys.readouterr().err
    shutil.copy(train_file(photos), "lvis_v1_train.json")
    assert main(["convert", str(theirs), "out", *options]) == 1
    assert "does not fit MaskRCNN on ResNet-50" in capsys.readouterr().err


def test_the_recipes_own_training_set_is_found_where_training_finds_it(
    theirs: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where ``TAILSEG_DATA`` says, and for the embedded data set, which is no file."""
    (tmp_path / "data").mkdir()
    shutil.copy(train_file(photos), tmp_path / "data" / "lvis_v1_train.json")
    monkeypatch.setenv("TAILSEG_DATA", str(tmp_path / "data"))
    assert main(["convert", str(theirs), str(tmp_path / "out"), "--recipe", "gumbel_mask_rcnn_r50_random_1x"]) == 1
    assert "does not fit MaskRCNN on ResNet-50" in capsys.readouterr().err
    recipe = RECIPES["tiny_gumbel"]()
    recipe = replace(recipe, data=replace(recipe.data, train="tiny_tail:test"))  # drawing tiny_tail takes a minute
    monkeypatch.setitem(RECIPES, "tiny_gumbel", lambda: recipe)
    assert main(["convert", str(theirs), str(tmp_path / "out"), "--recipe", "tiny_gumbel"]) == 1
    assert "does not fit MaskRCNN on ResNet-18" in capsys.readouterr().err
    assert main(["convert", str(theirs), str(tmp_path / "out"), "--recipe", "custom_r50"]) == 2
    assert "custom_r50 names no training set" in capsys.readouterr().err
