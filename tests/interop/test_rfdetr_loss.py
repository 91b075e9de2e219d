"""Losses of tailseg in rfdetr's own trainer, with a random network on the CPU."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="needs rfdetr[train] next to tailseg")
pytest.importorskip("rfdetr", reason="needs rfdetr[train] next to tailseg")

from rfdetr.config import RFDETRNanoConfig, RFDETRSegNanoConfig, SegmentationTrainConfig, TrainConfig
from rfdetr.training import RFDETRDataModule, RFDETRModelModule, build_trainer
from rfdetr.utilities.tensors import nested_tensor_from_tensor_list

from tailseg.data.tiny_tail import generate
from tailseg.interop import read_classes
from tailseg.interop.lightning import CLASSIFIERS, RFDETREvaluation, read_frequency, use_loss, use_scores
from tailseg.interop.queries import set_first_bias
from tailseg.losses import EQLv2, GumbelCE, SoftmaxCE, VarifocalLoss

pytestmark = pytest.mark.filterwarnings("ignore")
NUM_CLASSES = 5
SIDE = 64


def build_configs(folder, num_classes=NUM_CLASSES, *, masks=False, **settings):
    model_config = (RFDETRSegNanoConfig if masks else RFDETRNanoConfig)(
        pretrain_weights=None, num_classes=num_classes, resolution=SIDE, patch_size=16, num_windows=2,
        positional_encoding_size=4, hidden_dim=32, sa_nheads=2, ca_nheads=2, num_queries=20, num_select=20,
        group_detr=2, dec_layers=2, device="cpu",
    )  # fmt: skip
    train_config = (SegmentationTrainConfig if masks else TrainConfig)(
        dataset_dir=str(folder), output_dir=str(Path(folder) / "out"), dataset_file="roboflow", epochs=1, batch_size=4,
        grad_accum_steps=1, num_workers=0, tensorboard=False, use_ema=False, accelerator="cpu", multi_scale=False,
        expanded_scales=False, run_test=False, amp_dtype=None, progress_bar=None, **settings,
    )  # fmt: skip
    return model_config, train_config


def build(folder, *, masks=False, **settings):
    """rfdetr's training with the same weights each time."""
    torch.manual_seed(0)
    module = RFDETRModelModule(*build_configs(folder, masks=masks, **settings))
    return module.train()


def make_batch(*, with_masks=False):
    """Two images with two objects and one."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=generator)
    boxes = [torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.65, 0.7, 0.3, 0.4]]), torch.tensor([[0.5, 0.4, 0.6, 0.3]])]
    labels = [torch.tensor([1, 2]), torch.tensor([4])]
    masks = [torch.rand(len(each), SIDE, SIDE, generator=generator) > 0.5 for each in boxes]
    targets = [
        {"boxes": box, "labels": label, "masks": mask} for box, label, mask in zip(boxes, labels, masks, strict=True)
    ]
    if not with_masks:  # rfdetr's matching takes them for a model with masks
        targets = [{key: value for key, value in each.items() if key != "masks"} for each in targets]
    return nested_tensor_from_tensor_list(list(pixels)), targets


def compute(module, targets=None):
    """The loss for a batch, and the gradients of all parameters."""
    samples, own_targets = make_batch(with_masks="masks" in module.criterion.losses)
    torch.manual_seed(1)  # of the points in masks
    parts = module.criterion(module.model(samples, targets or own_targets), targets or own_targets)
    weights = module.criterion.weight_dict
    loss = sum(parts[key] * weights[key] for key in parts if key in weights)
    loss.backward()
    return loss, parts, [parameter.grad for parameter in module.model.parameters()]


@pytest.mark.parametrize("masks", [False, True])
def test_the_model_has_its_own_loss_and_gradients(masks, tmp_path):
    expected, expected_parts, expected_gradients = compute(build(tmp_path, masks=masks))
    module = build(tmp_path, masks=masks)
    use_loss(module, VarifocalLoss(NUM_CLASSES + 1, alpha=1, on_positives="one"), reset_bias=False)
    loss, parts, gradients = compute(module)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert parts.keys() == expected_parts.keys()
    for key, value in expected_parts.items():
        torch.testing.assert_close(parts[key], value, rtol=2e-6, atol=1e-7)
    largest = max(each.abs().max() for each in expected_gradients if each is not None)
    assert largest > 0.1
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-6 * float(largest))


def test_the_gumbel_loss_trains_in_bfloat16(tmp_path):
    module = build(tmp_path)
    use_loss(module, GumbelCE(NUM_CLASSES, background=False), reset_bias=True)
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-4)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            _, parts, gradients = compute(module)
        assert all(each.isfinite().all() for each in gradients if each is not None)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(value.item() for key, value in parts.items() if "loss_ce" in key))
    assert losses[-1] < 0.8 * losses[0], losses


def test_filled_up_targets_cost_what_the_objects_cost(tmp_path):
    """rfdetr can fill the objects of an image up to a fixed number; then its parts are the same."""
    _, targets = make_batch()
    filled = [
        {
            "boxes": torch.cat([each["boxes"], torch.full((3 - len(each["boxes"]), 4), 0.01)]),
            "labels": torch.cat([each["labels"], torch.zeros(3 - len(each["labels"]), dtype=torch.int64)]),
            "valid": torch.arange(3) < len(each["labels"]),
        }
        for each in targets
    ]
    parts = []
    for given in (targets, filled):
        module = build(tmp_path)
        use_loss(module, GumbelCE(NUM_CLASSES, background=False), reset_bias=True)
        parts.append(compute(module, given)[1])
    for key, value in parts[0].items():
        torch.testing.assert_close(parts[1][key], value)


@pytest.mark.parametrize("background", [True, False])
def test_the_scores_and_the_matching_follow_the_link(background, tmp_path):
    module, loss = build(tmp_path), GumbelCE(NUM_CLASSES, background=background)
    set_first_bias(module.model, loss, NUM_CLASSES + 1, CLASSIFIERS)
    samples, targets = make_batch()
    outputs = module.model.eval()(samples)
    use_loss(module, loss, reset_bias=False)
    seen = []
    module.criterion.matcher.register_forward_pre_hook(
        lambda matcher, inputs: seen.append(inputs[0]["pred_logits"].sigmoid())
    )
    module.criterion.eval()(outputs, targets)
    results = module.postprocess(outputs, torch.tensor([[SIDE, SIDE]] * 2))
    raw = outputs["pred_logits"]
    expected = loss.scores(raw[..., : loss.num_logits])
    torch.testing.assert_close(seen[0][..., :-1], expected)
    assert seen[0][..., -1].max() == 0
    for result, scores in zip(results, expected, strict=True):
        torch.testing.assert_close(result["scores"], scores.flatten().sort(descending=True).values[:20])
        assert result["labels"].max() < NUM_CLASSES
    assert not torch.allclose(raw[..., :-1].sigmoid(), expected, atol=0.01)


def test_the_last_output_learns_from_a_logit_of_background_only(tmp_path):
    for background in (True, False):
        module = build(tmp_path)
        use_loss(module, GumbelCE(NUM_CLASSES, background=background), reset_bias=True)
        compute(module)
        gradient = module.model.class_embed.bias.grad
        assert gradient[:-1].abs().min() > 0
        assert (gradient[-1] != 0) == background
        assert module.model.transformer.enc_out_class_embed[1].bias[:5].tolist() == [-2.0] * 5


def test_a_module_is_pickled_and_keeps_the_state_of_its_loss(tmp_path):
    """Lightning starts processes with a pickled module."""
    module = build(tmp_path)
    use_loss(module, EQLv2(NUM_CLASSES, background=False), reset_bias=True)
    compute(module)
    copied = pickle.loads(pickle.dumps(module))
    sums = module.state_dict()["criterion.class_loss.gradient_sums"]
    assert sums.sum() > 0
    assert torch.equal(copied.state_dict()["criterion.class_loss.gradient_sums"], sums)
    compute(copied)
    assert copied.criterion.class_loss.gradient_sums.sum() > sums.sum()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (GumbelCE(7), "has 5 classes and takes a loss with 5 or 6 logits, got GumbelCE of 7 classes"),
        (SoftmaxCE(5), "rfdetr has no output for 'no object' .* which SoftmaxCE cannot"),
    ],
)
def test_what_does_not_fit_is_an_error(loss, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        use_loss(build(tmp_path), loss, reset_bias=True)


def test_a_second_loss_and_a_class_that_the_loss_has_not_are_errors(tmp_path):
    module, loss = build(tmp_path), GumbelCE(NUM_CLASSES, background=False)
    use_loss(module, loss, reset_bias=True)
    with pytest.raises(ValueError, match="has a loss of tailseg already: build an RFDETRModelModule again"):
        use_loss(module, loss, reset_bias=True)
    _, targets = make_batch()
    targets[1]["labels"] += 1  # the last output, which a data set with category ids as labels uses
    with pytest.raises(ValueError, match=r"classes 1 .. 5, and the loss has the classes 0 .. 4"):
        compute(module, targets)


def test_the_frequency_has_no_parent_of_roboflow(tmp_path):
    file = tmp_path / "train.json"
    record = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
    categories = [(0, "things", "none"), (1, "bolt", "things"), (2, "crack", "things")]
    content = {
        "images": [{"id": key, "file_name": f"{key}.jpg", "height": 9, "width": 9} for key in (1, 2)],
        "categories": [{"id": key, "name": name, "supercategory": parent} for key, name, parent in categories],
        "annotations": [
            record | {"id": key, "image_id": image, "category_id": category}
            for key, (image, category) in enumerate([(1, 1), (1, 1), (2, 1), (2, 2)], start=1)
        ],
    }
    file.write_text(json.dumps(content))
    assert read_classes(file)[1].num_classes == 3
    assert read_frequency(file).instance_counts.tolist() == [3, 1]
    assert read_frequency(file).image_counts.tolist() == [2, 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """tiny_tail in Roboflow's layout."""
    folder = tmp_path_factory.mktemp("roboflow")
    drawn = generate(folder / "drawn", preset="test")
    for split, name in (("train", "train"), ("valid", "val")):
        content = json.loads((drawn / f"{name}.json").read_text())
        (folder / split).mkdir()
        for image in content["images"]:
            shutil.copy(drawn / image["file_name"], folder / split)
            image["file_name"] = Path(image["file_name"]).name
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


def test_the_trainer_trains_with_the_loss_and_its_results_have_the_scores(data):
    train_file, val_file = (data / split / "_annotations.coco.json" for split in ("train", "valid"))
    frequency = read_frequency(train_file)
    model_config, train_config = build_configs(data, frequency.num_classes)
    torch.manual_seed(0)
    module = RFDETRModelModule(model_config, train_config)
    loss = GumbelCE(frequency, background=False)
    use_loss(module, loss, reset_bias=True)
    trainer = build_trainer(train_config, model_config)
    evaluation = RFDETREvaluation(val_file, train=train_file)
    trainer.callbacks.append(evaluation)
    before = [parameter.clone() for parameter in module.model.class_embed.parameters()]
    trainer.fit(module, RFDETRDataModule(model_config, train_config))
    assert torch.isfinite(trainer.callback_metrics["train/loss_ce"])
    assert all(
        not torch.equal(old, new) for old, new in zip(before, module.model.class_embed.parameters(), strict=True)
    )
    assert "APr" in evaluation.metrics["bbox"]
    other = RFDETRModelModule(model_config, train_config)
    use_scores(other.postprocess, loss)
    outputs = {"pred_logits": torch.randn(1, 20, frequency.num_classes + 1), "pred_boxes": torch.rand(1, 20, 4)}
    expected = loss.scores(outputs["pred_logits"][..., :-1]).max()
    for postprocess in (module.postprocess, other.postprocess):
        score = postprocess(outputs, torch.tensor([[64, 64]]))[0]["scores"][0]
        torch.testing.assert_close(score, expected)
