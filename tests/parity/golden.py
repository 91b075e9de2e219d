"""Golden files of mmdetection: its weights in our models, its images, what it made of them.

A golden file is a pair ``NAME.safetensors`` and ``NAME.json``: a state dict, inputs, and the results of every stage in
testing and in training, computed by mmdetection 3. There are such of detectors and of backbones, and files of single
operators without weights.

A file may hold less: what it does not hold is not compared. A detector without backbone and neck starts from the
golden feature maps; a backbone may end after any of its stages.

Shapes: B images; R RoIs, P positive ones; C classes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tailseg.interop.mmdet_weights import backbone_from_mmdet, from_mmdet, to_mmdet
from tailseg.losses import GumbelCEConfig, LossConfig, SoftmaxCEConfig, build_loss
from tailseg.models import (
    BoxHeadConfig,
    Detector,
    FPNConfig,
    GroupedConfig,
    HTCConfig,
    MaskHeadConfig,
    ModelConfig,
    NormalizedConfig,
    PostprocessConfig,
    ResNetConfig,
    RPNConfig,
    SwinConfig,
    build_detector,
)
from tailseg.models.backbones import build_backbone
from tailseg.models.box_head import BoxHead
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.config import SEConfig, cascade_mask_rcnn, hybrid_task_cascade
from tailseg.models.htc import HybridTaskCascade
from tailseg.models.images import IMAGE_MEAN, IMAGE_STD
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.resnet import STAGE_BLOCKS
from tailseg.models.sampling import RoISample
from tailseg.ops.boxes import decode_boxes
from tailseg.structures import ClassFrequency, Frame, Target

EVERYTHING = 100_000
"""Samplers that take all there is leave nothing to chance."""
PROPOSALS = 200
DETECTIONS = 50


@dataclass(frozen=True, eq=False)
class Golden:
    """One golden file, and our model with its weights.

    Attributes:
        name: of the file.
        tensors: all that it holds, by the names of its format.
        facts: its strings: polygons, run lengths, names of the gradients.
        model: in training mode.
        images: in 0 .. 255, without padding.
        targets: ground truth of each image.
    """

    name: str
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    model: Detector
    images: list[Tensor]
    targets: list[Target]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """``(height, width)`` of each image."""
        return tuple((int(h), int(w)) for h, w in self.tensors["input.img_shape"])

    def pyramid(self) -> list[Tensor]:
        """Our P2 .. P6 of the golden images."""
        return self.model.fpn(self.model.backbone(_padded(self.tensors)))

    @property
    def starts_from_maps(self) -> bool:
        """Whether the file has no backbone, so that the golden P2 .. P6 are the input."""
        return isinstance(self.model.fpn, _GoldenMaps)

    @property
    def num_stages(self) -> int:
        """Box heads in a row."""
        return 1 + max(int(key.split(".")[2]) for key in self.tensors if key.startswith("test.roi."))

    def rois(self, key: str) -> list[Tensor]:
        """The RoIs of ``key`` image by image."""
        rois = self.tensors[key]
        return [rois[rois[:, 0] == i, 1:] for i in range(len(self.sizes))]

    def positives(self, key: str, stage: int = 0) -> list[Tensor]:
        """``boxes``, ``labels`` or ``gt_index`` of each image's positives in the mask branch."""
        counts = self.tensors[f"train.mask.{stage}.num_per_img"].tolist()
        return list(self.tensors[f"train.mask.{stage}.{key}"].split(counts))

    def mask_targets(self, stage: int = 0) -> Tensor:
        """Their 28 x 28 targets of the positives, ``[P, 28, 28]``."""
        packed = self.tensors[f"train.mask.{stage}.targets_packed"]
        bits = torch.arange(7, -1, -1, dtype=torch.uint8)
        return ((packed[:, :, None] >> bits) & 1).view(-1, 28, 28).float()

    def box_head(self, stage: int) -> BoxHead:
        """Our box head of a stage."""
        if isinstance(self.model, CascadeMaskRCNN | HybridTaskCascade):
            return self.model.box_cascade.get_head(stage)
        assert isinstance(self.model, MaskRCNN)
        return self.model.box_head

    def box_samples(self, stage: int = 0) -> list[RoISample]:
        """Their sampled RoIs of a box head as ours, so that no near-tie decides.

        Which object a positive RoI is trained for is read off its regression target, which leads to the object's box.
        """
        rois, stds = self.rois(f"train.roi.{stage}.rois"), self.box_head(stage).config.target_stds
        counts = [len(boxes) for boxes in rois]
        labels = self.tensors[f"train.roi.{stage}.labels"].split(counts)
        deltas = self.tensors[f"train.roi.{stage}.bbox_targets"].split(counts)
        samples = []
        for boxes, classes, moves, target in zip(rois, labels, deltas, self.targets, strict=True):
            positive = classes < self.model.num_classes
            aims = decode_boxes(moves[positive], boxes[positive], stds=stds)
            objects = torch.cdist(aims, target.boxes, p=torch.inf).argmin(1)
            samples.append(_sample(boxes, classes, objects, target))
        return samples

    def mask_samples(self, stage: int = 0) -> list[RoISample]:
        """Their positives of a mask head as ours."""
        boxes, objects = self.positives("boxes", stage), self.positives("gt_index", stage)
        return [
            _sample(part, target.labels[index], index, target)
            for part, index, target in zip(boxes, objects, self.targets, strict=True)
        ]


def _sample(boxes: Tensor, labels: Tensor, objects: Tensor, target: Target) -> RoISample:
    # objects' own boxes stand in front, as far as they are positives
    return RoISample(boxes, labels, objects, target.boxes[objects], torch.arange(len(objects)) < len(target))


Kind = Literal["detector", "backbone", "operators", "part"]
_MARKS: dict[str, Kind] = {
    "test.det.0.": "detector",
    "test.out.": "backbone",
    "roi.rois": "operators",
    "unified.value": "part",
    "frequency": "part",
    "normed_linear.input": "part",
    "carafe.input": "part",
    "test.logits_of_label": "part",
    "softmax.logits": "part",
}
"""What some key of each kind starts with. The parts are those of `tests.parity.parts`."""


def golden_files(folder: Path) -> dict[str, Kind]:
    """The golden files of a folder, by name, and what each is of.

    Raises:
        ValueError: there is none, or one is damaged or lacks its JSON file.
    """
    found: dict[str, Kind] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated, or no safetensors file ({error})") from None
        kind = next((kind for mark, kind in _MARKS.items() if any(key.startswith(mark) for key in keys)), None)
        if kind is None:
            continue
        if kind in ("detector", "backbone") and not path.with_suffix(".json").is_file():
            raise ValueError(f"{path} has no {path.stem}.json beside it, which holds its strings")
        found[path.stem] = kind
    if not found:
        raise ValueError(f"no golden files in {folder}: expected NAME.safetensors, with NAME.json beside it")
    return found


def load_golden(folder: Path, name: str, *, from_maps: bool = False) -> Golden:
    """Reads a golden file and puts its weights into our model through `from_mmdet`.

    Args:
        folder: of the files.
        name: of the file.
        from_maps: leaves its backbone and neck alone, as if the file had none: the golden feature maps are the input,
            and their own rounding is no part of what is compared.

    Raises:
        CheckpointError: its state dict does not fit the model that its name and shapes tell.
        ValueError: neither backbone nor feature maps are there to start from.
    """
    tensors = load_file(folder / f"{name}.safetensors")
    facts = json.loads((folder / f"{name}.json").read_text())
    if from_maps:
        tensors, facts = without_backbone(tensors, facts)
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    config, loss = settings(name, state)
    classes = len(state[_first(state, r"roi_head\.mask_head\.(\d\.)?conv_logits\.bias")])
    counts = torch.ones(classes)
    model = build_detector(config, build_loss(loss, ClassFrequency.from_counts(counts, counts, classes)))
    if not _has_backbone(state):
        model.register_module("backbone", _NoMaps())
        model._maps_are_checked = True  # the maps come from the golden file
        maps = numbered(tensors, "test.fpn")
        if not maps:
            raise ValueError(
                f"{name} has neither the weights of a backbone nor all of its feature maps (test.fpn.0 ...)"
            )
        model.register_module("fpn", _GoldenMaps(maps))
    model.load_state_dict(from_mmdet(state, model, source=name).state, strict=True)
    mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
    padded = _padded(tensors) * std + mean
    sizes = tensors["input.img_shape"].tolist()
    images = [image[:, :h, :w] for image, (h, w) in zip(padded, sizes, strict=True)]
    return Golden(name, tensors, facts, model, images, _targets(tensors, facts))


def without_backbone(
    tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A detector's file without the weights and gradients of backbone and neck, and without the images."""
    before = ("state.backbone.", "state.neck.", "input.image")
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(before)}
    names = facts["grad_names"]
    rows = [row for row, name in enumerate(names) if not f"state.{name}".startswith(before)]
    kept |= {key: tensor[rows] for key, tensor in kept.items() if key.startswith("train.grad.")}
    return kept, {**facts, "grad_names": [names[row] for row in rows]}


class _NoMaps(nn.Module):
    """A backbone without weights, in front of `_GoldenMaps`, which need no maps."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return []


class _GoldenMaps(nn.Module):
    """Takes the place of backbone and FPN where the file has no weights of theirs."""

    def __init__(self, maps: Sequence[Tensor]) -> None:
        super().__init__()
        self.maps = list(maps)

    def forward(self, _images: Tensor) -> list[Tensor]:
        return self.maps


def numbered(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """``name.0``, ``name.1`` ... as far as they go."""
    return [tensors[f"{name}.{i}"] for i in takewhile(lambda i: f"{name}.{i}" in tensors, count())]


def outputs(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """A backbone's golden maps by their stage, of those that the file holds."""
    return {i: tensors[f"test.out.{i}"] for i in range(4) if f"test.out.{i}" in tensors}


def _has_backbone(state: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("backbone.") for key in state)


def _padded(tensors: Mapping[str, Tensor]) -> Tensor:
    """The images as they enter the backbone; where nothing looks at them, the file may leave them out."""
    if "input.image" in tensors:
        return tensors["input.image"].float()
    height, width = tensors["input.pad_shape"].amax(0).tolist()
    return torch.zeros(len(tensors["input.pad_shape"]), 3, height, width)


def settings(name: str, state: Mapping[str, Tensor]) -> tuple[ModelConfig, LossConfig]:
    """The model of a golden file: its kind from its name, its sizes from its shapes, the rest from the format."""
    if "cascade" in name:
        base = cascade_mask_rcnn()
    elif "htc" in name:
        # mmdetection 3 takes the last stage's mask alone; the published models the mean of all, as we do by default
        base = replace(hybrid_task_cascade(), cascade=HTCConfig(test_masks="last"))
        base = replace(base, box=replace(base.box, allow_low_quality_matches=False))
    else:
        base = ModelConfig()
    hidden = len(state[_first(state, r"roi_head\.bbox_head\.(\d\.)?shared_fcs\.0\.bias")])
    mask_channels = len(state[_first(state, r"roi_head\.mask_head\.(\d\.)?upsample\.bias")])
    mask = MaskHeadConfig(channels=mask_channels, normalized=NormalizedConfig() if "normed_mask" in name else None)
    config = replace(
        base,
        backbone=_resnet({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}),
        fpn=FPNConfig(channels=state["rpn_head.rpn_conv.weight"].shape[1]),
        rpn=_all_anchors(base.rpn),
        box=_all_rois(base.box, hidden),
        mask=mask,
        postprocess=PostprocessConfig(max_detections=DETECTIONS),
    )
    return config, GumbelCEConfig(published="2022") if "gumbel" in name else SoftmaxCEConfig()


@dataclass(frozen=True, eq=False)
class GoldenBackbone:
    """One golden file of a backbone.

    Attributes:
        tensors: all that it holds, by the names of its format.
        gradient_names: their parameters, in the order of the gradients; none where the file has no gradients.
        backbone: ours with its weights, in training mode; stages after the file's last map are at random.
    """

    tensors: dict[str, Tensor]
    gradient_names: list[str]
    backbone: torch.nn.Module


def load_golden_backbone(folder: Path, name: str) -> GoldenBackbone:
    """Reads a golden file and puts its weights into our backbone through `backbone_from_mmdet`.

    Raises:
        CheckpointError: its state dict does not fit the backbone that its shapes tell.
    """
    tensors = load_file(folder / f"{name}.safetensors")
    names = json.loads((folder / f"{name}.json").read_text()).get("grad_names", [])
    state = {key.removeprefix("state."): tensor for key, tensor in tensors.items() if key.startswith("state.")}
    backbone = build_backbone(_swin(state) if "patch_embed.projection.weight" in state else _resnet(state))
    state |= _later_stages(backbone, stages=1 + max(outputs(tensors)))
    backbone.load_state_dict(backbone_from_mmdet(state, backbone, source=name).state, strict=True)
    return GoldenBackbone(tensors, names, backbone)


def _later_stages(backbone: torch.nn.Module, stages: int) -> dict[str, Tensor]:
    """By their names, the backbone's own weights of what comes after its first ``stages`` maps."""
    state = to_mmdet({f"backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}).state
    later = [f"layer{i + 1}." for i in range(stages, 4)] + [f"norm{i}." for i in range(stages, 4)]
    later += [f"stages.{i}." for i in range(stages, 4)] + [f"stages.{i - 1}.downsample." for i in range(stages, 4)]
    keys = {key: key.removeprefix("backbone.") for key in state}
    return {name: state[key] for key, name in keys.items() if name.startswith(tuple(later))}


def _resnet(state: Mapping[str, Tensor]) -> ResNetConfig:
    """ResNet or ResNeXt of the state dict's sizes, nothing frozen; where it holds no weights, any."""
    if not state:
        return ResNetConfig(base_width=8, weights="none", frozen_stages=0)
    blocks = len({key.split(".")[1] for key in state if key.startswith("layer3.")})
    depth = next((d for d in (50, 101) if STAGE_BLOCKS[d][2] == blocks), 50)  # without a third stage, both are the same
    channels, of_group = state["layer1.0.conv2.weight"].shape[:2]
    grouped = None if channels == of_group else GroupedConfig(groups=channels // of_group, width=of_group)
    adaptive = "relu.lambda_param" in state
    # their golden gradients are those of evaluation
    se = SEConfig(gate="apa" if adaptive else "sigmoid", dropout=0.0)
    return ResNetConfig(
        depth=depth,
        base_width=len(state["bn1.bias"]),
        grouped=grouped,
        activation="aglu" if adaptive else "relu",
        se=se if "layer1.0.se.excitation.0.weight" in state else None,
        weights="none",
        frozen_stages=0,
    )


def _swin(state: Mapping[str, Tensor]) -> SwinConfig:
    """Swin of the state dict's sizes, no block skipped; stages that it lacks are of two blocks."""
    tables = [state[key] for key in state if key.endswith(".blocks.0.attn.w_msa.relative_position_bias_table")]
    blocks = [{key.split(".")[3] for key in state if key.startswith(f"stages.{i}.blocks.")} for i in range(4)]
    heads = tables[0].shape[1]
    return SwinConfig(
        embed_dim=len(state["patch_embed.projection.bias"]),
        depths=_four([len(numbers) or 2 for numbers in blocks]),
        heads=_four([heads * 2**i for i in range(4)]),
        window=(isqrt(len(tables[0])) + 1) // 2,
        drop_path=0.0,
        weights="none",
    )


def _four(values: Sequence[int]) -> tuple[int, int, int, int]:
    first, second, third, fourth = values
    return first, second, third, fourth


def _all_anchors(rpn: RPNConfig) -> RPNConfig:
    return replace(
        rpn, anchors_per_image=EVERYTHING, train_pre_nms=1000, train_post_nms=PROPOSALS, test_post_nms=PROPOSALS
    )


def _all_rois(box: BoxHeadConfig, hidden: int) -> BoxHeadConfig:
    return replace(box, hidden=hidden, rois_per_image=EVERYTHING, positive_fraction=0.5)


def _first(state: Mapping[str, Tensor], pattern: str) -> str:
    return next(key for key in state if re.fullmatch(pattern, key))


def _targets(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> list[Target]:
    targets = []
    for i, objects in enumerate(facts["polygons"]):
        masks = tuple(tuple(torch.tensor(part).view(-1, 2).double().numpy() for part in parts) for parts in objects)
        boxes, labels = tensors[f"gt.{i}.boxes"], tensors[f"gt.{i}.labels"]
        targets.append(Target(boxes, labels, masks, Frame(), torch.zeros(0, 4)))
    return targets
