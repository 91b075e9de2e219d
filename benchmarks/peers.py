"""Mask R-CNN R50-FPN of tailseg and of torchvision with the same weights and the same work.

The weights are random, but scaled to make a forward pass similar to a trained one: the batch norms have the statistics
of their features, and one in ten of (region, class) pairs scores above 1e-4.
"""

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from tailseg.interop.torchvision_weights import from_torchvision
from tailseg.losses import SoftmaxCE
from tailseg.models import ModelConfig, ResNetConfig, build_detector
from tailseg.models.config import PostprocessConfig
from tailseg.models.detector import Detector

LVIS = 1203
SCORE_THRESHOLD = 1e-4


def smooth_noise(height: int, width: int, seed: int = 0) -> Tensor:
    """An RGB image, uint8 ``[3, height, width]``, with structure of every size as photographs have it."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for octave in range(8):
        cells = 2 ** (octave + 2)
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        image += F.interpolate(noise, (height, width), mode="bilinear") / 1.5**octave
    return (128 + 40 * image[0]).clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def torchvision_model(num_classes: int, *, detections: int = 300, threshold_share: float = 0.1) -> nn.Module:
    """torchvision's own model, as fine-tuned: fixed batch norms, three trained stages."""
    torch.manual_seed(0)
    image = smooth_noise(256, 384).float()[None] / 64 - 2
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    calibrate_norms(backbone, image)
    model = TorchvisionMaskRCNN(
        backbone,
        num_classes=num_classes + 1,
        box_score_thresh=SCORE_THRESHOLD,
        box_detections_per_img=detections,
        rpn_pre_nms_top_n_train=2000,
        rpn_post_nms_top_n_train=1000,
        rpn_post_nms_top_n_test=1000,
    ).eval()
    calibrate_classifier(model, image, threshold_share)
    return model


def calibrate_norms(backbone: nn.Module, image: Tensor) -> None:
    """Gives every fixed batch norm the statistics of what it normalizes."""

    def measure(norm: FrozenBatchNorm2d, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    backbone(image)
    for hook in hooks:
        hook.remove()


def calibrate_classifier(model: nn.Module, image: Tensor, share: float) -> None:
    """Makes the classifier so steep that ``share`` of (region, class) pairs score above the threshold."""
    heads, seen = model.roi_heads, []
    hook = heads.box_predictor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    heads.detections_per_img, wanted = 1, heads.detections_per_img  # the masks of 300 would fill the memory
    model([image[0].sigmoid()])
    heads.detections_per_img = wanted
    hook.remove()
    classifier = heads.box_predictor.cls_score
    nn.init.normal_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    features = seen[0]
    # what the regions share says nothing about them: taken off through the bias
    classifier.bias.copy_(-classifier.weight @ features.mean(0))
    logits = classifier(features)
    low, high = 0.0, 1e3
    for _ in range(40):
        scale = (low + high) / 2
        above = ((scale * logits).softmax(1)[:, 1:] > SCORE_THRESHOLD).float().mean()
        low, high = (scale, high) if above > share else (low, scale)
    classifier.weight.mul_(low)
    classifier.bias.mul_(low)


def tailseg_model(
    num_classes: int, peer: nn.Module, *, detections: int = 300, checkpoint_blocks: bool = False
) -> Detector:
    """tailseg's model with the peer's weights."""
    config = ModelConfig(
        backbone=ResNetConfig(depth=50, weights="none", checkpoint_blocks=checkpoint_blocks),
        postprocess=PostprocessConfig(score_threshold=SCORE_THRESHOLD, max_detections=detections),
    )
    model = build_detector(config, SoftmaxCE(num_classes))
    names = [f"class {i}" for i in range(num_classes)]
    converted, _ = from_torchvision(peer.state_dict(), model, names, file_names=["background", *names])
    model.load_state_dict(converted.state)
    return model.eval()


def star(center: np.ndarray, radius: float, generator: np.random.Generator) -> np.ndarray:
    """A polygon ``[30, 2]`` within the radius."""
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    lengths = radius * generator.uniform(0.5, 1, 30)
    return center + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def detectron2_installed() -> bool:
    """detectron2 is not on the package index: it is measured where somebody has built it."""
    return find_spec("detectron2") is not None
