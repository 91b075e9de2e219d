"""Mask head: pooled features to one mask of each RoI's class.

Shapes: R RoIs of all images together, C classes, D channels, s the pooled side (14); masks have side S = 2 s (28).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tailseg.losses.processes import compute_process_share
from tailseg.models.box_head import ImageBoxes
from tailseg.models.carafe import CARAFE
from tailseg.models.config import MaskHeadConfig
from tailseg.models.predictors import class_map, get_temperature, make_temperature, normalized_class_map
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample
from tailseg.ops.boxes import scale_boxes
from tailseg.ops.masks import mask_targets, paste_masks
from tailseg.ops.roi_pool import roi_pool
from tailseg.structures import Detections, Target, to_device

CHUNK = {"cpu": 32, "cuda": 128}
"""RoIs whose masks are computed at a time, and whose features are upsampled at a time in training; limits the memory.

A CPU is as fast with few RoIs. On a GPU every chunk costs the start of some hundred kernels.
"""


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a 2x2 deconvolution of stride 2 or `CARAFE`, and a 1x1 predictor of C masks.

    Source: He et al. 2017, "Mask R-CNN"; He start (fan out), biases zero, as published.
    """

    def __init__(self, in_channels: int, num_classes: int, config: MaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [in_channels] + [config.channels] * (config.num_convs - 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, config.channels, 3, padding=1) for channels in inputs)
        if config.upsample == "carafe":
            self.upsample = CARAFE(config.channels)
        else:
            self.upsample = nn.ConvTranspose2d(config.channels, config.channels, 2, stride=2)
        self.predictor = nn.Conv2d(config.channels, num_classes, 1)
        self.temperature = make_temperature(config.normalized)
        for conv in [*self.convs, self.upsample, self.predictor]:
            if isinstance(conv, CARAFE):
                continue
            assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Int64[Tensor, " R"],
    ) -> Float[Tensor, "R S S"]:
        """Mask logits of the boxes of every image, each for its own label. ``pyramid`` starts with P2 .. P5.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            boxes: boxes of each image, in its pixels.
            labels: class of each box, images one after the other.

        Returns:
            Logits of each box's mask.
        """
        return self.predict(self.features(self.pool(pyramid, boxes)), labels)

    def pool(
        self, pyramid: Sequence[Float[Tensor, "B D_in _ _"]], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R D_in s s"]:
        """RoI features of the boxes of every image, images one after the other."""
        return roi_pool(
            pyramid[: len(STRIDES)],
            boxes,
            output_size=self.config.pool_size,
            strides=STRIDES,
            finest_scale=self.config.finest_scale,
        )

    def features(self, pooled: Float[Tensor, "R D_in s s"]) -> Float[Tensor, "R D s s"]:
        """Applies the convolutions to RoI features; returns the features before the upsampling."""
        x = pooled
        for conv in self.convs:
            x = conv(x).relu_()
        return x

    def predict(self, x: Float[Tensor, "R D s s"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R 2*s 2*s"]:
        """Mask logits from `features`: upsampling and the labels' rows of the predictor.

        Of many RoIs a few at a time, and again in the backward pass: the upsampled features are the largest maps of a
        step, and with the two gradients of their size would be its peak of memory.
        """
        size = get_chunk_size(x)
        if len(x) <= size:
            return self.predict_at_once(x, labels)
        chunks = zip(x.split(size), labels.split(size), strict=True)
        return torch.cat(
            [
                checkpoint(self.predict_at_once, *chunk, use_reentrant=False, preserve_rng_state=False)
                for chunk in chunks
            ]
        )

    def predict_at_once(self, x: Float[Tensor, "R D s s"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R 2*s 2*s"]:
        """`predict` of some RoIs.

        The four outputs of each cell stay where they are, and only the one logit of each is put in its place.
        """
        rois, channels, side, _ = x.shape
        assert self.predictor.bias is not None
        corners = self._enlarge(x).reshape(rois, side * side * 4, channels)
        weight, bias = self.predictor.weight.flatten(1), self.predictor.bias
        if self.config.normalized is None:
            logits = class_map(corners, weight, bias, labels)
        else:
            temperature = get_temperature(self.config.normalized, self.temperature)
            logits = normalized_class_map(corners, weight, bias, labels, self.config.normalized, temperature)
        return logits.view(rois, side, side, 2, 2).permute(0, 1, 3, 2, 4).reshape(rois, 2 * side, 2 * side)

    def _enlarge(self, x: Float[Tensor, "R D s s"]) -> Float[Tensor, "R s _ _"]:
        """The four outputs of each cell, channels last.

        A 2x2 deconvolution of stride 2 makes outputs of each cell that do not overlap: four 1x1 convolutions.
        """
        if isinstance(self.upsample, CARAFE):
            return self.upsample.cells(x)
        channels = x.shape[1]
        weight = self.upsample.weight.permute(2, 3, 1, 0).reshape(4 * channels, channels, 1, 1)
        assert self.upsample.bias is not None
        corners = F.conv2d(x, weight, self.upsample.bias.repeat(4)).relu_()
        return corners.permute(0, 2, 3, 1)  # channels are last in memory: nothing is copied

    def losses(
        self, pyramid: Sequence[Float[Tensor, "B D _ _"]], samples: Sequence[RoISample], targets: Sequence[Target]
    ) -> dict[str, Float[Tensor, ""]]:
        """`mask_losses` of the samples' positives.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            samples: sampled RoIs of each image.
            targets: ground truth of each image.

        Returns:
            ``loss_mask``.
        """
        positives = Positives.gather(samples)
        labels = torch.cat([sample.positive_labels for sample in samples])
        logits = self(pyramid, [sample.positive_boxes for sample in samples], labels)
        return mask_losses(logits, positives, targets)

    @torch.no_grad()
    def probabilities(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Int64[Tensor, " R"],
    ) -> Float[Tensor, "R S S"]:
        """Mask probabilities of the boxes of every image, each for its own label, in float32.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            boxes: boxes of each image, in its pixels.
            labels: class of each box, images one after the other.

        Returns:
            Probabilities in 0 .. 1.
        """
        return self(pyramid, boxes, labels).float().sigmoid()


def get_chunk_size(x: Tensor) -> int:
    return CHUNK.get(x.device.type, CHUNK["cpu"])


class Positives(NamedTuple):
    """The positives of each image in main memory, where their targets are computed.

    They are copied before the mask head runs. A copy from a GPU waits for all work that was started before; copied now,
    the targets are computed on the CPU while the mask head runs on the GPU.
    """

    boxes: tuple[Tensor, ...]
    """``[P, 4]`` each."""
    objects: tuple[list[int], ...]
    """Which of the image's objects each of them is."""

    @classmethod
    def gather(cls, samples: Sequence[RoISample]) -> "Positives":
        counts = [sample.num_positive for sample in samples]
        boxes = torch.cat([sample.positive_boxes for sample in samples]).cpu().split(counts)
        objects = torch.cat([sample.objects for sample in samples]).cpu().split(counts)
        return cls(boxes, tuple(part.tolist() for part in objects))


def mask_losses(
    logits: Float[Tensor, "R S S"], positives: Positives, targets: Sequence[Target]
) -> dict[str, Float[Tensor, ""]]:
    """``loss_mask``: binary cross entropy, the mean over all processes' positives' pixels in their own class's channel.

    Args:
        logits: of the positives of all images.
        positives: of each image.
        targets: of each image.

    Returns:
        ``loss_mask``, a scalar.
    """
    logits, positives = drop_empty_masks(logits.float(), positives, targets)
    wanted = [
        mask_targets(
            [target.masks[k] for k in objects],
            [target.get_frame(k) for k in objects],
            boxes,
            size=logits.shape[-1],
        )
        for boxes, objects, target in zip(*positives, targets, strict=True)
    ]
    loss = F.binary_cross_entropy_with_logits(logits, to_device(torch.cat(wanted), logits.device), reduction="sum")
    share = compute_process_share(len(logits), logits.device)
    return {"loss_mask": loss / max(logits.numel(), 1) * share}


def drop_empty_masks(
    logits: Float[Tensor, "R S S"], positives: Positives, targets: Sequence[Target]
) -> tuple[Float[Tensor, "K S S"], Positives]:
    """Leaves out the objects whose mask has no pixel: such a mask would teach that nothing is there.

    Args:
        logits: of the positives of all images.
        positives: of each image.
        targets: ground truth of each image.

    Returns:
        The logits and the positives that are left.
    """
    annotated = [
        [place for place, k in enumerate(objects) if target.masks[k] != ()]
        for objects, target in zip(positives.objects, targets, strict=True)
    ]
    if sum(map(len, annotated)) == len(logits):
        return logits, positives
    parts = zip(logits.split([len(objects) for objects in positives.objects]), annotated, strict=True)
    boxes = tuple(boxes[places] for boxes, places in zip(positives.boxes, annotated, strict=True))
    objects = tuple(
        [image[place] for place in places] for image, places in zip(positives.objects, annotated, strict=True)
    )
    return torch.cat([part[places] for part, places in parts]), Positives(boxes, objects)


Probabilities = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]
"""From a pyramid, the boxes of each image and the labels of all boxes to mask probabilities ``[R, S, S]``."""


@torch.no_grad()
def detect_masks(
    probabilities: Probabilities,
    pyramid: Sequence[Float[Tensor, "B D _ _"]],
    boxes: Sequence[ImageBoxes],
    sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    *,
    threshold: float,
) -> list[Detections]:
    """The detections with their masks.

    Args:
        probabilities: of a mask head, or of several together.
        pyramid: of all images.
        boxes: boxes, scores and labels of each image, in pixels of the original file.
        sizes: ``(height, width)`` of each resized image.
        original_sizes: ``(height, width)`` of the files.
        threshold: least probability of the mask.

    Returns:
        Detections of each image, in the order of ``boxes``.
    """
    detections = []
    for i, (image, (height, width), (original_height, original_width)) in enumerate(
        zip(boxes, sizes, original_sizes, strict=True)
    ):
        # the mask head pools the features inside the final box, in pixels of the resized image
        regions = scale_boxes(image.boxes, width / original_width, height / original_height)
        masks = _in_chunks(probabilities, [level[i : i + 1] for level in pyramid], regions, image.labels)
        pasted = paste_masks(masks, image.boxes, original_height, original_width, threshold=threshold)
        detections.append(Detections(*image, tuple(pasted), original_height, original_width))
    return detections


def _in_chunks(
    probabilities: Probabilities,
    maps: Sequence[Float[Tensor, "1 D _ _"]],
    boxes: Float[Tensor, "R 4"],
    labels: Int64[Tensor, " R"],
) -> Float[Tensor, "R S S"]:
    """The masks of one image's boxes, a `CHUNK` at a time."""
    size = get_chunk_size(boxes)
    chunks = zip(boxes.split(size), labels.split(size), strict=True)
    return torch.cat([probabilities(maps, [chunk], chunk_labels) for chunk, chunk_labels in chunks])
