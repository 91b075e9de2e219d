"""Box head: pooled features to class logits and box deltas.

Shapes: R RoIs of all images together, C classes, L logits (the loss decides), K hidden units.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.losses.base import ClassificationLoss
from tailseg.models.config import BoxHeadConfig, TestConfig
from tailseg.models.predictors import NormalisedLinear, class_linear
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample
from tailseg.ops.boxes import clip_boxes, decode_boxes, encode_boxes, scale_boxes
from tailseg.ops.nms import class_nms
from tailseg.ops.roi_pool import roi_pool


class ImageBoxes(NamedTuple):
    """Detections of one image before masks, best first, boxes in pixels of the original file."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class BoxHead(nn.Module):
    """Two fully connected layers, a classifier and a box regressor.

    As published the classifier starts at one constant weight with the loss's bias, so that all classes start alike, and
    the other layers at PyTorch's defaults. A normalised classifier starts at random, since equal weights would point
    along the features; it starts with the loss's bias too, where the published one starts at 0.
    """

    def __init__(self, in_channels: int, config: BoxHeadConfig, loss: ClassificationLoss) -> None:
        super().__init__()
        self.config = config
        self.loss = loss
        self.fc1 = nn.Linear(in_channels * config.pool_size**2, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.hidden)
        if config.normalised is None:
            self.classifier = nn.Linear(config.hidden, loss.num_logits)
            nn.init.constant_(self.classifier.weight, config.classifier_weight)
        else:
            self.classifier = NormalisedLinear(config.hidden, loss.num_logits, config.normalised)
        self.regressor = nn.Linear(config.hidden, 4 if config.class_agnostic else 4 * loss.num_classes)
        with torch.no_grad():
            self.classifier.bias.copy_(loss.init_bias())

    def forward(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R K"]:
        """Hidden features of the boxes of every image, images one after the other. ``pyramid`` starts with P2..P5."""
        pooled = roi_pool(
            pyramid[: len(STRIDES)],
            boxes,
            output_size=self.config.pool_size,
            strides=STRIDES,
            finest=self.config.finest,
        )
        return self.fc2(self.fc1(pooled.flatten(1)).relu_()).relu_()

    def losses(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], samples: Sequence[RoISample]
    ) -> dict[str, Float[Tensor, ""]]:
        """The classification loss's terms, and ``loss_box``: L1 of the positives divided by all sampled RoIs."""
        hidden = self(pyramid, [sample.boxes for sample in samples])
        labels = torch.cat([sample.labels for sample in samples])
        losses = self.loss(self.classifier(hidden), labels)
        return {**losses, "loss_box": self._box_loss(hidden, samples)}

    def _box_loss(self, hidden: Float[Tensor, "R K"], samples: Sequence[RoISample]) -> Float[Tensor, ""]:
        parts = hidden.split([len(sample.boxes) for sample in samples])
        x = torch.cat([part[: sample.num_positive] for part, sample in zip(parts, samples, strict=True)])
        if self.config.class_agnostic:
            deltas = self.regressor(x)
        else:
            labels = torch.cat([sample.positive_labels for sample in samples])
            weight = self.regressor.weight.view(-1, 4, x.shape[1])
            deltas = class_linear(x, weight, self.regressor.bias.view(-1, 4), labels)
        targets = encode_boxes(
            torch.cat([sample.object_boxes for sample in samples]),
            torch.cat([sample.positive_boxes for sample in samples]),
            stds=self.config.target_stds,
        )
        return F.l1_loss(deltas.float(), targets, reduction="sum") / max(len(hidden), 1)

    @torch.no_grad()
    def detect(
        self,
        pyramid: Sequence[Float[Tensor, "B C _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
        config: TestConfig,
    ) -> list[ImageBoxes]:
        """Detections of each image.

        Scores by the loss's activation, decoded and clipped boxes moved to the original file before NMS within each
        class, then the best over all classes.
        """
        counts = [len(boxes) for boxes in proposals]
        hidden = self(pyramid, proposals)
        scores = self.loss.scores(self.classifier(hidden)).split(counts)
        deltas = self.regressor(hidden).float().split(counts)
        detections = []
        for i, ((height, width), (original_height, original_width)) in enumerate(
            zip(sizes, original_sizes, strict=True)
        ):
            boxes = decode_boxes(deltas[i], proposals[i], stds=self.config.target_stds)
            # one box a class, as [R, C, 4]; a class-agnostic regressor's one box stays [R, 4]
            boxes = clip_boxes(boxes.view(-1, 4), height, width)
            boxes = scale_boxes(boxes, original_width / width, original_height / height)
            if not self.config.class_agnostic:
                boxes = boxes.view(counts[i], self.loss.num_classes, 4)
            found = class_nms(
                boxes,
                scores[i],
                score_threshold=config.score_threshold,
                iou_threshold=config.nms_iou,
                max_detections=config.max_detections,
            )
            detections.append(ImageBoxes(found.boxes, found.scores, found.labels))
        return detections
