"""A run that starts from another one takes what does not depend on classes and losses, and rows of the same name."""

from dataclasses import replace

import pytest
import torch

from tailseg.annotations.dataset import Category
from tailseg.losses import BAGSLossConfig, EQLv2Config, LDAMLossConfig, SeesawLossConfig, SoftmaxCEConfig
from tailseg.losses.sigmoid_ce import SigmoidCEConfig
from tailseg.recipes.build import build_model
from tailseg.recipes.saved import to_plain
from tailseg.structures import ClassFrequency
from tailseg.training.checkpoint import Checkpoint, CheckpointError, Progress, save
from tailseg.training.first_weights import load_initial_weights
from tailseg.training.loop import train_step
from tailseg.training.run import start

from . import small

ZOO = ("cat", "dog", "red_panda", "yak")


def frequency(count):
    counts = torch.arange(1, count + 1) * 3
    return ClassFrequency.from_counts(counts, counts, 60)


def model_of(names, loss=SoftmaxCEConfig(), **changes):  # noqa: B008 (frozen)
    """A model with random weights everywhere, and its classes."""
    recipe = replace(small.recipe(), loss=loss)
    recipe = replace(recipe, model=replace(recipe.model, **changes))
    model = build_model(recipe, frequency(len(names)), load_weights=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return recipe, model, tuple(Category(i + 1, name, "r") for i, name in enumerate(names))


def written(made, tmp_path):
    recipe, model, categories = made
    file = tmp_path / "other.pt"
    content = Checkpoint(to_plain(recipe), categories, frequency(len(categories)), model.state_dict(), {}, Progress())
    save(content, file)
    return file, model.state_dict()


@pytest.mark.parametrize("loss", [SoftmaxCEConfig(), SigmoidCEConfig(), SeesawLossConfig(), BAGSLossConfig()])
def test_rows_go_by_name_and_all_other_layers_as_they_are(loss, tmp_path):
    file, theirs = written(model_of(ZOO, loss), tmp_path)
    _, model, categories = model_of(("Red Panda", "emu", "cat"), loss)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    notes = load_initial_weights(file, model, categories)
    count = f"{file}: 2 of 3 classes of the data set are among its 4 classes and get their weights (Red Panda, cat)"
    assert notes == [f"{count}; the other classes start from random weights"]
    for name, tensor in model.state_dict().items():
        if ".loss." in name:
            continue
        if name.split(".")[-2] not in ("classifier", "regressor", "predictor"):
            assert torch.equal(tensor, theirs[name]), name
            continue
        width = 4 if "regressor" in name else 1
        rows, other, old = (each.split(width) for each in (tensor, theirs[name], before[name]))
        assert torch.equal(rows[0], other[2])
        assert torch.equal(rows[1], old[1])
        assert torch.equal(rows[2], other[0])
        same_rest = len(rows) - 3 == len(other) - 4
        assert all(torch.equal(a, b) for a, b in zip(rows[3:], (other[4:] if same_rest else old[3:]), strict=True))


def test_the_losses_may_differ_and_the_background_moves_where_both_have_one_logit_for_it(tmp_path):
    file, theirs = written(model_of(ZOO), tmp_path)
    for loss in (LDAMLossConfig(), EQLv2Config(), SeesawLossConfig()):
        _, model, categories = model_of(ZOO, loss)
        last = model.state_dict()["box_head.classifier.bias"][4:].clone()
        assert load_initial_weights(file, model, categories) == []
        bias = model.state_dict()["box_head.classifier.bias"]
        assert torch.equal(bias[:4], theirs["box_head.classifier.bias"][:4])
        assert torch.equal(bias[4:], theirs["box_head.classifier.bias"][4:] if len(bias) == 5 else last)


def test_one_box_for_all_classes_is_a_shared_layer(tmp_path):
    agnostic = {"box": replace(small.recipe().model.box, class_agnostic=True)}
    file, theirs = written(model_of(ZOO, **agnostic), tmp_path)
    _, model, categories = model_of(("emu",), **agnostic)
    load_initial_weights(file, model, categories)
    assert torch.equal(model.state_dict()["box_head.regressor.weight"], theirs["box_head.regressor.weight"])
    _, model, categories = model_of(ZOO)
    with pytest.raises(
        CheckpointError, match=r"another network .*box_head\.regressor\.weight is \[4, 32\], expected \[16"
    ):
        load_initial_weights(file, model, categories)


def test_classes_of_one_name_are_told_apart_by_their_ids(tmp_path):
    file, theirs = written(model_of(("bat", "bat", "cat")), tmp_path)
    _, model, categories = model_of(("cat", "bat"))
    load_initial_weights(file, model, categories)  # bat is 2 in both; cat is 3 there and 1 here
    bias = model.state_dict()["box_head.classifier.bias"]
    assert torch.equal(bias[:2], theirs["box_head.classifier.bias"][[2, 1]])


def test_another_network_is_refused_and_named(tmp_path):
    file, _ = written(model_of(ZOO), tmp_path)
    _, model, categories = model_of(ZOO, mask=None)
    with pytest.raises(CheckpointError, match=r"another network \(small:recipe\): mask_head.* expected absent"):
        load_initial_weights(file, model, categories)
    _, model, categories = model_of(ZOO, SigmoidCEConfig())
    with pytest.raises(CheckpointError, match=r"classifier\.weight is \[5, 32\], expected \[4, 32\].*background"):
        load_initial_weights(file, model, categories)
    _, model, categories = model_of(ZOO, box=replace(small.recipe().model.box, hidden=16))
    with pytest.raises(CheckpointError, match=r"box_head\.fc1\.weight is \[32, \d+\], expected \[16"):
        load_initial_weights(file, model, categories)


def test_counts_of_a_loss_belong_to_a_run(data, tmp_path):
    def begun(name, loss, first=None):
        recipe = small.recipe(data, tmp_path / name)
        return start(replace(recipe, loss=loss, run=replace(recipe.run, init_from=first)), resume=False)

    for loss, counts in (
        (LDAMLossConfig(reweight_after=3), "steps"),
        (EQLv2Config(), "gradient_sums"),
        (SeesawLossConfig(), "cum_samples"),
    ):
        old = begun(f"old {counts}", loss)
        old.model.train()
        train_step(old, next(iter(old.loader)))
        new = begun(f"new {counts}", loss, str(old.save()))
        name = f"box_head.loss.{counts}"
        assert old.model.state_dict()[name].count_nonzero() > 0
        assert new.model.state_dict()[name].count_nonzero() == 0
        weight = "box_head.classifier.weight"
        assert torch.equal(new.model.state_dict()[weight], old.model.state_dict()[weight])
