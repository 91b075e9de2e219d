"""Initial weights by one name: what a training takes from ``coco``, a foreign file, a run or a checkpoint."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from tests.training import small
from torchvision.models import WeightsEnum

from tailseg.annotations.dataset import Category
from tailseg.interop import prepare_initial_weights, to_mmdet, write_torch_file
from tailseg.interop.torchvision_weights import get_coco_names
from tailseg.losses import GumbelCEConfig, SeesawLossConfig
from tailseg.losses.sigmoid_ce import SigmoidCEConfig
from tailseg.recipes import get_recipe
from tailseg.recipes.build import build_model
from tailseg.recipes.saved import to_plain
from tailseg.structures import ClassFrequency
from tailseg.training.checkpoint import Checkpoint, CheckpointError, Progress, load, save
from tailseg.training.first_weights import load_initial_weights

FILE = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
COCO = [name for name in get_coco_names()[1:] if name != "N/A"]
MINE = ("zebra", "gargoyle", "Traffic_Light", "person")


def make_model(loss, names):
    """The small network with random weights everywhere."""
    recipe = replace(small.recipe(), loss=loss)
    counts = torch.full((len(names),), 9)
    model = build_model(recipe, ClassFrequency.from_counts(counts, counts, 90), load_weights=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return recipe, model


def to_torchvision(state):
    """The names and rows of torchvision, written down by hand: background first, rows for unused labels."""
    names = {
        r"^backbone\.": "backbone.body.",
        r"^fpn\.lateral\.(\d)": r"backbone.fpn.inner_blocks.\1.0",
        r"^fpn\.output\.(\d)": r"backbone.fpn.layer_blocks.\1.0",
        r"^rpn\.conv": "rpn.head.conv.0.0",
        r"^rpn\.objectness": "rpn.head.cls_logits",
        r"^rpn\.box_deltas": "rpn.head.bbox_pred",
        r"^box_head\.fc1": "roi_heads.box_head.fc6",
        r"^box_head\.fc2": "roi_heads.box_head.fc7",
        r"^box_head\.classifier": "roi_heads.box_predictor.cls_score",
        r"^box_head\.regressor": "roi_heads.box_predictor.bbox_pred",
        r"^mask_head\.convs\.(\d)": r"roi_heads.mask_head.\1.0",
        r"^mask_head\.upsample": "roi_heads.mask_predictor.conv5_mask",
        r"^mask_head\.predictor": "roi_heads.mask_predictor.mask_fcn_logits",
    }
    labels = [label for label, name in enumerate(get_coco_names()) if label and name != "N/A"]
    theirs = {}
    for name, tensor in state.items():
        if ".loss." in name:
            continue
        width = {"classifier": 1, "regressor": 4, "predictor": 1}.get(name.split(".")[-2])
        if width:
            rows = torch.zeros(91 * width, *tensor.shape[1:])
            for label, row in zip(labels, tensor[: 80 * width].split(width), strict=True):
                rows[label * width : (label + 1) * width] = row
            if len(tensor) == 81:
                rows[0] = tensor[80]
            tensor = rows
        for ours, other in names.items():
            name = re.sub(ours, other, name)
        theirs[name] = tensor
    return theirs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "cache" / "initial"


@pytest.fixture
def theirs(tmp_path):
    """A file as torchvision publishes it, and the state that it was made of."""
    recipe, model = make_model(GumbelCEConfig(), COCO)
    torch.save(to_torchvision(model.state_dict()), tmp_path / FILE)
    return tmp_path / FILE, recipe, model.state_dict()


def from_file(recipe, name):
    return prepare_initial_weights(replace(recipe, run=replace(recipe.run, init_from=str(name))))


def start_mine(recipe, file):
    """A model for my classes with the weights of a prepared file, and the notes."""
    _, model = make_model(recipe.loss, MINE)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    notes = load_initial_weights(file, model, [Category(i, name, "r") for i, name in enumerate(MINE)])
    return before, model.state_dict(), notes


def assert_rows_by_name(before, after, source):
    where = [COCO.index("zebra"), None, COCO.index("traffic light"), COCO.index("person")]
    for name in ("box_head.classifier.weight", "box_head.regressor.weight", "mask_head.predictor.weight"):
        width = 4 if "regressor" in name else 1
        for label, other in enumerate(where):
            row = before[name] if other is None else source[name]
            other = label if other is None else other
            mine = after[name][label * width : (label + 1) * width]
            assert torch.equal(mine, row[other * width : (other + 1) * width]), (name, label)


@pytest.mark.parametrize("name", ["coco", "file"])
def test_torchvisions_file_gives_all_layers_and_the_rows_of_classes_with_the_same_name(
    name, theirs, cache, tmp_path, monkeypatch
):
    file, recipe, source = theirs
    if name == "coco":
        monkeypatch.setattr("tailseg.interop.initial.explain_misfit", lambda _: "")
        hub = tmp_path / "hub" / "checkpoints"
        hub.mkdir(parents=True)
        file = file.rename(hub / FILE)
    prepared, notes = from_file(recipe, "coco" if name == "coco" else file)
    (converted,) = cache.iterdir()
    assert prepared.run.init_from == str(converted)
    assert notes == [f"{file} was converted to {converted}"]
    before, after, said = start_mine(recipe, converted)
    assert "3 of 4 classes of the data set are among its 80 classes" in said[0]
    assert torch.equal(after["backbone.conv1.weight"], source["backbone.conv1.weight"])
    assert torch.equal(after["rpn.conv.weight"], source["rpn.conv.weight"])
    assert_rows_by_name(before, after, source)
    assert torch.equal(after["box_head.classifier.bias"][4], source["box_head.classifier.bias"][80])
    assert prepare_initial_weights(prepared) == (prepared, [])  # it is tailseg's own now
    assert from_file(recipe, "coco" if name == "coco" else file) == (prepared, [])  # and it is not converted again


@pytest.mark.parametrize(("loss", "logits"), [(SigmoidCEConfig(), 4), (GumbelCEConfig(), 5), (SeesawLossConfig(), 6)])
@pytest.mark.parametrize("named", [True, False])
def test_mmdetections_file_serves_other_losses(loss, logits, named, tmp_path, theirs):
    """The file has a softmax's logits; only as many rows of no class are copied as both have."""
    _, recipe, source = theirs
    file = tmp_path / "mmdet.pth"
    state = to_mmdet(source).state
    if named:
        write_torch_file(file, state, COCO)
    else:
        torch.save({"state_dict": state}, file)
    recipe = replace(recipe, loss=loss)
    prepared, _ = from_file(recipe, file)
    before, after, _ = start_mine(recipe, load_path(prepared))
    assert len(after["box_head.classifier.bias"]) == logits
    assert_rows_by_name(before, after, source)


def load_path(recipe):
    return Path(recipe.run.init_from)


def test_a_file_without_classes_says_how_to_convert_it(tmp_path):
    recipe, model = make_model(GumbelCEConfig(), MINE)
    torch.save({"state_dict": to_mmdet(model.state_dict()).state}, tmp_path / "mmdet.pth")
    with pytest.raises(CheckpointError, match=r"does not name its classes.*tailseg convert .*--classes TRAIN\.json"):
        from_file(recipe, tmp_path / "mmdet.pth")


def test_a_checkpoint_stays_and_a_run_is_its_best_checkpoint(tmp_path):
    recipe, model = make_model(GumbelCEConfig(), MINE)
    categories = tuple(Category(i, name, "r") for i, name in enumerate(MINE))
    counts = torch.full((4,), 9)
    frequency = ClassFrequency.from_counts(counts, counts, 90)
    content = Checkpoint(to_plain(recipe), categories, frequency, model.state_dict(), {}, Progress())
    for name in ("best.pt", "step_0000005.pt"):
        save(content, tmp_path / "run" / "checkpoints" / name)
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    for name in (tmp_path / "run", best):
        prepared, notes = from_file(recipe, name)
        assert (prepared.run.init_from, notes) == (str(best), [])
    assert prepare_initial_weights(recipe) == (recipe, [])


def test_files_that_do_not_fit_are_explained(theirs, tmp_path):
    file, recipe, _ = theirs
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent\.pth: --init-from takes coco, imagenet"):
        from_file(recipe, tmp_path / "absent.pth")
    (tmp_path / "torn.pth").write_bytes(file.read_bytes()[:500])  # a download that was interrupted
    with pytest.raises(CheckpointError, match="truncated.*expected .safetensors") as caught:
        from_file(recipe, tmp_path / "torn.pth")
    assert not getattr(caught.value, "__notes__", [])  # nothing about earlier checkpoints of a run
    wide = replace(recipe, model=replace(recipe.model, fpn=replace(recipe.model.fpn, channels=24)))
    with pytest.raises(CheckpointError, match=r"expected \[24.*--init-from needs the network of the file"):
        from_file(wide, file)
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"a backbone alone, use --model\.backbone\.weights .*resnet\.pth"):
        from_file(recipe, tmp_path / "resnet.pth")
    torch.save({"box_head.fc1.weight": torch.zeros(3)}, tmp_path / "ours.pt")  # tailseg's names alone
    with pytest.raises(CheckpointError, match="is not a tailseg checkpoint"):
        from_file(recipe, tmp_path / "ours.pt")


@pytest.mark.parametrize(("boxes", "name"), [(False, FILE), (True, "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")])
def test_without_a_network_the_file_and_its_address_are_named(boxes, name, tmp_path, monkeypatch):
    def fail(*_, **options):
        assert options["weights_only"]
        assert options["check_hash"]
        raise URLError("no route")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    recipe = get_recipe("custom_r50")
    recipe = replace(recipe, model=replace(recipe.model, mask=None)) if boxes else recipe
    with pytest.raises(CheckpointError) as caught:
        from_file(recipe, "coco")
    text = str(caught.value)
    assert f"https://download.pytorch.org/models/{name}" in text
    assert f"put it into {tmp_path / 'hub' / 'checkpoints'}, or name it: --init-from {name}" in text


def test_coco_is_refused_for_another_network_before_it_is_downloaded():
    with pytest.raises(CheckpointError, match=r"custom_small has another network .*Use the recipe custom_r50"):
        from_file(get_recipe("custom_small"), "coco")


def test_a_prepared_file_is_a_checkpoint_with_cocos_classes(theirs):
    file, recipe, _ = theirs
    saved = load(load_path(from_file(recipe, file)[0]))
    assert [category.name for category in saved.categories] == COCO
    assert (saved.categories[0].id, saved.categories[-1].id) == (1, 90)
