"""Mask head: pooled features to one mask of each RoI's class.

Shapes: R RoIs of all images together, C classes, D channels, s the pooled side (14); masks have side S = 2 s (28).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.models.config import MaskHeadConfig
from tailseg.models.predictors import class_map, normalised_class_map
from tailseg.models.resnet import STRIDES
from tailseg.models.sampling import RoISample
from tailseg.ops.masks import mask_targets
from tailseg.ops.roi_pool import roi_pool
from tailseg.structures import Target

TEST_CHUNK = 50
"""RoIs at a time at test: bounds the memory of the upsampled features."""


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
        x = roi_pool(
            pyramid[: len(STRIDES)],
            boxes,
            output_size=self.config.pool_size,
            strides=STRIDES,
            finest=self.config.finest,
        )
        for conv in self.convs:
            x = conv(x).relu_()
        return self._predict(x, labels)

    def _predict(self, x: Float[Tensor, "R D s s"], labels: Int64[Tensor, " R"]) -> Float[Tensor, "R 2*s 2*s"]:
        """Deconvolution, ReLU and the labels' rows of the predictor.

        A 2x2 deconvolution of stride 2 makes four outputs of each cell that do not overlap: four 1x1 convolutions.
        Its outputs stay where they are, and only the one logit of each is put in its place.
        """
        rois, channels, side, _ = x.shape
        weight = self.upsample.weight.permute(2, 3, 1, 0).reshape(4 * channels, channels, 1, 1)
        assert self.upsample.bias is not None
        assert self.predictor.bias is not None
        corners = F.conv2d(x, weight, self.upsample.bias.repeat(4)).relu_()
        corners = corners.reshape(rois * 4, channels, side * side)
        weight, bias, labels = self.predictor.weight.flatten(1), self.predictor.bias, labels.repeat_interleave(4)
        if self.config.normalised is None:
            logits = class_map(corners, weight, bias, labels)
        else:
            logits = normalised_class_map(corners, weight, bias, labels, self.config.normalised)
        return logits.view(rois, 2, 2, side, side).permute(0, 3, 1, 4, 2).reshape(rois, 2 * side, 2 * side)

    def losses(
        self, pyramid: Sequence[Float[Tensor, "B D _ _"]], samples: Sequence[RoISample], targets: Sequence[Target]
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss_mask``: binary cross entropy, the mean over the positives' pixels in their own class's channel."""
        labels = torch.cat([sample.positive_labels for sample in samples])
        logits = self(pyramid, [sample.positive_boxes for sample in samples], labels).float()
        wanted = [
            mask_targets(
                [target.masks[k] for k in sample.objects.tolist()],
                target.frame,
                sample.positive_boxes,
                size=logits.shape[-1],
            )
            for sample, target in zip(samples, targets, strict=True)
        ]
        loss = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted).to(logits), reduction="sum")
        return {"loss_mask": loss / max(logits.numel(), 1)}

    @torch.no_grad()
    def probabilities(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Sequence[Int64[Tensor, " _"]],
    ) -> list[Float[Tensor, "_ S S"]]:
        """Mask probabilities of each image's boxes, 50 at a time."""
        results = []
        for i, (image_boxes, image_labels) in enumerate(zip(boxes, labels, strict=True)):
            maps = [level[i : i + 1] for level in pyramid]
            parts = [
                self(maps, [some], chosen).float().sigmoid()
                for some, chosen in zip(image_boxes.split(TEST_CHUNK), image_labels.split(TEST_CHUNK), strict=True)
            ]
            results.append(torch.cat(parts))
        return results
