"""How far our detectors are from mmdetection's, stage by stage, on the same weights and images.

Where a later stage is measured, it starts from the golden results of the one before: a difference stays in its stage.
"Of scale" means: divided by the largest value of the golden tensor.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tailseg.interop.golden import Golden, GoldenBackbone, Kind, load_golden, load_golden_backbone
from tailseg.interop.mmdet import to_mmdet
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.htc import HybridTaskCascade
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample, sample_rois
from tailseg.ops.boxes import encode_boxes
from tailseg.ops.masks import decode_mask, mask_targets
from tailseg.ops.nms import class_nms
from tailseg.ops.roi_pool import fpn_levels, roi_pool
from tailseg.structures import Detections, RunLengths

DEPARTURES = """\
Two departures from mmdetection are meant. Boxes are compared within a class (or an RPN level) as they are; mmdetection
first shifts them by class times the largest coordinate in float32, which rounds overlaps near the threshold. HTC's
masks at test are the mean of the stages, as in the published models; mmdetection 3 takes the last stage's alone, and
for this comparison so do we (HTCConfig.test_masks)."""
NEAR = 0.05
"""Pixels within which two boxes are the same."""
TIE = 2e-4
"""Scores this close, twice what rounding leaves of them, may change places."""
FAR = 1e6
"""Pixels between boxes of different classes."""


@dataclass(frozen=True)
class Difference:
    """The largest difference of a stage.

    Attributes:
        stage: what was compared.
        unit: of the value.
        value: the largest difference found.
        limit: what rounding may leave, by the golden files' own stability.
    """

    stage: str
    unit: str
    value: float
    limit: float

    @property
    def equal(self) -> bool:
        """Whether the difference is no more than rounding."""
        return self.value <= self.limit


def measure(golden: Golden) -> list[Difference]:
    """Every stage in testing, then in training."""
    return [*measure_test(golden), *measure_training(golden)]


def measure_file(folder: Path, name: str, kind: Kind) -> list[Difference]:
    """Every stage of a golden file of any kind."""
    if kind == "detector":
        return measure(load_golden(folder, name))
    if kind == "backbone":
        return measure_backbone(load_golden_backbone(folder, name))
    return measure_operators(load_file(folder / f"{name}.safetensors"))


def measure_backbone(golden: GoldenBackbone) -> list[Difference]:
    """The four maps, and the gradients of the sum of their mean squares."""
    tensors, image = golden.tensors, golden.tensors["input.image"].float()
    with torch.no_grad():
        maps = golden.backbone.eval()(image)
    found = [
        Difference("maps C2 .. C5", "of scale", of_scale(zip(maps, _numbered(tensors, "test.out"), strict=True)), 1e-4)
    ]
    golden.backbone.train().zero_grad()
    loss = torch.stack([part.square().mean() for part in golden.backbone(image)]).sum()
    loss.backward()
    total = float(tensors["train.loss_total"])
    found.append(Difference("losses, same samples", "relative", abs(float(loss.detach()) - total) / total, 1e-3))
    ours = {f"backbone.{key}": p.grad for key, p in golden.backbone.named_parameters() if p.grad is not None}
    gradients = {key.removeprefix("backbone."): gradient for key, gradient in to_mmdet(ours).state.items()}
    return found + compare_gradients(gradients, tensors, golden.gradient_names)


def measure_operators(tensors: Mapping[str, Tensor]) -> list[Difference]:
    """RoI pooling and class-wise NMS, from the file's own inputs."""
    rois = tensors["roi.rois"]
    image = rois[:, 0].long()
    features = [feature.float() for feature in _numbered(tensors, "roi.feat")]
    boxes = [rois[image == i, 1:] for i in range(len(features[0]))]
    order = image.argsort(stable=True)
    levels = int((fpn_levels(rois[:, 1:]) != tensors["roi.level"]).sum())
    found = [Difference("RoIs on another level", "count", levels, 0)]
    for side in (7, 14):
        pooled = roi_pool(features, boxes, output_size=side, strides=STRIDES)
        value = of_scale([(pooled, tensors[f"roi.out{side}"][order])])
        found.append(Difference(f"RoI features, {side} x {side}", "of scale", value, 1e-5))
    return [*found, *(_nms(tensors, kind) for kind in ("specific", "agnostic"))]


def _nms(tensors: Mapping[str, Tensor], kind: str) -> Difference:
    boxes, scores = tensors[f"nms.boxes_{kind}"], tensors["nms.scores"][:, :-1]
    classes = scores.shape[1]
    kept = class_nms(
        boxes.view(-1, classes, 4) if kind == "specific" else boxes,
        scores,
        score_threshold=0.25,
        iou_threshold=0.5,
        max_detections=80,
    )
    ours, theirs = kept.rois * classes + kept.labels, tensors[f"nms.{kind}.flat_index"]
    wrong = int((ours != theirs).sum()) if len(ours) == len(theirs) else abs(len(ours) - len(theirs))
    return Difference(f"NMS, class-{kind} boxes", "count", wrong, 0)


def _numbered(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """``name.0``, ``name.1`` ..."""
    return [tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))]


@torch.no_grad()
def measure_test(golden: Golden) -> list[Difference]:
    """From pixels to run lengths."""
    golden.model.eval()
    pyramid = golden.pyramid()
    found = [*_maps(golden, pyramid), *_proposals(golden, pyramid)]
    for stage in range(golden.num_stages):
        found += _box_head(golden, pyramid, stage)
    found += _masks(golden, pyramid)
    return found + _detections(golden)


def measure_training(golden: Golden) -> list[Difference]:
    """Samples and targets, losses and gradients from their samples, and one whole step from pixels."""
    golden.model.train()
    found = _targets(golden)
    losses = stage_losses(golden)
    theirs = {name: float(golden.tensors[f"train.loss.{their_loss(name)}"].sum()) for name in losses}
    value = max(abs(float(losses[name].detach()) - theirs[name]) / max(abs(theirs[name]), 1e-3) for name in losses)
    found.append(Difference("losses, same samples", "relative", value, 1e-3))
    found += _gradients(golden, losses)
    with torch.no_grad():
        step = golden.model(golden.images, golden.targets)
    assert isinstance(step, dict)
    total = float(golden.tensors["train.loss_total"])
    ours = float(torch.stack(list(step.values())).sum())
    found.append(Difference("sum of losses, own samples", "relative", abs(ours - total) / total, 2e-3))
    return found


def of_scale(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The largest difference of pairs (ours, theirs), each divided by its largest golden value."""
    return max(
        float((ours - theirs).abs().max() / theirs.abs().max()) if ours.shape == theirs.shape else torch.inf
        for ours, theirs in pairs
    )


def distance_of_sets(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance, in pixels, of a box of either set to the nearest one of the other.

    Lists of proposals have an order, but scores as close as 4e-7 leave it to rounding.
    """
    if len(ours) != len(theirs):
        return torch.inf
    distance = torch.cdist(ours, theirs, p=torch.inf)
    return float(torch.maximum(distance.amin(0).max(), distance.amin(1).max())) if len(ours) else 0.0


def _maps(golden: Golden, pyramid: Sequence[Tensor]) -> list[Difference]:
    tensors, output = golden.tensors, golden.model.rpn(pyramid)
    images, levels = len(golden.sizes), range(len(pyramid))
    cls = [tensors[f"test.rpn_cls.{level}"].permute(0, 2, 3, 1).flatten(1) for level in levels]
    reg = [tensors[f"test.rpn_reg.{level}"].permute(0, 2, 3, 1).reshape(images, -1, 4) for level in levels]
    features = of_scale((pyramid[level], tensors[f"test.fpn.{level}"]) for level in levels)
    return [
        Difference("feature maps P2 .. P6", "of scale", features, 1e-4),
        Difference("RPN objectness", "of scale", of_scale([(output.logits, torch.cat(cls, 1))]), 1e-4),
        Difference("RPN deltas", "of scale", of_scale([(output.deltas, torch.cat(reg, 1))]), 1e-4),
    ]


def _proposals(golden: Golden, pyramid: Sequence[Tensor]) -> list[Difference]:
    ours = golden.model.rpn.proposals(golden.model.rpn(pyramid), golden.sizes)
    value = max(distance_of_sets(boxes, golden.tensors[f"test.proposals.{i}.boxes"]) for i, boxes in enumerate(ours))
    return [Difference("proposals", "px", value, NEAR)]


def _box_head(golden: Golden, pyramid: Sequence[Tensor], stage: int) -> list[Difference]:
    tensors, head, key = golden.tensors, golden.box_head(stage), f"test.roi.{stage}"
    hidden = head(pyramid, golden.rois(f"{key}.rois"))
    logits = of_scale([(head.classifier(hidden), tensors[f"{key}.cls_score"])])
    deltas = of_scale([(head.regressor(hidden), tensors[f"{key}.bbox_pred"])])
    return [
        Difference(f"box logits, stage {stage}", "of scale", logits, 1e-4),
        Difference(f"box deltas, stage {stage}", "of scale", deltas, 1e-4),
    ]


def _masks(golden: Golden, pyramid: Sequence[Tensor]) -> list[Difference]:
    tensors, images = golden.tensors, range(len(golden.sizes))
    pairs = []
    for stage in range(golden.num_stages):
        theirs = [tensors[f"test.det.{i}.mask_logits.{stage}"] for i in images]
        boxes = [tensors[f"test.det.{i}.boxes"][: len(part)] for i, part in enumerate(theirs)]
        labels = torch.cat([tensors[f"test.det.{i}.labels"][: len(part)] for i, part in enumerate(theirs)])
        pairs.append((mask_logits(golden, pyramid, boxes, labels, stage), torch.cat(theirs)))
    found = [Difference("mask logits", "of scale", of_scale(pairs), 1e-4)]
    if isinstance(golden.model, CascadeMaskRCNN | HybridTaskCascade):
        merged = [tensors[f"test.det.{i}.mask_prob"] for i in images]
        boxes = [tensors[f"test.det.{i}.boxes"][: len(part)] for i, part in enumerate(merged)]
        labels = torch.cat([tensors[f"test.det.{i}.labels"][: len(part)] for i, part in enumerate(merged)])
        ours = golden.model.mask_probabilities(pyramid, boxes, labels)
        value = float((ours - torch.cat(merged)).abs().max())
        found.append(Difference("mask probabilities, merged", "absolute", value, 5e-4))
    return found


def mask_logits(
    golden: Golden, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor, stage: int
) -> Tensor:
    """Our mask logits of a stage."""
    model = golden.model
    if isinstance(model, HybridTaskCascade):
        return model.mask_flow(pyramid, boxes, labels, stage=stage)
    if isinstance(model, CascadeMaskRCNN):
        return model.mask_head(stage)(pyramid, boxes, labels)
    assert isinstance(model, MaskRCNN)
    return model.mask_head(pyramid, boxes, labels)


def _detections(golden: Golden) -> list[Difference]:
    """End to end: each of their detections against the nearest of ours with its label."""
    tensors = golden.tensors
    swapped, scores, boxes, overlaps = 0, 0.0, 0.0, 1.0
    found = golden.model(golden.images)
    assert isinstance(found, list)
    for i, ours in enumerate(found):
        theirs, labels = tensors[f"test.det.{i}.boxes"], tensors[f"test.det.{i}.labels"]
        if len(ours) != len(theirs):
            return [Difference("detections: how many", "count", abs(len(ours) - len(theirs)), 0)]
        distance = torch.cdist(ours.boxes, theirs, p=torch.inf) + FAR * (ours.labels[:, None] != labels)
        swapped += _swapped(distance.argmin(0), tensors[f"test.det.{i}.scores"])
        scores = max(scores, float((ours.scores - tensors[f"test.det.{i}.scores"]).abs().max()))
        boxes = max(boxes, float(torch.maximum(distance.amin(0).max(), distance.amin(1).max())))
        overlaps = min(overlaps, _least_overlap(ours, distance.argmin(0).tolist(), golden.facts["rle"][i]))
    return [
        Difference("detections: labels and order", "out of rank", swapped, 0),
        Difference("detections: scores", "absolute", scores, 1e-4),
        Difference("detections: boxes", "px", boxes, NEAR),
        # a pixel whose probability is the threshold up to rounding falls on either side: a pixel or two of a small mask
        Difference("detections: masks", "1 - least IoU", 1 - overlaps, 0.05),
    ]


def _swapped(ranks: Tensor, scores: Tensor) -> int:
    """How many of their detections have another rank here than one with (nearly) the same score."""
    return int(((scores - scores[ranks]).abs() > TIE).sum())


def _least_overlap(ours: Detections, nearest: Sequence[int], theirs: Sequence[RunLengths]) -> float:
    assert ours.masks is not None
    least = 1.0
    for mine, run_lengths in zip(nearest, theirs, strict=True):
        a, b = decode_mask(ours.masks[mine]).astype(bool), decode_mask(run_lengths).astype(bool)
        union = int((a | b).sum())
        least = min(least, int((a & b).sum()) / union if union else 1.0)
    return least


def _targets(golden: Golden) -> list[Difference]:
    """Our own matching and sampling in the first stage, and the targets of every stage."""
    with torch.no_grad():
        proposals = golden.model.rpn.proposals(golden.model.rpn(golden.pyramid()), golden.sizes)
    rois = golden.rois("train.roi.0.rois")
    counts = [len(boxes) for boxes in rois]
    wrong, moved = 0, 0.0
    labels = golden.tensors["train.roi.0.labels"].split(counts)
    for ours, boxes, classes in zip(first_samples(golden, proposals), rois, labels, strict=True):
        moved = max(moved, distance_of_sets(ours.boxes, boxes))
        wrong += int((ours.labels.sort().values != classes.sort().values).sum()) if len(boxes) == len(ours.boxes) else 1
    box_targets, pixels = 0.0, 0
    for stage in range(golden.num_stages):
        box_targets = max(box_targets, _box_targets(golden, stage))
        pixels += _mask_targets(golden, stage)
    return [
        Difference("sampled RoIs", "px", moved, NEAR),
        Difference("sampled RoIs: labels", "count", wrong, 0),
        Difference("box targets", "of scale", box_targets, 1e-4),
        Difference("mask targets", "pixels", pixels, 0),
    ]


def first_samples(golden: Golden, proposals: Sequence[Tensor]) -> list[RoISample]:
    """What our first stage samples."""
    return sample_rois(proposals, golden.targets, golden.model.num_classes, golden.box_head(0).config)


def _box_targets(golden: Golden, stage: int) -> float:
    samples, stds = golden.box_samples(stage), golden.box_head(stage).config.target_stds
    theirs = golden.tensors[f"train.roi.{stage}.bbox_targets"].split([len(sample.boxes) for sample in samples])
    return of_scale(
        (encode_boxes(sample.object_boxes, sample.positive_boxes, stds=stds), part[: sample.num_positive])
        for sample, part in zip(samples, theirs, strict=True)
    )


def _mask_targets(golden: Golden, stage: int) -> int:
    ours = [
        mask_targets([target.masks[k] for k in sample.objects.tolist()], target.frame, sample.positive_boxes)
        for target, sample in zip(golden.targets, golden.mask_samples(stage), strict=True)
    ]
    return int((torch.cat(ours) != golden.mask_targets(stage)).sum())


def stage_losses(golden: Golden) -> dict[str, Tensor]:
    """Our losses, by our names, from their samples."""
    model, pyramid = golden.model, golden.pyramid()
    losses = model.rpn.losses(model.rpn(pyramid), golden.targets, golden.sizes)
    for stage in range(golden.num_stages):
        heads = golden.box_head(stage).losses(pyramid, golden.box_samples(stage))
        samples, weight, suffix = golden.mask_samples(stage), 1.0, ""
        if isinstance(model, HybridTaskCascade):
            heads |= model.mask_losses(stage, pyramid, samples, golden.targets)
        elif isinstance(model, CascadeMaskRCNN):
            heads |= model.mask_head(stage).losses(pyramid, samples, golden.targets)
        else:
            assert isinstance(model, MaskRCNN)
            heads |= model.mask_head.losses(pyramid, samples, golden.targets)
        if isinstance(model, CascadeMaskRCNN | HybridTaskCascade):
            weight, suffix = model.box_cascade.loss_weights[stage], f"_{stage}"
        losses |= {f"{name}{suffix}": weight * value for name, value in heads.items()}
    return losses


def their_loss(name: str) -> str:
    """Their name of one of our losses: ``loss_box_1`` is ``s1.loss_bbox``."""
    name = name.replace("_box", "_bbox")
    stage = name.rpartition("_")[2]
    return f"s{stage}.{name.removesuffix(f'_{stage}')}" if stage.isdigit() else name


def _gradients(golden: Golden, losses: dict[str, Tensor]) -> list[Difference]:
    """Of every parameter: the norm, and five values against the norm."""
    golden.model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad for name, p in golden.model.named_parameters() if p.grad is not None}
    return compare_gradients(to_mmdet(gradients).state, golden.tensors, golden.facts["grad_names"])


def compare_gradients(
    gradients: Mapping[str, Tensor], tensors: Mapping[str, Tensor], names: Sequence[str]
) -> list[Difference]:
    """Our gradients, by their names and in their layout, against the golden norms and values of ``names``."""
    norms, values, missing = 0.0, 0.0, 0
    for row, name in enumerate(names):
        if name not in gradients:
            missing += 1
            continue
        norm = float(tensors["train.grad.norm"][row])
        norms = max(norms, abs(float(gradients[name].norm()) - norm) / max(norm, 1e-5))
        picked = gradients[name].flatten()[tensors["train.grad.index"][row]]
        values = max(values, float((picked - tensors["train.grad.value"][row]).abs().max()) / max(norm, 1e-5))
    return [
        Difference("gradients: norms", "relative", norms, 1e-2),
        Difference("gradients: five values each", "of the norm", values, 1e-2),
        Difference("gradients: parameters without one", "count", missing, 0),
    ]
