"""What the tests against mmdetection's detectors share: its weights in our models, its images, its samples."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import box_iou

from tailseg.losses.base import ClassificationLoss
from tailseg.models import (
    BoxHeadConfig,
    Detector,
    FPNConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RPNConfig,
    build_detector,
)
from tailseg.models import TestConfig as DetectionConfig
from tailseg.models.images import IMAGE_MEAN, IMAGE_STD
from tailseg.models.sampling import RoISample
from tailseg.ops.masks import decode_mask
from tailseg.structures import Frame, Target

NUM_CLASSES = 7
EVERYTHING = 100_000  # samplers that take all there is leave nothing to chance
CONFIG = ModelConfig(
    backbone=ResNetConfig(depth=50, base_width=8, weights="none", frozen_stages=0),
    fpn=FPNConfig(channels=16),
    rpn=RPNConfig(anchors_per_image=EVERYTHING, train_pre_nms=1000, train_post_nms=200, test_post_nms=200),
    box=BoxHeadConfig(hidden=32, rois_per_image=EVERYTHING, positive_fraction=0.5),
    mask=MaskHeadConfig(channels=16),
    test=DetectionConfig(max_detections=50),
)
RENAMED = {
    "neck.lateral_convs.": "fpn.lateral.",
    "neck.fpn_convs.": "fpn.output.",
    "rpn_head.rpn_conv.": "rpn.conv.",
    "rpn_head.rpn_cls.": "rpn.objectness.",
    "rpn_head.rpn_reg.": "rpn.box_deltas.",
    "roi_head.bbox_head.": "box_head.",
    "roi_head.mask_head.": "mask_head.",
    "shared_fcs.0.": "fc1.",
    "shared_fcs.1.": "fc2.",
    "fc_cls.": "classifier.",
    "fc_reg.": "regressor.",
    "conv_logits.": "predictor.",
}


def our_name(name: str) -> str:
    """Our name of a parameter of mmdetection's Mask R-CNN."""
    if name.startswith("backbone."):
        return name
    name = name.replace(".conv.weight", ".weight").replace(".conv.bias", ".bias")
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name


class Golden(NamedTuple):
    """A model with mmdetection's weights, what it saw and what mmdetection made of it."""

    tensors: dict[str, Tensor]
    facts: dict
    model: Detector
    images: list[Tensor]
    targets: list[Target]

    def pyramid(self) -> list[Tensor]:
        return self.model.fpn(self.model.backbone(self.tensors["input.image"].float()))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple((int(h), int(w)) for h, w in self.tensors["input.img_shape"])

    def rois(self, key: str) -> list[Tensor]:
        rois = self.tensors[key]
        return [rois[rois[:, 0] == i, 1:] for i in range(2)]

    def positives(self, key: str, *, stage: int = 0) -> list[Tensor]:
        """``boxes``, ``gt_index`` ... of each image's positives in the mask branch."""
        counts = self.tensors[f"train.mask.{stage}.num_per_img"].tolist()
        return list(self.tensors[f"train.mask.{stage}.{key}"].split(counts))

    def mask_targets(self, *, stage: int = 0) -> Tensor:
        packed = self.tensors[f"train.mask.{stage}.targets_packed"]
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8)
        return ((packed[:, :, None] >> shifts) & 1).view(-1, 28, 28).float()


def load_golden(
    shared: Path, name: str, config: ModelConfig, loss: ClassificationLoss, rename: dict[str, str]
) -> Golden:
    """Reads a golden file and puts its weights into our model; ``rename`` follows `our_name`."""
    tensors = load_file(shared / "golden" / f"{name}.safetensors")
    facts = json.loads((shared / "golden" / f"{name}.json").read_text())
    model = build_detector(config, loss)
    facts["grad_names"] = [renamed(key, rename) for key in facts["grad_names"]]
    state = {renamed(k.removeprefix("state."), rename): v for k, v in tensors.items() if k.startswith("state.")}
    model.load_state_dict(state, strict=True)
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    padded = tensors["input.image"].float() * std + mean
    images = [image[:, :h, :w] for image, (h, w) in zip(padded, tensors["input.img_shape"].tolist(), strict=True)]
    return Golden(tensors, facts, model, images, golden_targets(tensors, facts))


def renamed(name: str, rename: dict[str, str]) -> str:
    name = our_name(name)
    for old, new in rename.items():
        name = name.replace(old, new)
    return name


def golden_targets(tensors: dict[str, Tensor], facts: dict) -> list[Target]:
    targets = []
    for i, objects in enumerate(facts["polygons"]):
        masks = tuple(tuple(torch.tensor(part).view(-1, 2).double().numpy() for part in parts) for parts in objects)
        boxes, labels = tensors[f"gt.{i}.boxes"], tensors[f"gt.{i}.labels"]
        targets.append(Target(boxes, labels, masks, Frame(), torch.zeros(0, 4)))
    return targets


def box_samples(golden: Golden, *, stage: int = 0) -> list[RoISample]:
    """The golden run's own RoIs of a box head as our samples, so that no near-tie decides."""
    labels = golden.tensors[f"train.roi.{stage}.labels"]
    rois = golden.rois(f"train.roi.{stage}.rois")
    parts = labels.split([len(boxes) for boxes in rois])
    samples = []
    for boxes, part, target in zip(rois, parts, golden.targets, strict=True):
        positive = boxes[part < NUM_CLASSES]
        objects = box_iou(target.boxes, positive).argmax(0)
        assert torch.equal(target.labels[objects], part[: len(positive)])
        # objects' own boxes stand in front
        samples.append(RoISample(boxes, part, objects, target.boxes[objects], torch.arange(len(objects)) < len(target)))
    return samples


def mask_samples(golden: Golden, *, stage: int = 0) -> list[RoISample]:
    """The golden run's own positives of a mask head as our samples."""
    boxes, objects = golden.positives("boxes", stage=stage), golden.positives("gt_index", stage=stage)
    return [
        RoISample(part, target.labels[index], index, target.boxes[index], torch.arange(len(index)) < len(target))
        for part, index, target in zip(boxes, objects, golden.targets, strict=True)
    ]


def assert_same_boxes(ours: Tensor, theirs: Tensor, *, most_lost: int = 0) -> None:
    """As sets: scores lie as close as 4e-7, so neighbours may swap places."""
    assert len(ours) == len(theirs)
    distance = torch.cdist(ours, theirs, p=torch.inf)
    assert int((distance.amin(0) > 0.05).sum()) <= most_lost
    assert int((distance.amin(1) > 0.05).sum()) <= most_lost


def assert_close_to_scale(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of the largest value: fifty layers of float32 in another order of operations leave 3e-5."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def assert_maps_equal(golden: Golden) -> None:
    pyramid = golden.pyramid()
    output = golden.model.rpn(pyramid)
    for level, feature in enumerate(pyramid):
        assert_close_to_scale(feature, golden.tensors[f"test.fpn.{level}"])
    cls = [golden.tensors[f"test.rpn_cls.{level}"].permute(0, 2, 3, 1).flatten(1) for level in range(5)]
    reg = [golden.tensors[f"test.rpn_reg.{level}"].permute(0, 2, 3, 1).reshape(2, -1, 4) for level in range(5)]
    assert_close_to_scale(output.logits, torch.cat(cls, 1))
    assert_close_to_scale(output.deltas, torch.cat(reg, 1))
    for i, boxes in enumerate(golden.model.rpn.proposals(output, golden.sizes)):
        assert_same_boxes(boxes, golden.tensors[f"test.proposals.{i}.boxes"])


def assert_detections_equal(golden: Golden) -> None:
    """End to end, from pixels to run lengths."""
    for i, found in enumerate(golden.model(golden.images)):
        boxes, scores = golden.tensors[f"test.det.{i}.boxes"], golden.tensors[f"test.det.{i}.scores"]
        labels = golden.tensors[f"test.det.{i}.labels"]
        torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-4)
        distance = torch.cdist(found.boxes, boxes, p=torch.inf) + 1e6 * (found.labels[:, None] != labels)
        assert distance.amin(0).max() < 0.05
        for theirs, ours in enumerate(distance.argmin(0).tolist()):
            mine, wanted = decode_mask(found.masks[ours]), decode_mask(golden.facts["rle"][i][theirs])
            # a pixel whose probability is 0.5 up to rounding may fall on either side
            assert int((mine != wanted).sum()) <= 2 + 0.002 * int(wanted.sum())


def assert_losses_and_gradients_equal(golden: Golden, losses: dict[str, Tensor], theirs: dict[str, str]) -> None:
    """Losses to 1e-3 and every parameter's gradient norm to 1e-2: the golden file's own stability allows no less."""
    assert losses.keys() == theirs.keys()
    for name, value in losses.items():
        expected = golden.tensors[f"train.loss.{theirs[name]}"].sum()
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    golden.model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    assert_gradients_equal(golden.tensors, golden.facts["grad_names"], golden.model)


def assert_gradients_equal(tensors: dict[str, Tensor], names: list[str], model: nn.Module) -> None:
    """Of every parameter, by our names: the norm, and five values."""
    parameters = dict(model.named_parameters())
    for row, name in enumerate(names):
        gradient = parameters.pop(name).grad
        assert gradient is not None, name
        norm = tensors["train.grad.norm"][row]
        torch.testing.assert_close(gradient.norm(), norm, rtol=1e-2, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
        values = gradient.flatten()[tensors["train.grad.index"][row]]
        torch.testing.assert_close(values, tensors["train.grad.value"][row], rtol=1e-2, atol=1e-2 * float(norm) + 1e-7)
    assert parameters == {}
