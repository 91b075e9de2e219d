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
from tailseg.models.config import MaskHeadConfig
from tailseg.models.predictors import class_map, normalized_class_map
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample
from tailseg.ops.boxes import scale_boxes
from tailseg.ops.masks import mask_targets, paste_masks
from tailseg.ops.roi_pool import roi_pool
from tailseg.structures import Detections, Target, to_device

CHUNK = {"cpu": 32, "cuda": 128}
"""RoIs at a time at test, and whose features are upsampled in training: bounds the memory of these.

A CPU is as quick with few; on a GPU every part costs the start of some hundred kernels.
"""


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a 2x2 deconvolution of stride 2 and a 1x1 predictor of C masks.

    Source: He et al. 2017, "Mask R-CNN"; He start (fan out), biases zero, as published.
    """

    def __init__(self, in_channels: int, num_classes: int, config: MaskHeadConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [in_channels] + [config.channels] * (config.num_convs - 1)
        self.convs = nn.ModuleList(nn.Conv2d(channels, config.channels, 3, padding=1) for channels in inputs)
        self.upsample = nn.ConvTranspose2d(config.channels, config.channels, 2, stride=2)
        self.predictor = nn.Conv2d(config.channels, num_classes, 1)
        for conv in [*self.convs, self.upsample, self.predictor]:
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
        """Mask logits of the boxes of every image, each for its own label. ``pyramid`` starts with P2 .. P5."""
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
        """What the convolutions make of RoI features: the features before the deconvolution."""
        x = pooled
        for conv in self.convs:
            x = conv(x).relu_()
        return x

    def predict(self, x: Float[Tensor, "R D s s"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R 2*s 2*s"]:
        """Mask logits from `features`: deconvolution, ReLU and the labels' rows of the predictor.

        Of many RoIs a few at a time, and again in the backward pass: the upsampled features are the largest maps of a
        step, and with the two gradients of their size would be its peak of memory.
        """
        size = chunk_size(x)
        if len(x) <= size:
            return self._predict(x, labels)
        chunks = zip(x.split(size), labels.split(size), strict=True)
        return torch.cat(
            [checkpoint(self._predict, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        )

    def _predict(self, x: Float[Tensor, "R D s s"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R 2*s 2*s"]:
        """`predict` of some RoIs.

        A 2x2 deconvolution of stride 2 makes four outputs of each cell that do not overlap: four 1x1 convolutions.
        Its outputs stay where they are, and only the one logit of each is put in its place.
        """
        rois, channels, side, _ = x.shape
        weight = self.upsample.weight.permute(2, 3, 1, 0).reshape(4 * channels, channels, 1, 1)
        assert self.upsample.bias is not None
        assert self.predictor.bias is not None
        corners = F.conv2d(x, weight, self.upsample.bias.repeat(4)).relu_()
        # channels are last in memory: nothing is copied
        corners = corners.permute(0, 2, 3, 1).reshape(rois, side * side * 4, channels)
        weight, bias = self.predictor.weight.flatten(1), self.predictor.bias
        if self.config.normalized is None:
            logits = class_map(corners, weight, bias, labels)
        else:
            logits = normalized_class_map(corners, weight, bias, labels, self.config.normalized)
        return logits.view(rois, side, side, 2, 2).permute(0, 1, 3, 2, 4).reshape(rois, 2 * side, 2 * side)

    def losses(
        self, pyramid: Sequence[Float[Tensor, "B D _ _"]], samples: Sequence[RoISample], targets: Sequence[Target]
    ) -> dict[str, Float[Tensor, ""]]:
        """`mask_losses` of the samples' positives."""
        positives = Positives.of(samples)
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
        """Mask probabilities of the boxes of every image, each for its own label, in float32."""
        return self(pyramid, boxes, labels).float().sigmoid()


def chunk_size(x: Tensor) -> int:
    return CHUNK.get(x.device.type, CHUNK["cpu"])


class Positives(NamedTuple):
    """The positives of each image in main memory, where their targets are made.

    To be fetched before the mask head runs: a copy from a GPU waits for all that it has been given to do, and the
    targets are made while the mask head is at work.
    """

    boxes: tuple[Tensor, ...]
    """``[P, 4]`` each."""
    objects: tuple[list[int], ...]
    """Which of the image's objects each of them is."""

    @classmethod
    def of(cls, samples: Sequence[RoISample]) -> "Positives":
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
    """
    logits, positives = without_empty_masks(logits.float(), positives, targets)
    wanted = [
        mask_targets([target.masks[k] for k in objects], target.frame, boxes, size=logits.shape[-1])
        for boxes, objects, target in zip(*positives, targets, strict=True)
    ]
    loss = F.binary_cross_entropy_with_logits(logits, to_device(torch.cat(wanted), logits.device), reduction="sum")
    share = compute_process_share(len(logits), logits.device)
    return {"loss_mask": loss / max(logits.numel(), 1) * share}


def without_empty_masks(
    logits: Float[Tensor, "R S S"], positives: Positives, targets: Sequence[Target]
) -> tuple[Float[Tensor, "K S S"], Positives]:
    """Those of objects whose mask has a pixel: a mask without any would teach that nothing is there."""
    kept = [
        [place for place, k in enumerate(objects) if target.masks[k] != ()]
        for objects, target in zip(positives.objects, targets, strict=True)
    ]
    if sum(map(len, kept)) == len(logits):
        return logits, positives
    parts = zip(logits.split([len(objects) for objects in positives.objects]), kept, strict=True)
    boxes = tuple(boxes[places] for boxes, places in zip(positives.boxes, kept, strict=True))
    objects = tuple([of[place] for place in places] for of, places in zip(positives.objects, kept, strict=True))
    return torch.cat([part[places] for part, places in parts]), Positives(boxes, objects)


Probabilities = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Tensor]
"""From a pyramid, the boxes of each image and the labels of all boxes to mask probabilities ``[R, S, S]``."""


@torch.no_grad()
def detect_masks(
    probabilities: Probabilities,
    pyramid: Sequence[Float[Tensor, "B D _ _"]],
    found: Sequence[ImageBoxes],
    sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    *,
    threshold: float,
) -> list[Detections]:
    """The detections with their masks.

    Args:
        probabilities: of a mask head, or of several together.
        pyramid: of all images.
        found: boxes and labels of each image, in pixels of the original file.
        sizes: ``(height, width)`` of each image at hand.
        original_sizes: the same of the files.
        threshold: least probability of the mask.
    """
    detections = []
    for i, (boxes, (height, width), (original_height, original_width)) in enumerate(
        zip(found, sizes, original_sizes, strict=True)
    ):
        # the mask head reads the features where the final box lies in the image at hand
        regions = scale_boxes(boxes.boxes, width / original_width, height / original_height)
        masks = _in_chunks(probabilities, [level[i : i + 1] for level in pyramid], regions, boxes.labels)
        pasted = paste_masks(masks, boxes.boxes, original_height, original_width, threshold=threshold)
        detections.append(Detections(*boxes, tuple(pasted), original_height, original_width))
    return detections


def _in_chunks(
    probabilities: Probabilities,
    maps: Sequence[Float[Tensor, "1 D _ _"]],
    boxes: Float[Tensor, "R 4"],
    labels: Int64[Tensor, " R"],
) -> Float[Tensor, "R S S"]:
    """The masks of one image's boxes, a `CHUNK` at a time."""
    size = chunk_size(boxes)
    chunks = zip(boxes.split(size), labels.split(size), strict=True)
    return torch.cat([probabilities(maps, [some], chosen) for some, chosen in chunks])
