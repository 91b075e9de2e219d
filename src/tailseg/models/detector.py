"""The interface of every detector, and what the two-stage detectors share: from images to features to proposals."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from tailseg.losses.base import ClassificationLoss
from tailseg.models.backbones import build_backbone, check_maps, get_out_channels
from tailseg.models.config import ModelConfig
from tailseg.models.fpn import FPN
from tailseg.models.images import ImageBatcher, get_normalization, stack_maps
from tailseg.models.rpn import RPN
from tailseg.structures import Detections, ImageMaps, Target


class Detector(nn.Module, ABC):
    """The base class of every detector, built-in or your own.

    Training, testing and `tailseg.Predictor` call only what stands here; `forward` has no default.

    Attributes:
        has_masks: whether its detections have masks; `build_detector` sets it as the settings say.
        num_classes: C, without background; `build_detector` sets it.
    """

    has_masks: bool = True
    num_classes: int

    @abstractmethod
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
            original_sizes: ``(height, width)`` of the files that the images were resized from, in whose pixels the
                detections are returned; None when the images have their original size.

        Returns:
            Scalar losses by name, which are summed; or detections of each image, best first.
        """

    def compile_parts(self, **options: Any) -> None:  # noqa: ANN401 - torch.compile's
        """Compiles modules in place to make them faster; the default compiles the whole ``forward``.

        Args:
            **options: arguments of `torch.compile`.
        """
        self.compile(**options)

    def rows_per_class(self, name: str) -> int:
        """Returns how many rows of a parameter belong to each class; 0 if it does not depend on the classes.

        Asked when training starts from the weights of a detector of other classes (``run.init_from``). Rows are ordered
        by class; rows of no class, such as background's, come last.

        Args:
            name: the parameter's, as in ``state_dict``.

        Returns:
            0, or the number of rows, such as 4 for the four deltas of each class's box.

        Raises:
            ValueError: the detector does not override this method.
        """
        raise ValueError(
            f"{type(self).__name__} does not say which rows of {name} belong to which class: override "
            "Detector.rows_per_class to start from the weights of a detector of other classes"
        )


class TwoStageDetector(Detector):
    """Backbone, FPN and RPN; subclasses add the heads."""

    def __init__(self, config: ModelConfig, loss: ClassificationLoss) -> None:
        super().__init__()
        self.config = config
        self.has_masks = config.has_masks
        self.num_classes = loss.num_classes
        self.batcher = ImageBatcher(*get_normalization(config.backbone))
        self.backbone = build_backbone(config.backbone)
        self.fpn = FPN(get_out_channels(self.backbone), config.fpn)
        self.rpn = RPN(config.fpn.channels, config.rpn)
        self._maps_are_checked = False

    def forward(
        self,
        images: Sequence[Tensor] | Sequence[ImageMaps],
        targets: Sequence[Target | Mapping[str, Tensor]] | None = None,
        original_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses when targets are given, detections otherwise.

        Args:
            images: RGB ``[3, h, w]`` each of its own size, uint8 or float in 0 .. 255, on the model's device; or the
                maps that the backbone computed from each image before.
            targets: ground truth of each image, in its pixels: a `Target`, or torchvision's dict of ``boxes``,
                ``labels`` (0 .. C-1 here, see `Target.from_torchvision`) and ``masks``.
            original_sizes: ``(height, width)`` of the files that the images were resized from, in whose pixels the
                detections are returned; None when the images have their original size.

        Returns:
            Scalar losses by name, which are summed; or detections of each image, best first.

        Raises:
            ValueError: no image, a malformed image, lists of different lengths, no targets in training mode, original
                sizes together with targets, a malformed target, or a backbone whose maps are not those it states.
        """
        _check_arguments(images, targets, original_sizes, training=self.training)
        features, sizes = self.compute_features(images)
        pyramid = self.fpn(features)
        output = self.rpn(pyramid)
        proposals = self.rpn.proposals(output, sizes)
        if targets is not None:
            objects = [self._to_target(*pair) for pair in zip(targets, sizes, strict=True)]
            return {
                **self.rpn.losses(pyramid, output, objects, sizes),
                **self.roi_losses(pyramid, proposals, objects, sizes),
            }
        return self.detect(pyramid, proposals, sizes, original_sizes or sizes)

    def compute_features(
        self, images: Sequence[Tensor] | Sequence[ImageMaps]
    ) -> tuple[list[Float[Tensor, "B _ _ _"]], tuple[tuple[int, int], ...]]:
        """Computes the maps C2, C3, C4, C5 of the backbone for a batch, or stacks those that were kept.

        Args:
            images: as `forward`.

        Returns:
            The maps, and ``(height, width)`` of each image without padding.
        """
        if images and isinstance(images[0], ImageMaps):
            return stack_maps(cast("Sequence[ImageMaps]", images))
        batch = self.batcher(cast("Sequence[Tensor]", images))
        features = self.backbone(batch.tensors)
        if not self._maps_are_checked:
            check_maps(features, batch.tensors, self.backbone)
            self._maps_are_checked = True
        return features, batch.sizes

    def compile_parts(self, **options: Any) -> None:  # noqa: ANN401 - torch.compile's
        """Compiles the backbone and the FPN in place.

        Args:
            **options: arguments of `torch.compile`.
        """
        for part in (self.backbone, self.fpn):
            part.compile(**options)

    def rows_per_class(self, name: str) -> int:
        """Returns 4 for a box regressor with a box for each class, 1 for a classifier or a mask predictor, else 0.

        Args:
            name: the name of the parameter in ``state_dict``.

        Returns:
            The number of rows.
        """
        layer = name.split(".")[-2]
        if layer == "regressor":
            return 0 if self.config.box.class_agnostic else 4
        return 1 if layer in ("classifier", "predictor") else 0

    def _to_target(self, target: Target | Mapping[str, Tensor], size: tuple[int, int]) -> Target:
        if isinstance(target, Target):
            return target
        if self.has_masks and "masks" not in target:
            raise ValueError("a target has no masks, and the detector learns masks: add them, or set mask=None")
        if "masks" in target and target["masks"].shape[1:] != size:
            raise ValueError(f"masks must have the size of their image, {size}, got {tuple(target['masks'].shape[1:])}")
        return Target.from_torchvision(target, num_classes=self.num_classes)

    @abstractmethod
    def roi_losses(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses of the heads; ``sizes`` are those of the images without padding.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            proposals: boxes of each image, in its pixels.
            targets: ground truth of each image.
            sizes: ``(height, width)`` of each image without padding.

        Returns:
            Scalar losses by name.
        """

    @abstractmethod
    def detect(
        self,
        pyramid: Sequence[Float[Tensor, "B D _ _"]],
        proposals: Sequence[Float[Tensor, "_ 4"]],
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Detections of each image in pixels of its original file.

        Args:
            pyramid: feature maps P2, P3 ... of all images.
            proposals: boxes of each image, in its pixels.
            sizes: ``(height, width)`` of each image without padding.
            original_sizes: ``(height, width)`` of each original file.

        Returns:
            Detections, best first.
        """


def _check_arguments(
    images: Sequence[object],
    targets: Sequence[object] | None,
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
