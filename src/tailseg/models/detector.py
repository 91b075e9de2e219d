"""What every two-stage detector shares: images to features to proposals.

A detector takes images of any size and, in training, their targets; the parts after the proposals are its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from tailseg.losses.base import ClassificationLoss
from tailseg.models.backbones import build_backbone
from tailseg.models.config import ModelConfig
from tailseg.models.fpn import FPN
from tailseg.models.images import ImageBatcher, normalization
from tailseg.models.rpn import RPN
from tailseg.structures import Detections, Target


class Detector(nn.Module, ABC):
    """Backbone, FPN and RPN; subclasses add the heads."""

    def __init__(self, config: ModelConfig, loss: ClassificationLoss) -> None:
        super().__init__()
        self.config = config
        self.num_classes = loss.num_classes
        self.batcher = ImageBatcher(*normalization(config.backbone))
        self.backbone = build_backbone(config.backbone)
        self.fpn = FPN(self.backbone.out_channels, config.fpn)
        self.rpn = RPN(config.fpn.channels, config.rpn)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        original_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses when targets are given, detections otherwise.

        Args:
            images: RGB ``[3, h, w]`` each of its own size, uint8 or float in 0 .. 255, on the model's device.
            targets: ground truth of each image, in its pixels.
            original_sizes: ``(height, width)`` of the files that the images were resized from, into whose pixels
                detections are put; None when the images have their original size.

        Returns:
            Scalar losses by name, to be summed; or detections of each image, best first.

        Raises:
            ValueError: no image, a malformed image, lists of different lengths, no targets in training mode, or
                original sizes beside targets.
        """
        _check_arguments(images, targets, original_sizes, training=self.training)
        batch = self.batcher(images)
        pyramid = self.fpn(self.backbone(batch.tensors))
        output = self.rpn(pyramid)
        proposals = self.rpn.proposals(output, batch.sizes)
        if targets is not None:
            return {
                **self.rpn.losses(pyramid, output, targets, batch.sizes),
                **self.roi_losses(pyramid, proposals, targets, batch.sizes),
            }
        return self.detect(pyramid, proposals, batch.sizes, original_sizes or batch.sizes)

    @abstractmethod
    def roi_losses(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of the heads; ``sizes`` are those of the images without padding."""

    @abstractmethod
    def detect(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Detections of each image in pixels of its original file."""


def _check_arguments(
    images: Sequence[Tensor],
    targets: Sequence[Target] | None,
    original_sizes: Sequence[tuple[int, int]] | None,
    *,
    training: bool,
) -> None:
    if targets is None and training:
        raise ValueError("a detector in training mode needs targets; call model.eval() to detect")
    if targets is not None and original_sizes is not None:
        raise ValueError("original_sizes only serve detection: leave them out where targets are given")
    for name, values in (("targets", targets), ("original_sizes", original_sizes)):
        if values is not None and len(values) != len(images):
            raise ValueError(f"expected one entry of {name} for each of {len(images)} images, got {len(values)}")
