"""Losses in ultralytics' models: sigmoid cross entropy is its own loss to 1e-6, and Gumbel losses train and score."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("ultralytics", reason="needs ultralytics next to tailseg")

from tests.raw_data import RawDataset
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.tasks import DetectionModel, OBBModel, SegmentationModel

from tailseg.interop import read_classes
from tailseg.interop.ultralytics import use_loss
from tailseg.losses import (
    BinaryLoss,
    ClassFrequency,
    DropLoss,
    EqualizedFocalLoss,
    GumbelCE,
    SigmoidCE,
    SoftmaxCE,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

C, SIDE = 3, 64
FREQUENCY = ClassFrequency.from_counts(torch.tensor([900, 40, 3]), torch.tensor([2000, 80, 3]), 1000)
MODELS = {"yolov8n-seg": SegmentationModel, "yolo26n-seg": SegmentationModel, "yolo26n": DetectionModel}


def build(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name](f"{name}.yaml", nc=C, verbose=False)
    model.args = get_cfg()
    return model.train()


def make_batch() -> dict[str, Tensor]:
    """Three images: with two objects, with one, and without any."""
    torch.manual_seed(1)
    masks = torch.zeros(3, SIDE // 4, SIDE // 4)
    masks[0, 2:8, 1:7], masks[0, 8:14, 6:15], masks[1, 4:12, 3:14] = 1, 2, 1
    return {
        "img": torch.rand(3, 3, SIDE, SIDE),
        "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
        "cls": torch.tensor([[0.0], [2.0], [1.0]]),
        "bboxes": torch.tensor([[0.25, 0.31, 0.38, 0.38], [0.66, 0.69, 0.56, 0.38], [0.53, 0.5, 0.69, 0.5]]),
        "masks": masks,
        "sem_masks": torch.zeros(3, SIDE // 4, SIDE // 4),
    }


def compute_loss(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss, parts = model.loss(make_batch())
    loss.sum().backward()
    return loss.detach(), parts


@pytest.mark.parametrize("name", MODELS)
def test_own_loss_is_ultralytics(name: str) -> None:
    """Sigmoid cross entropy: every loss, its gradients in the model's outputs and the detections are ultralytics'."""
    theirs = build(name)
    with torch.no_grad():
        for layer in theirs.model[-1].cv3:  # logits that differ from anchor to anchor
            layer[-1].bias.add_(5)
    outputs = theirs(make_batch()["img"])
    ours = copy.deepcopy(theirs)
    use_loss(ours, SigmoidCE(C), reset_bias=False)

    results = []
    for model in (ours, theirs):
        leaves = make_leaves(outputs)
        loss, parts = model.loss(make_batch(), preds=leaves)
        loss.sum().backward()
        gradients = [leaf.grad for leaf in flatten(leaves) if leaf.grad is not None]
        results.append(([loss.detach(), *parts.values()], gradients))
    (losses, gradients), (their_losses, their_gradients) = results
    assert float(parts["cls_loss"]) > 0
    assert len(gradients) == len(their_gradients) >= 2
    for value, expected in zip(losses + gradients, their_losses + their_gradients, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)

    with torch.no_grad():
        found, reference = (flatten(model.eval()(make_batch()["img"]))[0] for model in (ours, theirs))
    torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-6)


def make_leaves(outputs: Any) -> Any:
    """A copy of a model's outputs whose gradients are kept."""
    if isinstance(outputs, Tensor):
        return outputs.detach().clone().requires_grad_()
    if isinstance(outputs, dict):
        return {name: make_leaves(value) for name, value in outputs.items()}
    return type(outputs)(make_leaves(value) for value in outputs)


def flatten(output: Any) -> list[Tensor]:
    """The tensors of a model's output, detections first."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in flatten(part)]


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_link(name: str) -> None:
    """The best score is the Gumbel probability of its logit."""
    model = build(name)
    use_loss(model, GumbelCE(C, background=False), reset_bias=True)
    head = model.model[-1]
    with torch.no_grad():
        for layers in (head.cv3, getattr(head, "one2one_cv3", None) or ()):
            for layer in layers:
                layer[-1].bias.normal_()
        detections, raw = model.eval()(make_batch()["img"])
    detections = detections[0] if isinstance(detections, tuple) else detections
    best = detections[..., 4].amax(1) if head.end2end else detections[:, 4 : 4 + C].amax((1, 2))
    raw = raw["one2one" if head.end2end else "one2many"] if "one2one" in raw else raw
    logits = raw["scores"]
    torch.testing.assert_close(best, torch.exp(-torch.exp(-logits)).amax((1, 2)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make", [lambda: GumbelCE(FREQUENCY, background=False), lambda: DropLoss(FREQUENCY, tail="rc")]
)
@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo26n-seg"])
def test_gumbel_trains(name: str, make: Any, dtype: torch.dtype) -> None:
    model = build(name)
    use_loss(model, make(), reset_bias=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, parts = model.loss(make_batch())
        history.append(float(parts["cls_loss"]))
        optimizer.zero_grad()
        loss.sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        optimizer.step()
    assert history[-1] < 0.8 * history[0]


def test_state_is_saved_with_the_model() -> None:
    """The gradient sums of the equalized focal loss are in the state dict, and a copy of the model is independent."""
    model = build("yolo26n-seg")
    loss = EqualizedFocalLoss(C)
    use_loss(model, loss, reset_bias=True)
    twin = copy.deepcopy(model)
    compute_loss(twin)
    assert float(loss.gradient_sums.sum()) == 0
    model.load_state_dict(twin.state_dict())
    assert float(loss.gradient_sums.sum()) > 0
    assert torch.equal(model.model[-1].cv3[0][-1].bias, twin.model[-1].cv3[0][-1].bias)


def test_a_training_of_ultralytics(many: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their trainer with the block of the docstring: training, validation, the checkpoint and predictions from it."""
    from PIL import Image
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    Path("train.json").write_text(json.dumps(many))
    categories, frequency = read_classes("train.json")
    for folder in ("images", "labels"):
        Path(folder).mkdir()
    for i in range(4):
        Image.new("RGB", (SIDE, SIDE), (40 * i, 90, 20)).save(f"images/{i}.png")
        Path(f"labels/{i}.txt").write_text("1 0.2 0.2 0.8 0.2 0.8 0.7 0.2 0.7\n")
    names = {label: category.name for label, category in enumerate(categories)}
    Path("data.yaml").write_text(
        json.dumps({"path": str(tmp_path), "train": "images", "val": "images", "names": names})
    )

    class Trainer(SegmentationTrainer):
        def get_model(self, *arguments: Any, **options: Any) -> nn.Module:
            model = super().get_model(*arguments, **options)
            use_loss(model, DropLoss(frequency, tail="rc"), reset_bias=True)
            return model

    options = {"epochs": 1, "imgsz": SIDE, "batch": 2, "workers": 0, "device": "cpu", "plots": False, "amp": False}
    model = YOLO("yolo26n-seg.yaml")
    model.train(data="data.yaml", trainer=Trainer, project=str(tmp_path), name="run", **options)
    trained = YOLO(tmp_path / "run/weights/last.pt")
    assert type(trained.model).__name__ == "LossSegmentationModel"
    assert isinstance(trained.model.model[-1].loss, DropLoss)
    (result,) = trained.predict("images/0.png", conf=0.0, imgsz=SIDE, verbose=False)
    assert 0 <= float(result.boxes.conf.max()) <= 1


def test_class_weights_of_both_are_refused() -> None:
    model = build("yolov8n-seg")
    use_loss(model, SigmoidCE(C), reset_bias=True)
    model.class_weights = torch.ones(C)
    with pytest.raises(ValueError, match="leave cls_pw at 0"):
        compute_loss(model)


@pytest.mark.parametrize("loss", [SoftmaxCE(C), GumbelCE(C)])
def test_background_is_refused(loss: BinaryLoss) -> None:
    with pytest.raises(TypeError, match="4 logits for 3 classes: set background=False"):
        use_loss(build("yolov8n-seg"), loss, reset_bias=True)


def test_other_models_are_refused() -> None:
    """A model of another task, another number of classes, or a second loss."""
    with pytest.raises(TypeError, match="got OBBModel"):
        use_loss(OBBModel("yolo26n-obb.yaml", nc=C, verbose=False), SigmoidCE(C), reset_bias=True)
    model = build("yolov8n-seg")
    with pytest.raises(ValueError, match="the model has 3 classes, and the loss 4"):
        use_loss(model, SigmoidCE(C + 1), reset_bias=True)
    use_loss(model, SigmoidCE(C), reset_bias=True)
    with pytest.raises(ValueError, match="has a loss of tailseg already"):
        use_loss(model, SigmoidCE(C), reset_bias=True)
