"""A detector as one function of tensors, for exporters: from padded images to detections, without Python in between.

The modules are those of the detector. Steps whose shapes depend on the data are written again with fixed shapes:
proposals, candidates and detections are filled up to the largest number that the settings allow. The filling has the
score 0 and empty boxes, and changes nothing else.

Shapes: B images of H x W, multiples of 32; P proposals of an image, C classes, D detections of an image, s the pooled
side, S the side of a mask.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from tailseg.export.suppression import suppress
from tailseg.models.box_head import BoxHead
from tailseg.models.cascade import CascadeMaskRCNN
from tailseg.models.detector import Detector
from tailseg.models.faster_rcnn import FasterRCNN
from tailseg.models.fpn import FPN_STRIDES
from tailseg.models.htc import HybridTaskCascade
from tailseg.models.mask_rcnn import MaskRCNN
from tailseg.models.resnet import STRIDES
from tailseg.ops.anchors import base_anchors
from tailseg.ops.boxes import MAX_LOG_RATIO


class Detected(NamedTuple):
    """The outputs, filled with zeros behind the detections of each image."""

    boxes: Tensor
    """float32 ``[B, D, 4]``: absolute xyxy in pixels of the original files."""
    scores: Tensor
    """float32 ``[B, D]``, best first."""
    labels: Tensor
    """int64 ``[B, D]``: 0 .. C-1."""
    counts: Tensor
    """int64 ``[B]``: detections of each image."""
    above: Tensor
    """bool ``[B, D]``: whether a detection scores at least the stored threshold of its class; all do without one."""
    masks: Tensor | None
    """float32 ``[B, D, S, S]``: probabilities inside the box. Of whole images bool ``[B, D, H', W']``: the pixels of
    each object, in an original file of the largest height and width."""


class DetectorGraph(nn.Module):
    """The exportable form of a detector; shares its weights.

    Args:
        model: a built-in detector, prepared by `tailseg.models.optimize.for_inference`.
        thresholds: the score threshold of each label, or None.
        whole_masks: masks are those of the original files instead of those inside the boxes.

    Raises:
        ValueError: the detector is not one of the built-in ones.
    """

    thresholds: Tensor
    box_levels: Tensor
    mask_levels: Tensor

    def __init__(
        self, model: Detector, thresholds: Sequence[float] | None = None, *, whole_masks: bool = False
    ) -> None:
        super().__init__()
        self.whole_masks = whole_masks
        if not isinstance(model, MaskRCNN | FasterRCNN | CascadeMaskRCNN | HybridTaskCascade):
            raise ValueError(
                f"the model is of type {type(model).__name__}: export writes the detectors of tailseg (Faster, Mask "
                "and Cascade Mask R-CNN, Hybrid Task Cascade). Export a detector of your own with torch.onnx.export"
            )
        self.model: Any = model
        self.register_buffer("thresholds", torch.tensor(thresholds or [0.0] * model.num_classes))
        rpn = model.config.rpn
        for level, stride in enumerate(FPN_STRIDES):
            anchors = base_anchors(stride, scale=rpn.anchor_scale, ratios=rpn.anchor_ratios)
            self.register_buffer(f"anchors{level}", anchors.clone())
        for name, config in (("box", model.config.box), ("mask", model.config.mask)):
            if config is not None:
                self.register_buffer(f"{name}_levels", find_level_bounds(config.finest_scale, len(STRIDES)))

    def forward(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> Detected:
        """Detects objects in a batch.

        Args:
            images: uint8 ``[B, H, W, 3]``, RGB; each image fills the upper left of its H x W.
            sizes: int64 ``[B, 2]``: height and width of each image without the padding.
            original_sizes: int64 ``[B, 2]``: height and width of the files that the images were resized from.

        Returns:
            The detections.
        """
        model = self.model
        limits = sizes.flip(1).repeat(1, 2).float()  # width, height, width, height
        scales = original_sizes.flip(1).repeat(1, 2).float() / limits
        pyramid = model.fpn(model.backbone(self.normalize(images, sizes)))
        boxes, valid = self.propose(pyramid, limits)
        heads = [model.box_head] if hasattr(model, "box_head") else list(model.box_cascade.heads)
        logits = []
        for head in heads:
            pooled = self.pool(pyramid, boxes, head.config.pool_size, self.box_levels)
            hidden = head.embed(pooled.flatten(1))
            logits.append(head.classifier(hidden).float())
            boxes = decode_head(head, hidden, boxes, limits)
        # copies of a loss compute the same scores
        scores = heads[-1].loss.scores(torch.stack(logits).mean(0) if len(logits) > 1 else logits[0])
        scores = scores.float().view(valid.shape[0], valid.shape[1], -1) * valid[..., None]
        found = self.select(boxes * scales[:, None, None], scores)
        masks = self.predict_masks(pyramid, found.boxes / scales[:, None], found)
        if masks is not None and self.whole_masks:
            masks = paste(masks, found.boxes, original_sizes, model.config.postprocess.mask_threshold)
        return found._replace(masks=masks)

    def normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalized images ``[B, 3, H, W]``, zero in the padding."""
        batcher = self.model.batcher
        pixels = (images.permute(0, 3, 1, 2).float() - batcher.mean) * batcher.inverse_std
        rows = torch.arange(images.shape[1], device=images.device) < sizes[:, :1]
        columns = torch.arange(images.shape[2], device=images.device) < sizes[:, 1:]
        return torch.where((rows[:, :, None] & columns[:, None])[:, None], pixels, 0.0)

    def propose(self, pyramid: Sequence[Tensor], limits: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals ``[B, P, 1, 4]``, best first, and whether each is one; ``limits`` are those of `clip`."""
        rpn, config = self.model.rpn, self.model.rpn.config
        count = config.test_pre_nms
        levels = []
        for level, (feature, stride) in enumerate(zip(pyramid, FPN_STRIDES, strict=True)):
            hidden = rpn.conv(feature).relu()
            logits = rpn.objectness(hidden).permute(0, 2, 3, 1).flatten(1).float()
            deltas = rpn.box_deltas(hidden).permute(0, 2, 3, 1).reshape(logits.shape[0], -1, 4).float()
            best, index = F.pad(logits, (0, count), value=-math.inf).topk(count)  # small maps have fewer anchors
            index = index.clamp(max=logits.shape[1] - 1)
            chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4))
            levels.append((best, chosen, self.place_anchors(level, index, feature.shape[3], stride)))
        ranks, deltas, anchors = (torch.stack(parts, 1) for parts in zip(*levels, strict=True))
        candidates = clip(decode(deltas, anchors), limits[:, None, None])
        solid = (candidates[..., 2:] > candidates[..., :2]).all(-1)
        ranks = torch.where(solid, ranks, -math.inf)
        lowest, limit = torch.finfo(torch.float32).min, min(count, config.test_post_nms)
        kept = suppress(candidates.flatten(0, 1), ranks.flatten(0, 1)[:, None], config.nms_iou, lowest, limit)
        ranks = torch.where(kept.view(ranks.shape), ranks, -math.inf).flatten(1)
        best, index = ranks.topk(min(config.test_post_nms, len(FPN_STRIDES) * count))
        valid = best > -math.inf
        proposals = candidates.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4)) * valid[..., None]
        return proposals[:, :, None], valid

    def place_anchors(self, level: int, index: Tensor, width: int, stride: int) -> Tensor:
        """Computes anchors of a map, as `tailseg.ops.anchors.grid_anchors` has them at these places.

        Args:
            level: of the pyramid; 0 is P2.
            index: places ``[B, K]`` among the anchors of the level: row, column, ratio.
            width: of the map.
            stride: pixels of the image for one cell.

        Returns:
            ``[B, K, 4]``.
        """
        base = self.get_buffer(f"anchors{level}")
        cell = index // len(base)
        row = cell // width
        x, y = (cell - row * width) * stride, row * stride  # the exporter cannot write cell % width
        return torch.stack([x, y, x, y], -1).float() + base[index % len(base)]

    def pool(self, pyramid: Sequence[Tensor], boxes: Tensor, side: int, bounds: Tensor) -> Tensor:
        """Features of boxes ``[B, N, 1, 4]`` from the level of their size, ``[B * N, channels, s, s]``.

        Every level pools all boxes. Boxes of other levels are empty there: they cost nothing, and their features are 0.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            boxes: in pixels of the resized images.
            side: s.
            bounds: of the levels, see `find_level_bounds`.

        Returns:
            The features.
        """
        batch, count = boxes.shape[:2]
        flat = boxes.reshape(batch * count, 4)
        image = torch.arange(batch, device=boxes.device).float()[:, None].expand(batch, count).reshape(-1, 1)
        sides = (flat[:, 2:] - flat[:, :2]).clamp(min=0)
        level = ((sides[:, 0] * sides[:, 1]).sqrt()[:, None] >= bounds).sum(1)
        solid = (sides > 0).all(1, keepdim=True)
        on_level = (level[:, None] == torch.arange(len(STRIDES), device=level.device)) & solid
        rois = torch.cat([image[:, None].expand(-1, len(STRIDES), 1), flat[:, None] * on_level[..., None]], 2)
        parts = zip(pyramid, rois.unbind(1), on_level.unbind(1), STRIDES, strict=False)
        # OpenVINO pools NaN from an empty box, torch and onnxruntime 0
        pooled = [
            torch.where(
                chosen[:, None, None, None],
                roi_align(feature.float(), part, side, 1 / stride, 0, aligned=True),
                0.0,
            )
            for feature, part, chosen, stride in parts
        ]
        return (pooled[0] + pooled[1] + pooled[2] + pooled[3]).to(pyramid[0].dtype)

    def select(self, boxes: Tensor, scores: Tensor) -> Detected:
        """The best detections over all classes, after suppression within each class.

        Args:
            boxes: ``[B, P, C, 4]``, or ``[B, P, 1, 4]`` for all classes.
            scores: ``[B, P, C]``.

        Returns:
            The detections, without masks.
        """
        config, classes = self.model.config.postprocess, self.model.num_classes
        by_class = scores.transpose(1, 2)
        if boxes.shape[2] == classes and classes > 1:
            groups, ranks = boxes.transpose(1, 2).flatten(0, 1), by_class.flatten(0, 1)[:, None]
        else:
            groups, ranks = boxes[:, :, 0], by_class
        kept = suppress(groups, ranks, config.nms_iou, config.score_threshold, config.max_detections)
        kept = kept.view(by_class.shape).transpose(1, 2) & (scores > config.score_threshold)
        best, index = torch.where(kept, scores, 0.0).flatten(1).topk(min(config.max_detections, scores[0].numel()))
        valid = best > 0
        labels = index % classes
        rows = index if boxes.shape[2] > 1 else index // classes
        chosen = boxes.flatten(1, 2).gather(1, rows[..., None].expand(-1, -1, 4)) * valid[..., None]
        labels = labels * valid
        above = valid & (best >= self.thresholds[labels])
        return Detected(chosen, best, labels, valid.sum(1), above, None)

    def predict_masks(self, pyramid: Sequence[Tensor], regions: Tensor, found: Detected) -> Tensor | None:
        """Computes the masks of the detections, each for its own class.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            regions: boxes of the detections in the resized images, ``[B, D, 4]``.
            found: the detections.

        Returns:
            Probabilities ``[B, D, S, S]``; None of a model without masks.
        """
        model: Any = self.model
        if model.config.mask is None:
            return None
        labels = found.labels.flatten()
        pooled = self.pool(pyramid, regions[:, :, None], model.config.mask.pool_size, self.mask_levels)
        if isinstance(model, HybridTaskCascade):
            heads: list[Any] = [model.mask_flow.get_head(i) for i in range(len(model.mask_flow.heads))]
            features = model.mask_flow.features(pooled, stage=len(heads) - 1)
            if model.test_masks == "last":
                heads, features = heads[-1:], features[-1:]
        else:
            heads: list[Any] = list(model.mask_heads) if isinstance(model, CascadeMaskRCNN) else [model.mask_head]
            features = [head.features(pooled) for head in heads]
        pairs = zip(heads, features, strict=True)
        masks = torch.stack([head.predict_at_once(x, labels).float().sigmoid() for head, x in pairs]).mean(0)
        return masks.view(*found.labels.shape, *masks.shape[1:])


def paste(masks: Tensor, boxes: Tensor, sizes: Tensor, threshold: float) -> Tensor:
    """Stretches each mask over its box, like `tailseg.ops.masks.paste_masks`.

    Args:
        masks: probabilities ``[B, D, S, S]``.
        boxes: ``[B, D, 4]`` in pixels of the original files.
        sizes: int64 ``[B, 2]``, their heights and widths.
        threshold: the least probability of a pixel that belongs to the mask.

    Returns:
        bool ``[B, D, H', W']`` for the largest height and width.
    """
    height, width = (cast("int", sizes[:, axis].max().item()) for axis in (0, 1))  # int() would fix it for the exporter
    rows = compute_weights(height, boxes[..., 1], boxes[..., 3], masks.shape[-1])
    columns = compute_weights(width, boxes[..., 0], boxes[..., 2], masks.shape[-1])
    return rows @ masks @ columns.transpose(2, 3) >= threshold


def compute_weights(pixels: int, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Computes the bilinear weight of each cell of a mask at the center of each pixel, along one axis.

    Args:
        pixels: the side of the image.
        low: where the boxes begin, ``[B, D]``.
        high: where they end; without extent all weights are 0.
        cells: of a mask.

    Returns:
        ``[B, D, pixels, cells]``.
    """
    torch._check(pixels >= 1)  # noqa: SLF001 - the exporter knows no bounds of a number that it reads from a tensor
    extent = (high - low)[..., None]
    center = torch.arange(pixels, device=low.device).float() + 0.5 - low[..., None]
    position = (center * (cells / extent.clamp(min=1e-6)) - 0.5)[..., None]
    weights = (1 - (position - torch.arange(cells, device=low.device).float()).abs()).clamp(min=0)
    return torch.where((extent > 0)[..., None], weights, 0.0)


def find_level_bounds(finest_scale: float, num_levels: int) -> Tensor:
    """Finds the root of the area from which `fpn_levels` takes the levels 1, 2, ...: comparisons need no logarithm.

    Runtimes round logarithms differently from torch. The bounds are the smallest float32 numbers that torch puts on a
    level.
    """
    bounds = []
    for level in range(1, num_levels):
        side = torch.tensor(finest_scale * 2**level * (1 + 1e-5))
        zero = torch.tensor(0.0)

        def find_level(side: Tensor) -> int:
            return int((side / finest_scale + 1e-6).log2().floor())

        while find_level(below := torch.nextafter(side, zero)) >= level:
            side = below
        bounds.append(side)
    return torch.stack(bounds)


def decode(deltas: Tensor, references: Tensor, stds: Tensor | None = None) -> Tensor:
    """Moves boxes like `tailseg.ops.boxes.decode_boxes`, with any leading dimensions.

    Args:
        deltas: ``[..., 4]``.
        references: ``[..., 4]``, broadcast against the deltas.
        stds: the deltas are multiplied by these four numbers.

    Returns:
        The moved boxes.
    """
    corner, opposite = references[..., :2], references[..., 2:]
    side = (opposite - corner).clamp(min=1e-6)
    move = deltas if stds is None else deltas * stds
    center = (corner + opposite) / 2 + side * move[..., :2]
    half = side * move[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([center - half, center + half], -1)


def clip(boxes: Tensor, limits: Tensor) -> Tensor:
    """Clips boxes ``[..., 4]`` to 0 .. width and 0 .. height; ``limits`` are width, height, width, height."""
    return torch.minimum(boxes.clamp(min=0), limits)


def decode_head(head: BoxHead, hidden: Tensor, boxes: Tensor, limits: Tensor) -> Tensor:
    """Computes the boxes of a head in the resized image.

    Args:
        head: the box head.
        hidden: its features ``[B * P, K]``.
        boxes: its regions ``[B, P, 1, 4]``.
        limits: ``[B, 4]``, see `clip`.

    Returns:
        ``[B, P, 1, 4]`` of a class-agnostic head, else ``[B, P, C, 4]``.
    """
    deltas = head.predict_deltas(hidden).float().view(boxes.shape[0], boxes.shape[1], -1, 4)
    return clip(decode(deltas, boxes, deltas.new_tensor(head.config.target_stds)), limits[:, None, None])
