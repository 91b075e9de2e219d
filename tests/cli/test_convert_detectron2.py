"""`tailseg convert` and `--init-from` with files as detectron2 and torchvision write them."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.parity import detectron2 as theirs

from tailseg.annotations.dataset import Category
from tailseg.cli import main
from tailseg.interop import prepare_initial_weights
from tailseg.losses import SeesawLossConfig
from tailseg.recipes import get_recipe
from tailseg.recipes.build import build_model
from tailseg.recipes.saved import load_recipe
from tailseg.structures import ClassFrequency
from tailseg.training.first_weights import load_initial_weights


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe of the size of `theirs`, ``my_recipes:small``."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_recipes.py").write_text(
        "from tests.parity.test_detectron2 import CONFIG\n"
        "from dataclasses import replace\n"
        "from tailseg.losses import SoftmaxCEConfig\n"
        "from tailseg.recipes import get_recipe\n"
        "def small():\n"
        "    r = get_recipe('custom_r50')\n"
        "    data = replace(r.data, short_sides=(64,), test_short_side=64, workers=0, batch_size=8)\n"
        "    optim = replace(r.optim, epochs=1, milestones=(), lr=0.0)\n"
        "    return replace(r, name='small', model=CONFIG, loss=SoftmaxCEConfig(), data=data, optim=optim)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.delitem(__import__("sys").modules, "my_recipes", raising=False)
    return "my_recipes:small"


@pytest.fixture
def zoo(photos: Path, tmp_path: Path) -> Path:
    """``model_final.pkl`` for the classes of the embedded data set."""
    classes = len(json.loads((photos.parent / "train.json").read_text())["categories"])
    file = tmp_path / "model_final.pkl"
    file.write_bytes(pickle.dumps(theirs.to_pickle(theirs.make_state(classes=classes)), protocol=4))
    return file


def test_a_file_of_the_zoo_becomes_a_run_and_goes_back(
    zoo: Path, recipe: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, classes = tmp_path / "run", str(photos.parent / "train.json")
    settings = ["--input-format", "BGR", "--pixel-std", "1", "1", "1", "--stride-in-1x1", "True"]
    assert main(["convert", str(zoo), str(out), "--recipe", recipe, "--classes", classes, *settings]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "INPUT.FORMAT BGR, PIXEL_STD [1, 1, 1], STRIDE_IN_1X1 True" in text
    assert "every key accounted for" in text
    assert load_recipe(out / "recipe.json").model.backbone.stride_in_1x1
    image = str(min(photos.iterdir()))
    assert main(["predict", str(out), image, "--score-threshold", "0", "--no-pictures"]) == 0
    back = tmp_path / "model_final.pth"
    assert main(["convert", str(out), str(back), "--to", "detectron2"]) == 0
    assert "RESNETS.STRIDE_IN_1X1 True" in " ".join(capsys.readouterr().out.split())
    model, original = torch.load(back, weights_only=True)["model"], pickle.loads(zoo.read_bytes())["model"]
    assert model.keys() == original.keys()
    for key, tensor in model.items():
        torch.testing.assert_close(tensor, torch.from_numpy(original[key]), rtol=1e-6, atol=1e-7)
    assert main(["convert", str(out), str(tmp_path / "x.pth"), "--to", "torchvision"]) == 1
    assert "strides in the 3x3 convolutions" in capsys.readouterr().err


def test_init_from_takes_a_file_of_detectron2(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has COCO's classes. The training has others, and a loss with two logits of no class."""
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "cache"))
    state = theirs.make_state(classes=80)
    state["pixel_mean"], state["pixel_std"] = torch.tensor(theirs.MEAN).view(3, 1, 1), torch.ones(3, 1, 1)
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_0009.pth")
    mine = replace(get_recipe(recipe), loss=SeesawLossConfig())
    mine = replace(mine, run=replace(mine.run, init_from=str(tmp_path / "model_0009.pth")))
    prepared, notes = prepare_initial_weights(mine)
    assert "PIXEL_STD [1, 1, 1], STRIDE_IN_1X1 True" in notes[0]
    assert prepared.model.backbone.stride_in_1x1
    counts = torch.tensor([3, 2])
    model = build_model(prepared, ClassFrequency.from_counts(counts, counts, 9), load_weights=False)
    initial = model.box_head.classifier.weight.detach().clone()
    names = [Category(1, "zebra", "r"), Category(2, "gargoyle", "r")]
    load_initial_weights(Path(prepared.run.init_from), model, names)
    assert torch.equal(model.fpn.lateral[0].weight, state["backbone.fpn_lateral2.weight"])
    rows = state["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(model.box_head.classifier.weight[0], rows[22])  # the zebra is COCO's 23rd class
    assert torch.equal(model.box_head.classifier.weight[1:], initial[1:])


def test_classes_in_another_number_are_refused(
    zoo: Path, recipe: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((photos.parent / "train.json").read_text())
    content["categories"].append({"id": 999, "name": "one more", "frequency": "r"})
    (tmp_path / "other.json").write_text(json.dumps(content))
    options = ["--recipe", recipe, "--classes", str(tmp_path / "other.json")]
    assert main(["convert", str(zoo), str(tmp_path / "out"), *options]) == 1
    classes = len(content["categories"])
    assert f"(detectron2) has {classes - 1} classes, expected {classes}" in " ".join(capsys.readouterr().err.split())


def test_another_backbone_is_refused(
    zoo: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", "custom_frozen", "--classes", str(photos.parent / "train.json")]
    assert main(["convert", str(zoo), str(tmp_path / "out"), *options]) == 1
    assert "tailseg reads ResNet and ResNeXt, and the recipe has timm's" in " ".join(capsys.readouterr().err.split())
