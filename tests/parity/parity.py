"""How far our detectors are from mmdetection's, stage by stage, on the same weights and images.

Where a later stage is measured, it starts from the golden results of the one before: a difference stays in its stage.
"Of scale" means: divided by the largest value of the golden tensor.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tailseg.interop.mmdet_weights import to_mmdet
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.htc import HybridTaskCascade
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample, sample_rois
from tailseg.ops.boxes import encode_boxes
from tailseg.ops.masks import decode_mask, mask_targets, paste_masks
from tailseg.ops.nms import class_nms
from tailseg.ops.roi_pool import fpn_levels, roi_pool
from tailseg.structures import Detections, RunLengths

from .golden import Golden, GoldenBackbone, Kind, load_golden, load_golden_backbone, numbered, outputs
from .kinks import MOST, settle

DEPARTURES = """\
Two departures from mmdetection are meant. Boxes are compared within a class (or an RPN level) as they are; mmdetection
first shifts them by class times the largest coordinate in float32, which rounds overlaps near the threshold. HTC's
masks at test are the mean of the stages, as in the published models; mmdetection 3 takes the last stage's alone, and
for this comparison so do we (HTCConfig.test_masks)."""
LIMIT = 1e-4
"""Of the largest value of a map, or of a loss or a gradient's norm. Two float32 programs that add in another order
leave 2e-5 of a map after fifty layers with random weights, and are each 1.5e-5 from the same in float64."""
LEARNED_LIMIT = 1e-3
"""Of the gradients of AGLU's lambda and kappa: one number is a sum over a whole map, whose terms cancel. The authors'
own code is 5e-4 from a second float32 run of the same formulas."""
NEAR = 0.01
"""Pixels within which two boxes are the same: deltas to 1e-5 of images of a few hundred pixels."""
TIE = 2e-4
"""Scores this close, twice what rounding leaves of them, may change places."""
LEAST_NORM = 1e-5
"""Gradients below this are compared as if their norm were this."""
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


def measure_file(folder: Path, name: str, kind: Kind, *, from_maps: bool = False) -> list[Difference]:
    """Every stage of a golden file of any kind; detectors from their images, or from the golden feature maps."""
    if kind == "detector":
        return measure(load_golden(folder, name, from_maps=from_maps))
    if kind == "backbone":
        return measure_backbone(load_golden_backbone(folder, name))
    if kind == "part":
        from .parts import measure_part  # which imports this module

        return measure_part(folder, name)
    return measure_operators(load_file(folder / f"{name}.safetensors"))


def measure_backbone(golden: GoldenBackbone) -> list[Difference]:
    """The maps, and the gradients of the sum of their mean squares."""
    tensors, image = golden.tensors, golden.tensors["input.image"].float()
    with torch.no_grad():
        maps = golden.backbone.eval()(image)
    pairs = ((maps[stage], theirs) for stage, theirs in outputs(tensors).items())
    found = [Difference("maps C2 .. C5", "of scale", of_scale(pairs), LIMIT)]
    if "train.loss_total" not in tensors:
        return found
    golden.backbone.train()

    def loss() -> Tensor:
        return torch.stack([part.square().mean() for part in golden.backbone(image)]).sum()

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        golden.backbone.zero_grad()
        loss.backward(retain_graph=True)
        ours = {f"backbone.{key}": p.grad for key, p in golden.backbone.named_parameters() if p.grad is not None}
        return {key.removeprefix("backbone."): gradient for key, gradient in to_mmdet(ours).state.items()}

    total = float(tensors["train.loss_total"])
    value = abs(float(loss().detach()) - total) / total
    found.append(Difference("losses, same samples", "relative", value, LIMIT))
    limit = LEARNED_LIMIT if "state.relu.lambda_param" in tensors else LIMIT
    return found + compare_gradients(loss, gradients, tensors, golden.gradient_names, limit=limit)


def measure_operators(tensors: Mapping[str, Tensor]) -> list[Difference]:
    """RoI pooling and class-wise NMS, from the file's own inputs."""
    rois = tensors["roi.rois"]
    image = rois[:, 0].long()
    features = [feature.float() for feature in numbered(tensors, "roi.feat")]
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


@torch.no_grad()
def measure_test(golden: Golden) -> list[Difference]:
    """From pixels (or the golden feature maps, where the file has no backbone) to run lengths."""
    golden.model.eval()
    pyramid = golden.pyramid()
    found = [*compare_maps(golden, pyramid), *compare_proposals(golden, pyramid)]
    for stage in range(golden.num_stages):
        found += _box_head(golden, pyramid, stage)
    found += _masks(golden, pyramid)
    return found + compare_detections(golden)


def measure_training(golden: Golden) -> list[Difference]:
    """Samples and targets, losses and gradients from their samples, and one whole step from pixels."""
    golden.model.train()
    found = _targets(golden)
    losses = {name: float(value.detach()) for name, value in stage_losses(golden).items()}
    theirs = {name: float(golden.tensors[f"train.loss.{their_loss(name)}"].sum()) for name in losses}
    value = max(abs(losses[name] - theirs[name]) / max(abs(theirs[name]), 1e-3) for name in losses)
    found.append(Difference("losses, same samples", "relative", value, LIMIT))
    found += compare_gradients(
        lambda: torch.stack(list(stage_losses(golden).values())).sum(),
        lambda loss: _gradients(golden, loss),
        golden.tensors,
        golden.facts["grad_names"],
    )
    with torch.no_grad():
        step = golden.model(golden.images, golden.targets)
    assert isinstance(step, dict)
    total = float(golden.tensors["train.loss_total"])
    ours = float(torch.stack(list(step.values())).sum())
    found.append(Difference("sum of losses, own samples", "relative", abs(ours - total) / total, LIMIT))
    return found


def of_scale(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The largest difference of pairs (ours, theirs), each divided by its largest golden value."""
    return max(
        float((ours.detach() - theirs).abs().max() / theirs.abs().max()) if ours.shape == theirs.shape else torch.inf
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


def compare_maps(golden: Golden, pyramid: Sequence[Tensor]) -> list[Difference]:
    tensors, output = golden.tensors, golden.model.rpn(pyramid)
    per_cell = output.logits.shape[1] // sum(level[0, 0].numel() for level in pyramid)
    counts = [per_cell * level[0, 0].numel() for level in pyramid]
    logits, deltas = output.logits.split(counts, 1), output.deltas.split(counts, 1)
    cls = {i: tensors.get(f"test.rpn_cls.{i}") for i in range(len(pyramid))}
    reg = {i: tensors.get(f"test.rpn_reg.{i}") for i in range(len(pyramid))}
    fpn = [(pyramid[i], tensors[f"test.fpn.{i}"]) for i in range(len(pyramid)) if f"test.fpn.{i}" in tensors]
    scores = [(logits[i], theirs.permute(0, 2, 3, 1).flatten(1)) for i, theirs in cls.items() if theirs is not None]
    moves = [
        (deltas[i], theirs.permute(0, 2, 3, 1).reshape(len(theirs), -1, 4))
        for i, theirs in reg.items()
        if theirs is not None
    ]
    compared = {"feature maps P2 .. P6": [] if golden.starts_from_maps else fpn}
    compared |= {"RPN objectness": scores, "RPN deltas": moves}
    return [Difference(stage, "of scale", of_scale(pairs), LIMIT) for stage, pairs in compared.items() if pairs]


def compare_proposals(golden: Golden, pyramid: Sequence[Tensor]) -> list[Difference]:
    ours = golden.model.rpn.proposals(golden.model.rpn(pyramid), golden.sizes)
    value = max(distance_of_sets(boxes, golden.tensors[f"test.proposals.{i}.boxes"]) for i, boxes in enumerate(ours))
    return [Difference("proposals", "px", value, NEAR)]


def _box_head(golden: Golden, pyramid: Sequence[Tensor], stage: int) -> list[Difference]:
    tensors, head, key = golden.tensors, golden.box_head(stage), f"test.roi.{stage}"
    hidden = head(pyramid, golden.rois(f"{key}.rois"))
    logits = of_scale([(head.classifier(hidden), tensors[f"{key}.cls_score"])])
    deltas = of_scale([(head.regressor(hidden), tensors[f"{key}.bbox_pred"])])
    return [
        Difference(f"box logits, stage {stage}", "of scale", logits, LIMIT),
        Difference(f"box deltas, stage {stage}", "of scale", deltas, LIMIT),
    ]


def _masks(golden: Golden, pyramid: Sequence[Tensor]) -> list[Difference]:
    tensors, images = golden.tensors, range(len(golden.sizes))
    pairs = []
    for stage in range(golden.num_stages):
        theirs = [tensors[f"test.det.{i}.mask_logits.{stage}"] for i in images]
        boxes = [tensors[f"test.det.{i}.boxes"][: len(part)] for i, part in enumerate(theirs)]
        labels = torch.cat([tensors[f"test.det.{i}.labels"][: len(part)] for i, part in enumerate(theirs)])
        pairs.append((mask_logits(golden, pyramid, boxes, labels, stage), torch.cat(theirs)))
    found = [Difference("mask logits", "of scale", of_scale(pairs), LIMIT)]
    merged = _golden_probabilities(golden)
    boxes = [tensors[f"test.det.{i}.boxes"][: len(part)] for i, part in enumerate(merged)]
    if golden.num_stages > 1:
        labels = torch.cat([tensors[f"test.det.{i}.labels"][: len(part)] for i, part in enumerate(merged)])
        value = float((mask_probabilities(golden, pyramid, boxes, labels) - torch.cat(merged)).abs().max())
        # logits reach 12, and a probability moves by a quarter of its logit at most: 12 / 4 of what maps are allowed
        found.append(Difference("mask probabilities, merged", "absolute", value, 3 * LIMIT))
    wrong = 0
    for i, (cells, part) in enumerate(zip(merged, boxes, strict=True)):
        pasted = paste_masks(cells, part, *golden.sizes[i])
        pairs = zip(pasted, golden.facts["rle"][i][: len(part)], strict=True)
        wrong += sum(ours["counts"] != theirs["counts"] for ours, theirs in pairs)
    return [*found, Difference("their probabilities, pasted by us", "masks", wrong, 0)]


def _golden_probabilities(golden: Golden) -> list[Tensor]:
    """What they pasted of each image's first detections."""
    images = range(len(golden.sizes))
    if golden.num_stages > 1:
        return [golden.tensors[f"test.det.{i}.mask_prob"] for i in images]
    return [golden.tensors[f"test.det.{i}.mask_logits.0"].sigmoid() for i in images]


def mask_probabilities(golden: Golden, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Our probabilities as they are pasted."""
    if isinstance(golden.model, CascadeMaskRCNN | HybridTaskCascade):
        return golden.model.mask_probabilities(pyramid, boxes, labels)
    return mask_logits(golden, pyramid, boxes, labels, 0).sigmoid()


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


def compare_detections(golden: Golden) -> list[Difference]:
    """End to end: each of their detections against the nearest of ours with its label."""
    tensors = golden.tensors
    swapped, scores, boxes = 0, 0.0, 0.0
    masks: list[MaskDifference] = []
    found = golden.model(golden.images)
    assert isinstance(found, list)
    certainty = mask_certainty(golden, found)
    for i, ours in enumerate(found):
        theirs, labels = tensors[f"test.det.{i}.boxes"], tensors[f"test.det.{i}.labels"]
        if len(ours) != len(theirs):
            return [Difference("detections: how many", "count", abs(len(ours) - len(theirs)), 0)]
        distance = torch.cdist(ours.boxes, theirs, p=torch.inf) + FAR * (ours.labels[:, None] != labels)
        ranks = distance.argmin(0)
        swapped += _swapped(ranks, tensors[f"test.det.{i}.scores"])
        scores = max(scores, float((ours.scores - tensors[f"test.det.{i}.scores"]).abs().max()))
        boxes = max(boxes, float(torch.maximum(distance.amin(0).max(), distance.amin(1).max())))
        masks += _compare_masks(ours, ranks.tolist(), golden.facts["rle"][i], certainty[i])
    both, either = sum(mask.both for mask in masks), sum(mask.either for mask in masks)
    return [
        Difference("detections: labels and order", "out of rank", swapped, 0),
        Difference("detections: scores", "absolute", scores, 1e-4),
        Difference("detections: boxes", "px", boxes, NEAR),
        Difference("detections: masks, all", "1 - IoU", 1 - both / either, 1e-3),
        # one pixel of a mask of a hundred is 0.01: whether it may differ, the next line says
        Difference("detections: masks, the least", "1 - IoU", max(1 - m.both / max(m.either, 1) for m in masks), 0.05),
        Difference("mask pixels that differ", "from p = 0.5", max(m.certainty for m in masks), 2e-3),
    ]


class MaskDifference(NamedTuple):
    """Of one detection: pixels in both masks, in either, and how sure we were at most of those in one alone."""

    both: int
    either: int
    certainty: float


def _compare_masks(
    ours: Detections, ranks: Sequence[int], theirs: Sequence[RunLengths], certainty: Sequence[Tensor]
) -> list[MaskDifference]:
    assert ours.masks is not None
    found = []
    for rank, run_lengths in zip(ranks, theirs, strict=True):
        a, b = (torch.from_numpy(decode_mask(mask)) for mask in (ours.masks[rank], run_lengths))
        either, both = int((a | b).sum()), int((a & b).sum())
        both += either == 0  # two empty masks are the same
        found.append(MaskDifference(both, max(either, 1), float((certainty[rank] * (a ^ b)).max())))
    return found


def mask_certainty(golden: Golden, found: Sequence[Detections]) -> list[list[Tensor]]:
    """How far from 0.5 our probability is at every pixel of every detection's mask, bilinear as in pasting."""
    boxes, labels = [ours.boxes for ours in found], torch.cat([ours.labels for ours in found])
    cells = mask_probabilities(golden, golden.pyramid(), boxes, labels).split([len(ours) for ours in found])
    return [
        [(_stretched(cell, box, *size) - 0.5).abs() for cell, box in zip(part, of_image, strict=True)]
        for part, of_image, size in zip(cells, boxes, golden.sizes, strict=True)
    ]


def _stretched(cells: Tensor, box: Tensor, height: int, width: int) -> Tensor:
    """A mask's probabilities at the centers of all pixels, zero outside of its box."""
    x1, y1, x2, y2 = box.tolist()
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return F.grid_sample(cells[None, None], grid[None], align_corners=False)[0, 0]


def _swapped(ranks: Tensor, scores: Tensor) -> int:
    """How many of their detections have another rank here than one with (nearly) the same score."""
    return int(((scores - scores[ranks]).abs() > TIE).sum())


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
        Difference("box targets", "of scale", box_targets, LIMIT),
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
    losses = model.rpn.losses(pyramid, model.rpn(pyramid), golden.targets, golden.sizes)
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


def _gradients(golden: Golden, loss: Tensor) -> dict[str, Tensor]:
    """By their names and in their layout."""
    golden.model.zero_grad()
    loss.backward(retain_graph=True)
    gradients = {name: p.grad for name, p in golden.model.named_parameters() if p.grad is not None}
    return to_mmdet(gradients).state


def compare_gradients(
    loss: Callable[[], Tensor],
    gradients: Callable[[Tensor], Mapping[str, Tensor]],
    tensors: Mapping[str, Tensor],
    names: Sequence[str],
    *,
    limit: float = LIMIT,
) -> list[Difference]:
    """Of every parameter: the norm, and five values against the norm; as they come, and with kinks as there.

    Args:
        loss: a forward pass.
        gradients: a backward pass that keeps the graph; by their names and in their layout.
        tensors: the golden file's.
        names: the parameters in the order of its gradients.
        limit: of the gradients once the kinks are as there.
    """
    first = gradients(loss())
    absent = set(names) - first.keys()
    rows = torch.tensor([row for row, name in enumerate(names) if name not in absent])
    scale = tensors["train.grad.norm"][rows].double().clamp(min=LEAST_NORM)[:, None]
    places = tensors["train.grad.index"]

    def taken(made: Mapping[str, Tensor]) -> Tensor:
        found = [(made[names[row]].double(), places[row]) for row in rows.tolist()]
        return torch.stack([torch.cat([g.norm()[None], g.flatten()[place]]) for g, place in found]) / scale

    theirs = torch.cat([tensors["train.grad.norm"][:, None], tensors["train.grad.value"]], 1)[rows].double() / scale
    off = (taken(first) - theirs).abs()
    settled = settle(loss, lambda total: taken(gradients(total)), theirs, limit=LIMIT)
    last = (settled.gradients - theirs).abs()
    return [
        Difference("gradients: norms", "relative", float(off[:, 0].max()), 1e-2),
        Difference("gradients: five values each", "of the norm", float(off[:, 1:].max()), 2e-2),
        Difference("gradients: parameters without one", "count", len(absent), 0),
        Difference("ReLU inputs at zero, other side", "count", len(settled.flipped), MOST),
        Difference("gradients, these as there: norms", "relative", float(last[:, 0].max()), limit),
        Difference("gradients, these as there: values", "of the norm", float(last[:, 1:].max()), limit),
    ]
