"""A detector made ready for images finds what it found before."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tailseg.models import Detector, ModelConfig
from tailseg.models.optimize import InferenceConfig, for_inference
from tailseg.models.precision import autocast

Build = Callable[..., Detector]
MakeImage = Callable[..., Tensor]
CPU = torch.device("cpu")


@pytest.fixture
def trained(small_config: ModelConfig, build: Build) -> Detector:
    """With norms that do something, and a classifier that tells boxes apart."""
    config = replace(
        small_config, postprocess=replace(small_config.postprocess, score_threshold=0.0, max_detections=40)
    )
    model = build(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 2)
            for values in (module.bias, module.running_mean):
                assert values is not None
                nn.init.normal_(values, std=0.3)
    nn.init.normal_(model.get_parameter("box_head.classifier.weight"), std=0.3)
    return model.eval()


@torch.no_grad()
def test_folded_norms_change_no_map(trained: Detector, make_image: MakeImage) -> None:
    batch = trained.batcher([make_image(64, 96)]).tensors
    before = trained.backbone(batch)
    model = for_inference(trained, InferenceConfig())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for ours, wanted in zip(model.backbone(batch), before, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_detections_stay(trained: Detector, make_image: MakeImage) -> None:
    """Between rounding and the least gap of these scores lie two digits."""
    image = make_image(64, 96)
    (before,) = trained([image])
    (after,) = for_inference(trained, InferenceConfig())([image])
    torch.testing.assert_close(after.scores, before.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=1e-2)
    assert torch.equal(after.labels, before.labels)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_computes_layers_and_nothing_else(
    precision: str, trained: Detector, make_image: MakeImage
) -> None:
    """Scores move by less than 0.1: bfloat16 has three digits, and a score sums over many layers."""
    image = make_image(64, 96)
    (before,) = trained([image])
    model = for_inference(trained, InferenceConfig(precision=precision))
    assert model.get_parameter("fpn.output.0.weight").dtype == getattr(torch, precision)
    with autocast(CPU, precision):
        (after,) = model([image])
    assert after.boxes.dtype == after.scores.dtype == torch.float32
    assert len(after) == len(before)
    assert after.masks is not None
    torch.testing.assert_close(after.scores, before.scores, rtol=0, atol=0.1)


COMPILED = """
import torch
from tailseg.losses import SigmoidCE
from tailseg.models import FPNConfig, ModelConfig, ResNetConfig, build_detector
from tailseg.models.optimize import InferenceConfig, for_inference

torch.manual_seed(0)
config = ModelConfig(backbone=ResNetConfig(depth=18, base_width=8, weights="none"), fpn=FPNConfig(channels=16))
model = for_inference(build_detector(config, SigmoidCE(3)), InferenceConfig())
with torch.no_grad():
    batches = [torch.randn(1, 3, 64, side) for side in (64, 96)]
    wanted = [model.fpn(model.backbone(batch)) for batch in batches]
    for_inference(model, InferenceConfig(compile=True))
    for batch, maps in zip(batches, wanted, strict=True):
        for ours, theirs in zip(model.fpn(model.backbone(batch)), maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
print("equal")
"""


@pytest.mark.slow
def test_compiled_maps_are_equal_at_every_size() -> None:
    """In a process of its own: functions that the tests check cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr
