"""Box head: pooled features to class logits and box deltas.

Shapes: R RoIs of all images together, I pooled features of a RoI, C classes, L logits (the loss decides), K hidden
units.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tailseg.losses.base import ClassificationLoss
from tailseg.losses.processes import compute_process_share
from tailseg.losses.unverified import hide_unverified, stack_unverified
from tailseg.models.config import BoxHeadConfig, PostprocessConfig
from tailseg.models.predictors import NormalizedLinear, WrappedCauchyLinear, class_linear
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample
from tailseg.ops.boxes import clip_boxes, decode_boxes, encode_boxes, scale_boxes, smooth_l1_sum
from tailseg.ops.nms import BoxLookup, class_nms
from tailseg.ops.roi_pool import roi_pool

TEST_CHUNK = 500
"""Boxes whose rows of the regressor are gathered together; the rows of a box are 16 kB."""
GATHERED_AT_MOST = 8000
"""For more boxes than this the whole regressor is faster."""
REGIONS_AT_A_TIME = 100
"""Regions for which the whole regressor is computed at a time; limits the memory."""


class ImageBoxes(NamedTuple):
    """Detections of one image before masks, best first, boxes in pixels of the original file."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def _start_as_mmdetection(hidden: Sequence[nn.Linear], regressors: Sequence[nn.Linear]) -> None:
    """Initializes the layers of a box head as mmdetection does."""
    for layer in hidden:
        nn.init.xavier_uniform_(layer.weight)
    for layer in regressors:
        nn.init.normal_(layer.weight, std=0.001)
    for layer in [*hidden, *regressors]:
        nn.init.zeros_(layer.bias)


class BoxHead(nn.Module):
    """Two fully connected layers, a classifier and a box regressor.

    As published, all weights of the classifier have the same initial value, its bias is the loss's, and the other
    layers have PyTorch's initialization. A normalized classifier has random initial weights, because equal weights
    would point along the features. Its initial bias is the loss's too; the published one is 0.

    With ``shared_share`` alpha above 0, class j has the regressor alpha W_0 + (1 - alpha) W_j, of which all classes
    train W_0: the class-agnostic branch (CAB) of K. Zhu et al., "Rectify the Regression Bias in Long-Tailed Object
    Detection", ECCV 2024. The formula and alpha = 0.5 are from a public summary of the paper: its authors published no
    code, and the text itself was not read. Biases are mixed like weights. The paper's branch for masks is not here.
    """

    def __init__(self, in_channels: int, config: BoxHeadConfig, loss: ClassificationLoss) -> None:
        super().__init__()
        self.config = config
        self.loss = loss
        self.fc1 = nn.Linear(in_channels * config.pool_size**2, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.hidden)
        if config.wrapped_cauchy is not None:
            self.classifier = WrappedCauchyLinear(config.hidden, loss.num_logits, config.wrapped_cauchy)
        elif config.normalized is None:
            self.classifier = nn.Linear(config.hidden, loss.num_logits)
            nn.init.constant_(self.classifier.weight, config.classifier_weight)
        else:
            self.classifier = NormalizedLinear(config.hidden, loss.num_logits, config.normalized)
        self.regressor = nn.Linear(config.hidden, 4 if config.class_agnostic else 4 * loss.num_classes)
        self.shared_regressor = nn.Linear(config.hidden, 4) if config.shared_share else None
        if config.first_weights == "xavier":
            shared = [] if self.shared_regressor is None else [self.shared_regressor]
            _start_as_mmdetection([self.fc1, self.fc2], [self.regressor, *shared])
        if config.wrapped_cauchy is None:  # there the bias is added to a cosine, which it must not leave
            with torch.no_grad():
                self.classifier.bias.copy_(loss.init_bias())

    def forward(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R K"]:
        """Hidden features of the boxes of every image, images one after the other. ``pyramid`` starts with P2..P5."""
        return self.embed(self.pool(pyramid, boxes))

    def pool(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R I"]:
        """Pooled features of the boxes of every image, images one after the other, as the first layer takes them."""
        pooled = roi_pool(
            pyramid[: len(STRIDES)],
            boxes,
            output_size=self.config.pool_size,
            strides=STRIDES,
            finest_scale=self.config.finest_scale,
        )
        return pooled.flatten(1)

    def embed(self, pooled: Float[Tensor, "R I"]) -> Float[Tensor, "R K"]:
        """Applies the two hidden layers to pooled features."""
        return self.fc2(self.fc1(pooled).relu_()).relu_()

    def losses(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]], samples: Sequence[RoISample]
    ) -> dict[str, Float[Tensor, ""]]:
        """The classification loss's terms, and ``loss_box``: smooth L1 of the positives divided by all sampled RoIs.

        Both are means over the RoIs of all processes, see `compute_process_share`.
        """
        return self.hidden_losses(self(pyramid, [sample.boxes for sample in samples]), samples)

    def hidden_losses(self, hidden: Float[Tensor, "R K"], samples: Sequence[RoISample]) -> dict[str, Float[Tensor, ""]]:
        """`losses` from the hidden features of the samples, for callers that have computed them already."""
        labels = torch.cat([sample.labels for sample in samples])
        logits = self.classifier(hidden)
        rows, counts = [sample.unverified for sample in samples], [len(sample.boxes) for sample in samples]
        if (unverified := stack_unverified(rows, counts, self.loss.num_classes, logits.device)) is not None:
            logits = hide_unverified(logits, labels, *unverified)
        losses = {**self.loss(logits, labels), "loss_box": self._box_loss(hidden, samples)}
        share = compute_process_share(len(hidden), hidden.device)
        return {name: value * share for name, value in losses.items()}

    def _box_loss(self, hidden: Float[Tensor, "R K"], samples: Sequence[RoISample]) -> Float[Tensor, ""]:
        parts = hidden.split([len(sample.boxes) for sample in samples])
        x = torch.cat([part[: sample.num_positive] for part, sample in zip(parts, samples, strict=True)])
        if self.config.class_agnostic:
            deltas = self.regressor(x)
        else:
            deltas = self._class_deltas(x, torch.cat([sample.positive_labels for sample in samples]))
        targets = encode_boxes(
            torch.cat([sample.object_boxes for sample in samples]),
            torch.cat([sample.positive_boxes for sample in samples]),
            stds=self.config.target_stds,
        )
        return smooth_l1_sum(deltas.float(), targets, beta=self.config.smooth_l1_beta) / max(len(hidden), 1)

    def predict_deltas(self, hidden: Float[Tensor, "R K"]) -> Float[Tensor, "R N 4"]:
        """Deltas of the regions for each class, N = C, or for all classes together, N = 1."""
        # sizes that are known: there may be no region, and an exported graph keeps their number open
        deltas = self.regressor(hidden).unflatten(1, (self.regressor.out_features // 4, 4))
        return deltas if self.shared_regressor is None else self._mix(deltas, self.shared_regressor(hidden)[:, None])

    def _class_deltas(self, hidden: Float[Tensor, "R K"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R 4"]:
        """Deltas of the regions, each for its own class."""
        weight = self.regressor.weight.view(-1, 4, hidden.shape[1])
        deltas = class_linear(hidden, weight, self.regressor.bias.view(-1, 4), labels)
        return deltas if self.shared_regressor is None else self._mix(deltas, self.shared_regressor(hidden))

    def _mix(self, deltas: Float[Tensor, "*N 4"], shared: Float[Tensor, "*M 4"]) -> Float[Tensor, "*N 4"]:
        return deltas.lerp(shared.to(deltas.dtype), self.config.shared_share)

    @torch.no_grad()
    def detect(
        self,
        pyramid: Sequence[Float[Tensor, "B C _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
        config: PostprocessConfig,
    ) -> list[ImageBoxes]:
        """Detections of each image.

        Scores by the loss's activation, decoded and clipped boxes moved to the original file before NMS within each
        class, then the best over all classes.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            proposals: boxes of each image, in its pixels.
            sizes: ``(height, width)`` of each image without padding.
            original_sizes: ``(height, width)`` of each original file.
            config: score threshold, IoU threshold of NMS, and number of detections.

        Returns:
            Boxes, scores and labels of each image, best first.
        """
        hidden = self(pyramid, proposals)
        scores = self.loss.scores(self.classifier(hidden)).split([len(boxes) for boxes in proposals])
        parts = zip(hidden.split([len(boxes) for boxes in proposals]), proposals, sizes, strict=True)
        boxes = [self.decode_class_boxes(part, references, size) for part, references, size in parts]
        return best_detections(boxes, scores, sizes, original_sizes, config)

    def decode_class_boxes(
        self, hidden: Float[Tensor, "R K"], boxes: Float[Tensor, "R 4"], size: tuple[int, int]
    ) -> Float[Tensor, "R 4"] | BoxLookup:
        """`decode` for one image: one box for all classes, or a function that decodes boxes of given RoIs and classes.

        Args:
            hidden: hidden features of the image's boxes.
            boxes: RoIs of the image.
            size: ``(height, width)`` of the image without padding.

        Returns:
            Boxes ``[R, 4]``, or the function.
        """
        if self.config.class_agnostic:
            return self.decode(hidden, [boxes], [size])[0]

        def decode_rois(deltas: Float[Tensor, "P 4"], rois: Int64[Tensor, " P"]) -> Float[Tensor, "P 4"]:
            return clip_boxes(decode_boxes(deltas.float(), boxes[rois], stds=self.config.target_stds), *size)

        def look_up(rois: Int64[Tensor, " P"], labels: Int64[Tensor, " P"]) -> Float[Tensor, "P 4"]:
            if len(rois) <= GATHERED_AT_MOST:
                pairs = zip(rois.split(TEST_CHUNK), labels.split(TEST_CHUNK), strict=True)
                return decode_rois(torch.cat([self._class_deltas(hidden[r], c) for r, c in pairs]), rois)
            deltas = hidden.new_empty(len(rois), 4, dtype=torch.float32)
            for start in range(0, len(hidden), REGIONS_AT_A_TIME):
                rows = hidden[start : start + REGIONS_AT_A_TIME]
                within = ((rois >= start) & (rois < start + len(rows))).nonzero()[:, 0]
                of_classes = self.predict_deltas(rows)
                deltas[within] = of_classes[rois[within] - start, labels[within]].float()
            return decode_rois(deltas, rois)

        return look_up

    @torch.no_grad()
    def decode(
        self,
        hidden: Float[Tensor, "R K"],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Float[Tensor, "_ 4"] | Float[Tensor, "_ C 4"]]:
        """Moves each image's boxes by the deltas of the regressor and clips them to the image.

        There is one box for each class, or one for all classes from a class-agnostic regressor.

        Args:
            hidden: hidden features of the boxes of every image.
            boxes: boxes of each image, in its pixels.
            sizes: ``(height, width)`` of each image without padding.

        Returns:
            Boxes ``[R, 4]`` or ``[R, C, 4]`` of each image.
        """
        deltas = self.predict_deltas(hidden).float().split([len(part) for part in boxes])
        decoded = []
        for part, references, (height, width) in zip(deltas, boxes, sizes, strict=True):
            moved = decode_boxes(part.flatten(1), references, stds=self.config.target_stds)
            clipped = clip_boxes(moved.view(-1, 4), height, width)
            decoded.append(clipped if self.config.class_agnostic else clipped.view(len(part), self.loss.num_classes, 4))
        return decoded


def best_detections(
    boxes: Sequence[Float[Tensor, "_ 4"] | BoxLookup],
    scores: Sequence[Float[Tensor, "_ C"]],
    sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    config: PostprocessConfig,
) -> list[ImageBoxes]:
    """The best detections of each image after NMS within each class, in pixels of the original file.

    Args:
        boxes: of each RoI in the resized image, or a function that computes the boxes of given RoIs and classes.
        scores: of each RoI and class.
        sizes: ``(height, width)`` of each resized image.
        original_sizes: ``(height, width)`` of the files.
        config: threshold, NMS and how many.

    Returns:
        Boxes, scores and labels of each image, best first.
    """
    detections = []
    for image_boxes, image_scores, (height, width), (original_height, original_width) in zip(
        boxes, scores, sizes, original_sizes, strict=True
    ):
        scale_x, scale_y = original_width / width, original_height / height
        best = class_nms(
            _scale(image_boxes, scale_x, scale_y),
            image_scores,
            score_threshold=config.score_threshold,
            iou_threshold=config.nms_iou,
            max_detections=config.max_detections,
        )
        detections.append(ImageBoxes(best.boxes, best.scores, best.labels))
    return detections


def _scale(boxes: Float[Tensor, "R 4"] | BoxLookup, scale_x: float, scale_y: float) -> Float[Tensor, "R 4"] | BoxLookup:
    if isinstance(boxes, Tensor):
        return scale_boxes(boxes, scale_x, scale_y)
    return lambda rois, labels: scale_boxes(boxes(rois, labels), scale_x, scale_y)
