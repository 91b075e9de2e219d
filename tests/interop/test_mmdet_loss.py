"""Losses in mmdetection's heads: its own losses to 1e-6, and Gumbel losses train and score.

mmcv's compiled operations are not needed for this (pooling and NMS are not tested), and are missing where mmcv was
installed without a compiler: then placeholders that raise take their place.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="needs mmdetection next to tailseg")

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

C = 3


class Placeholders(ModuleType):
    """Has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"mmcv was installed without {name}")

        return missing


try:
    importlib.import_module("mmcv._ext")
except ImportError:
    sys.modules["mmcv._ext"] = Placeholders("mmcv._ext")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    importlib.import_module("mmdet.models")

import mmdet  # noqa: E402
from mmdet.models.dense_heads import FCOSHead, RetinaHead  # noqa: E402
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from tests.raw_data import RawDataset  # noqa: E402

from tailseg.interop.mmdet import TailsegFirstBiasHook, TailsegLoss, set_first_bias  # noqa: E402
from tailseg.losses import LOSSES  # noqa: E402


@pytest.fixture
def file(raw: RawDataset, tmp_path: Path) -> str:
    """An annotation file of C classes."""
    path = tmp_path / "train.json"
    ids = [1, 4, 9]
    categories = [
        {"id": key, "name": f"class {key}", "frequency": group} for key, group in zip(ids, "fcr", strict=True)
    ]
    annotations = [one | {"category_id": ids[i % C]} for i, one in enumerate(raw["annotations"])]
    path.write_text(json.dumps(raw | {"categories": categories, "annotations": annotations}))
    return str(path)


def build_roi_head(loss: dict[str, Any]) -> Shared2FCBBoxHead:
    torch.manual_seed(0)
    head = Shared2FCBBoxHead(
        in_channels=4, fc_out_channels=8, roi_feat_size=2, num_classes=C, reg_class_agnostic=False, loss_cls=loss
    )
    head.init_weights()
    return head


def make_regions() -> dict[str, Tensor]:
    torch.manual_seed(1)
    labels = torch.tensor([0, 2, 1, C, C, C, 0, C])
    return {
        "rois": torch.cat([torch.zeros(8, 1), torch.rand(8, 2) * 10, 20 + torch.rand(8, 2) * 10], dim=1),
        "labels": labels,
        "label_weights": torch.ones(8),
        "bbox_targets": torch.randn(8, 4),
        "bbox_weights": torch.ones(8, 4),
    }


def test_softmax_is_mmdetections(file: str) -> None:
    """In the head of an R-CNN: loss, gradients of all parameters, and scores."""
    heads = (
        build_roi_head({"type": "CrossEntropyLoss"}),
        build_roi_head({"type": "TailsegLoss", "loss": "softmax", "annotations": file}),
    )
    heads[1].load_state_dict(heads[0].state_dict(), strict=True)
    features = torch.randn(8, 4, 2, 2)
    results = []
    for head in heads:
        losses = head.loss(*head(features), **make_regions())
        (losses["loss_cls"] + losses["loss_bbox"]).backward()
        results.append((losses["loss_cls"].detach(), [parameter.grad for parameter in head.parameters()]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    scores = [detect_regions(head, features) for head in heads]
    torch.testing.assert_close(scores[1][:, :C], scores[0][:, :C], rtol=1e-6, atol=1e-6)


def detect_regions(head: Shared2FCBBoxHead, features: Tensor) -> Tensor:
    """The scores of all regions before NMS."""
    with torch.no_grad():
        logits, deltas = head(features)
        rois = make_regions()["rois"]
        (result,) = head.predict_by_feat((rois,), (logits,), (deltas,), [{"img_shape": (32, 32)}])
    return result.scores


DENSE = {
    "retina": lambda loss: RetinaHead(
        num_classes=C,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        anchor_generator={"type": "AnchorGenerator", "ratios": [1.0], "scales": [4], "strides": [8, 16]},
        loss_cls=loss,
        train_cfg=ConfigDict(
            assigner={
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.5,
                "neg_iou_thr": 0.4,
                "min_pos_iou": 0,
            },
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=ConfigDict(nms_pre=1000, score_thr=0.0),
    ),
    "fcos": lambda loss: FCOSHead(
        num_classes=C,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        strides=[8, 16],
        regress_ranges=((-1, 24), (24, 1000)),
        norm_cfg=None,
        loss_cls=loss,
        loss_bbox={"type": "IoULoss"},
        test_cfg=ConfigDict(nms_pre=1000, score_thr=0.0),
    ),
}


def build_dense(kind: str, loss: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    head = DENSE[kind](loss)
    head.init_weights()
    return head


def make_images() -> tuple[list[Tensor], list[DetDataSample]]:
    """Feature maps and objects of two images, the second without objects."""
    torch.manual_seed(1)
    samples = []
    for boxes, labels in (([[4.0, 4, 40, 36], [30, 20, 60, 60]], [0, 2]), ([], [])):
        sample = DetDataSample(metainfo={"img_shape": (64, 64), "pad_shape": (64, 64), "batch_input_shape": (64, 64)})
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels, dtype=torch.int64)
        )
        samples.append(sample)
    return [torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4)], samples


def compute_cls_loss(head: nn.Module) -> Tensor:
    losses = head.loss(*make_images())["loss_cls"]
    return torch.stack(losses).sum() if isinstance(losses, list) else losses


def dense_loss(name: str, file: str, **settings: Any) -> dict[str, Any]:
    return {"type": "TailsegLoss", "loss": name, "annotations": file, "use_sigmoid": True, **settings}


@pytest.mark.parametrize("kind", DENSE)
def test_focal_loss_is_mmdetections(kind: str, file: str) -> None:
    """In RetinaNet and FCOS: the loss, the gradients of the classifier, and all scores."""
    heads = build_dense(kind, {"type": "FocalLoss", "use_sigmoid": True}), build_dense(kind, dense_loss("focal", file))
    heads[1].load_state_dict(heads[0].state_dict(), strict=True)
    results = []
    for head in heads:
        loss = compute_cls_loss(head)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in head.named_parameters() if parameter.grad is not None}
        results.append((loss.detach(), gradients))
    assert len(results[0][1]) >= 4
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    one, other = (detect(head) for head in heads)
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(other.scores, one.scores, rtol=1e-6, atol=0)


def detect(head: nn.Module) -> InstanceData:
    """All detections of the first image before NMS."""
    features, samples = make_images()
    with torch.no_grad():
        outputs = head(features)
        return head.predict_by_feat(*outputs, batch_img_metas=[one.metainfo for one in samples], with_nms=False)[0]


@pytest.mark.parametrize("kind", DENSE)
def test_scores_are_those_of_the_link(kind: str, file: str) -> None:
    """Each score is the Gumbel probability of a logit, in FCOS times the centerness."""
    head = build_dense(kind, dense_loss("gumbel", file, background=False))
    set_first_bias(head)
    with torch.no_grad():
        logits, _, *centerness = head(make_images()[0])
    expected = flatten_levels(logits, C).neg().exp().neg().exp()
    if centerness:
        expected = expected * flatten_levels(centerness[0], 1).sigmoid()
    torch.testing.assert_close(detect(head).scores.sort().values, expected.flatten().sort().values)


def flatten_levels(levels: list[Tensor], columns: int) -> Tensor:
    """One row for each anchor of the first image."""
    return torch.cat([level[0].permute(1, 2, 0).reshape(-1, columns) for level in levels])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gumbel", "gol", "efl"])
@pytest.mark.parametrize("kind", DENSE)
def test_dense_heads_train(kind: str, name: str, dtype: torch.dtype, file: str) -> None:
    """The loss falls, from the first bias of the loss, and is finite."""
    settings = {"background": False} if name == "gumbel" else {}
    head = build_dense(kind, dense_loss(name, file, **settings))
    set_first_bias(head)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    history = []
    for _ in range(15):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = compute_cls_loss(head)
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)
        optimizer.step()
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_in_an_rcnn(name: str, file: str) -> None:
    """The classifier has the loss's logits and first bias; one step is finite, and scores lie in [0, 1]."""
    head = build_roi_head({"type": "TailsegLoss", "loss": name, "annotations": file})
    TailsegFirstBiasHook().before_train(SimpleNamespace(model=head))
    loss = head.loss_cls.loss
    torch.testing.assert_close(head.fc_cls.bias.detach(), loss.init_bias())
    features = torch.randn(8, 4, 2, 2)
    losses = head.loss(*head(features), **make_regions())
    losses["loss_cls"].backward()
    assert bool(losses["loss_cls"].isfinite())
    assert 0 <= float(losses["acc_classes"]) <= 100
    assert float(head.fc_cls.weight.grad.abs().max()) > 0
    scores = detect_regions(head, features)
    assert scores.shape == (8, C + 1)
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1


CONFIGS = Path(mmdet.__file__).parent / ".mim/configs/_base_/models"


@pytest.mark.parametrize(("name", "stages"), [("mask-rcnn_r50_fpn", 1), ("cascade-mask-rcnn_r50_fpn", 3)])
def test_the_block_for_configs(name: str, stages: int, file: str) -> None:
    """What a user writes, on mmdetection's own configs of an R-CNN and a cascade: the whole detector is built."""
    gol = {"type": "TailsegLoss", "loss": "gol", "annotations": file}
    init_default_scope("mmdet")
    config = Config.fromfile(CONFIGS / f"{name}.py")
    config.model.backbone.init_cfg = None  # would download weights
    heads = config.model.roi_head.bbox_head
    for part in heads if isinstance(heads, list) else [heads]:
        part.num_classes, part.loss_cls = C, gol
    model = MODELS.build(config.model)
    model.init_weights()
    set_first_bias(model)

    classifiers = [layer for key, layer in model.named_modules() if key.endswith("fc_cls")]
    assert len(classifiers) == stages
    for layer in classifiers:
        torch.testing.assert_close(layer.bias.detach(), torch.full((C,), -2.0))


def test_a_trained_classifier_keeps_its_bias(file: str) -> None:
    head = build_roi_head({"type": "TailsegLoss", "loss": "gumbel", "annotations": file})
    with torch.no_grad():
        head.fc_cls.bias.copy_(torch.arange(C + 1.0))
    set_first_bias(head)
    assert head.fc_cls.bias.tolist() == [0, 1, 2, 3]


def test_ignored_rows(file: str) -> None:
    """Rows with the weight 0 have no effect, with either kind of loss."""
    for name in ("softmax", "gumbel"):
        loss = MODELS.build({"type": "TailsegLoss", "loss": name, "annotations": file, "loss_weight": 2.0})
        logits, labels = torch.randn(4, C + 1), torch.tensor([0, 1, C, C])
        value = loss(logits, labels, torch.tensor([1.0, 0, 1, 0]), avg_factor=2)
        expected = 2 * loss.loss(logits[::2], labels[::2])["loss_cls"]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused(file: str, raw: RawDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'gool'"):
        TailsegLoss("gool", file)
    with pytest.raises(ValueError, match="softmax with 4 logits for 3 classes"):
        TailsegLoss("softmax", file, use_sigmoid=True)
    with pytest.raises(ValueError, match="num_classes=80, and the annotation file 3 classes"):
        TailsegLoss("gol", file).get_cls_channels(80)
    loss = TailsegLoss("softmax", file)
    with pytest.raises(ValueError, match="leave pos_weight"):
        loss(torch.zeros(2, C + 1), torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="cannot use it"):
        loss(torch.zeros(2, C + 1), torch.tensor([0, 1]), reduction_override="none")
    with pytest.raises(ValueError, match="no layer ending with _cls"):
        set_first_bias(nn.ModuleDict({"loss_cls": nn.Identity(), "head": Headless(loss)}))
    content = json.loads(Path(file).read_text())
    unsorted = tmp_path / "unsorted.json"
    unsorted.write_text(json.dumps(content | {"categories": content["categories"][::-1]}))
    with pytest.raises(ValueError, match="does not list its categories in order of id"):
        TailsegLoss("gol", str(unsorted))


class Headless(nn.Module):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss_cls = loss
