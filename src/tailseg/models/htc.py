"""Hybrid Task Cascade without its semantic branch: mask heads learn from refined boxes and pass on their features.

Shapes: B images; R boxes of all images together; D channels; s the pooled side, masks have side S = 2 s.
"""

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tailseg.losses.base import ClassificationLoss
from tailseg.models.box_cascade import BoxCascade, stage_losses
from tailseg.models.config import HTCConfig, MaskHeadConfig, ModelConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.models.mask_head import MaskHead, Positives, detect_masks, mask_losses
from tailseg.models.sampling import RoISample
from tailseg.structures import Detections, Target


class MaskFlow(nn.Module):
    """Mask heads in sequence: each gets the RoI features and the features of the head before it.

    Head i reads ``x_i = x + relu(conv_i(f_{i-1}))``, with x the RoI features, f_{i-1} the features of head i-1 before
    its deconvolution and conv_i a 1x1 convolution, ``convs[i - 1]``. The first head reads x alone: the published code
    gives it a convolution too, which never gets a gradient.

    Source: Chen et al. 2019, "Hybrid Task Cascade for Instance Segmentation", section 3.1.
    """

    def __init__(self, in_channels: int, num_classes: int, config: MaskHeadConfig, *, num_stages: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(MaskHead(in_channels, num_classes, config) for _ in range(num_stages))
        self.convs = nn.ModuleList(nn.Conv2d(config.channels, in_channels, 1) for _ in range(num_stages - 1))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def get_head(self, stage: int) -> MaskHead:
        """The head of a stage, counted from 0."""
        head = self.heads[stage]
        assert isinstance(head, MaskHead)
        return head

    def forward(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Int64[Tensor, " R"],
        *,
        stage: int,
    ) -> Float[Tensor, "R S S"]:
        """Computes the mask logits of a stage. The heads before it run again, on this stage's boxes and with gradient.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            boxes: boxes of each image, in its pixels.
            labels: class of each box, images one after the other.
            stage: whose masks are computed, counted from 0.

        Returns:
            Logits of each box's mask.
        """
        features = self.features(self.get_head(0).pool(pyramid, boxes), stage=stage)
        return self.get_head(stage).predict(features[-1], labels)

    def features(self, pooled: Float[Tensor, "R D_in s s"], *, stage: int) -> list[Float[Tensor, "R D s s"]]:
        """Each head's features before its deconvolution, up to the stage's."""
        features = [self.get_head(0).features(pooled)]
        for i in range(1, stage + 1):
            features.append(self.get_head(i).features(pooled + self.convs[i - 1](features[-1]).relu()))
        return features


@final
class HybridTaskCascade(TwoStageDetector):
    """Hybrid Task Cascade with FPN whose classifiers are trained with copies of ``loss``.

    Training goes as in Cascade Mask R-CNN, but a stage's mask head learns from the boxes that the stage's box head has
    refined, matched and sampled again, and the mask heads pass on their features (`MaskFlow`).

    Test: class logits averaged over the stages, boxes of the last one, masks as ``HTCConfig.test_masks`` says.

    Raises:
        ValueError: the config has no mask head or no ``HTCConfig``, or its boxes are not class-agnostic.

    Source: Chen et al. 2019, "Hybrid Task Cascade for Instance Segmentation".
    """

    def __init__(self, config: ModelConfig, loss: ClassificationLoss) -> None:
        if config.mask is None or not isinstance(config.cascade, HTCConfig):
            raise ValueError(
                "Hybrid Task Cascade needs a model config with mask settings and an HTCConfig, got "
                f"mask={config.mask}, cascade={config.cascade}: start from hybrid_task_cascade()"
            )
        super().__init__(config, loss)
        self.test_masks = config.cascade.test_masks
        self.box_cascade = BoxCascade(config.fpn.channels, config.box, config.cascade.later_stages, loss)
        num_stages = len(self.box_cascade.heads)
        self.mask_flow = MaskFlow(config.fpn.channels, loss.num_classes, config.mask, num_stages=num_stages)

    def roi_losses(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        losses = {}
        for stage, weight in enumerate(self.box_cascade.loss_weights):
            samples = self.box_cascade.sample(stage, proposals, targets)
            box_losses, proposals = self.box_cascade.train_stage(stage, pyramid, samples, sizes)
            refined = self.box_cascade.sample(stage, proposals, targets)
            stage_mask_losses = self.mask_losses(stage, pyramid, refined, targets)
            losses |= stage_losses({**box_losses, **stage_mask_losses}, stage, weight)
        return losses

    def mask_losses(
        self,
        stage: int,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        samples: Sequence[RoISample],
        targets: Sequence[Target],
    ) -> dict[str, Float[Tensor, ""]]:
        """A stage's ``loss_mask``, not yet weighted.

        Args:
            stage: counted from 0.
            pyramid: feature maps P2, P3 ... of all images.
            samples: sampled RoIs of each image.
            targets: ground truth of each image.

        Returns:
            The loss by its name.
        """
        positives = Positives.gather(samples)
        labels = torch.cat([sample.positive_labels for sample in samples])
        logits = self.mask_flow(pyramid, [sample.positive_boxes for sample in samples], labels, stage=stage)
        return mask_losses(logits, positives, targets)

    def detect(
        self,
        pyramid: Sequence[Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        test = self.config.postprocess
        boxes = self.box_cascade.detect(pyramid, proposals, sizes, original_sizes, test)
        return detect_masks(
            self.mask_probabilities, pyramid, boxes, sizes, original_sizes, threshold=test.mask_threshold
        )

    @torch.no_grad()
    def mask_probabilities(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        labels: Int64[Tensor, " R"],
    ) -> Float[Tensor, "R S S"]:
        """Mask probabilities of the boxes of every image, each for its own label: the stages' mean, or the last's.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            boxes: boxes of each image, in its pixels.
            labels: class of each box, images one after the other.

        Returns:
            Probabilities in 0 .. 1.
        """
        last = len(self.mask_flow.heads) - 1
        features = self.mask_flow.features(self.mask_flow.get_head(0).pool(pyramid, boxes), stage=last)
        stages = range(last + 1) if self.test_masks == "mean" else [last]
        logits = [self.mask_flow.get_head(stage).predict(features[stage], labels).float() for stage in stages]
        return torch.stack(logits).sigmoid().mean(0)
