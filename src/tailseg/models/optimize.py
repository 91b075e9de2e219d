"""Prepares a trained detector for inference.

model = for_inference(build_detector(config, loss), InferenceConfig(compile=True))
"""

from dataclasses import dataclass

import torch
from torch import nn

from tailseg.models.detector import Detector
from tailseg.models.precision import HALF, Precision
from tailseg.models.resnet import ResNet, fold_norm


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained detector computes; detections stay the same but for rounding."""

    precision: Precision | None = None
    """Precision of convolutions and linear layers; boxes, scores and masks are computed from their results in float32.
    None does not change the layers; a `Predictor` then uses the run's precision."""
    compile: bool = False
    """Compile the backbone and the FPN with `torch.compile`: half a minute for the first image and the second size."""


def for_inference(model: Detector, config: InferenceConfig) -> Detector:
    """Changes the detector in place for detection alone: it can no longer be trained, saved or loaded.

    Fixed batch norms of a ResNet become part of their convolutions, weights lie channels-last and in the precision that
    is wanted, and backbone and FPN are compiled if asked for. Call the model under
    `tailseg.models.precision.autocast`.
    """
    model.eval().requires_grad_(requires_grad=False)
    for module in model.modules():
        if isinstance(module, ResNet):
            fold_norms(module)
    model.to(memory_format=torch.channels_last)
    if config.precision is not None:
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                module.to(HALF.get(config.precision, torch.float32))
    if config.compile:
        model.compile_parts(options={"freezing": True})
    return model


def fold_norms(backbone: ResNet) -> None:
    """Puts every batch norm into the convolution before it, in place; only for evaluation.

    The convolutions are those that `conv_norm` makes in the test of a training: detections are equal to the bit.
    """
    for module in backbone.modules():
        children = dict(module.named_children())
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)] + [("0", "1")]
        for conv_name, norm_name in pairs:
            conv, norm = children.get(conv_name), children.get(norm_name)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                weight, bias = fold_norm(conv, norm)
                conv.weight, conv.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias))
                setattr(module, norm_name, nn.Identity())
