"""A GPU does what a CPU does: losses, gradients, detections, run lengths, training and going on with it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tailseg import losses
from tailseg.data.tiny_tail import generate
from tailseg.inference import Predictor
from tailseg.losses import drop_loss
from tailseg.models import (
    BoxHeadConfig,
    CascadeConfig,
    Detector,
    FPNConfig,
    HTCConfig,
    MaskHeadConfig,
    ModelConfig,
    ResNetConfig,
    RPNConfig,
    build_detector,
)
from tailseg.models.config import PostprocessConfig as DetectionConfig
from tailseg.models.optimize import InferenceConfig, for_inference
from tailseg.models.precision import autocast, float32_products
from tailseg.ops.masks import decode_mask, mask_targets, paste_masks
from tailseg.ops.nms import class_nms, level_nms
from tailseg.ops.roi_pool import roi_pool
from tailseg.structures import ClassFrequency, Detections, Frame, Target, to_device
from tailseg.training import checkpoint, run_files
from tailseg.training.loop import train

from .models.test_detector import BOXES
from .ops.test_nms import SETTINGS, brute_force, found, random_problem
from .training import small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch finds none here")

GPU = torch.device("cuda", 0)
NUM_CLASSES = 6
EVERY_REGION = 10_000
"""Regions a step: more than there are, so that none are drawn, for a GPU draws other random numbers."""

MODEL = ModelConfig(
    backbone=ResNetConfig(depth=18, base_width=8, weights="none"),
    fpn=FPNConfig(channels=16),
    rpn=RPNConfig(
        anchors_per_image=EVERY_REGION, train_pre_nms=100, train_post_nms=50, test_pre_nms=100, test_post_nms=50
    ),
    box=BoxHeadConfig(hidden=32, rois_per_image=EVERY_REGION),
    mask=MaskHeadConfig(channels=16, num_convs=1),
    postprocess=DetectionConfig(score_threshold=0.01),
)
MODELS = {
    "Faster R-CNN": replace(MODEL, mask=None),
    "Mask R-CNN": MODEL,
    "Cascade Mask R-CNN": replace(MODEL, box=replace(MODEL.box, class_agnostic=True), cascade=CascadeConfig()),
    "HTC": replace(MODEL, box=replace(MODEL.box, class_agnostic=True), cascade=HTCConfig()),
}
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((96, 64), (50, 90))]


def targets() -> list[Target]:
    corners = [torch.tensor(BOXES), torch.tensor(BOXES[:1])]
    made = []
    for boxes in corners:
        polygons = tuple((box[[0, 1, 2, 1, 2, 3, 0, 3]].double().view(4, 2).numpy(),) for box in boxes)
        made.append(Target(boxes, torch.arange(len(boxes)), polygons, Frame(), torch.zeros(0, 4)))
    return made


def build(config: ModelConfig) -> Detector:
    """With classifiers that tell classes apart."""
    torch.manual_seed(0)
    model = build_detector(config, losses.GumbelCE(NUM_CLASSES))
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features == NUM_CLASSES + 1:
            nn.init.normal_(module.weight, std=0.3)
    return model


@every_model
def test_a_step_has_the_losses_and_the_gradient_of_a_cpu(config):
    results = []
    for device in ("cpu", GPU):
        model = build(config).to(device).train()
        with float32_products("float32"):
            found = model([to_device(image, device) for image in images()], [target.to(device) for target in targets()])
            torch.stack(list(found.values())).sum().backward()
        gradient = {name: value.grad.cpu() for name, value in model.named_parameters() if value.grad is not None}
        results.append(({name: value.item() for name, value in found.items()}, gradient))
    (expected, expected_gradient), (values, gradient) = results
    assert values == pytest.approx(expected, rel=1e-4)
    assert gradient.keys() == expected_gradient.keys()
    for name, value in expected_gradient.items():
        # as a whole: where rounding moves an input of a ReLU over zero, a few entries differ
        apart = float((gradient[name] - value).norm() / value.norm().clamp(min=1e-12))
        assert apart < 5e-3, f"{name} is {apart} apart"


def assert_same_detections(ours: Detections, theirs: Detections, *, scores: float, pixels: float) -> None:
    assert ours.labels.tolist() == theirs.labels.tolist()
    torch.testing.assert_close(ours.scores.cpu(), theirs.scores.cpu(), rtol=0, atol=scores)
    torch.testing.assert_close(ours.boxes.cpu(), theirs.boxes.cpu(), rtol=0, atol=pixels)
    assert (ours.masks is None) == (theirs.masks is None)
    for mask, other in zip(ours.masks or (), theirs.masks or (), strict=True):
        assert (decode_mask(mask) != decode_mask(other)).mean() < 1e-3


@every_model
def test_it_finds_what_a_cpu_finds(config):
    results = []
    for device in ("cpu", GPU):
        model = for_inference(build(config).to(device), InferenceConfig("float32"))
        with autocast(torch.device(device), "float32"):
            results.append(model([to_device(image, device) for image in images()]))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert len(ours) > 10
        assert_same_detections(ours, theirs, scores=1e-5, pixels=1e-2)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16", "float16"])
def test_less_precise_products_score_nearly_the_same(precision):
    results = []
    for each in ("float32", precision):
        model = for_inference(build(MODEL).to(GPU), InferenceConfig(each))
        with autocast(GPU, each):
            results.append(model([image.to(GPU) for image in images()]))
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert ours.scores.dtype == torch.float32
        assert precision == "tf32" or not torch.equal(ours.scores[:5], theirs.scores[:5])
        torch.testing.assert_close(ours.scores[:5], theirs.scores[:5], rtol=0, atol=0.03)


FREQUENCY = ClassFrequency.from_counts(
    torch.tensor([1, 5, 20, 80, 300, 900]), torch.tensor([1, 9, 30, 99, 600, 999]), 999
)
CONFIGS = [config() for config in losses.LossConfig.__args__] + [losses.GumbelCEConfig(published="2022")]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_loss_is_that_of_a_cpu_in_float64(config, dtype, monkeypatch):
    # the GPU draws what the CPU draws
    drawn, bits, cpu = torch.rand, drop_loss.draw_uniform, torch.device("cpu")
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: drawn(*shape).to(device or "cpu"))
    monkeypatch.setattr(drop_loss, "draw_uniform", lambda rows, columns, device: bits(rows, columns, cpu).to(device))
    generator = torch.Generator().manual_seed(0)
    results = []
    for device, kind in (("cpu", torch.float64), (GPU, dtype)):
        loss = config.build(FREQUENCY).to(device)
        generator.manual_seed(0)
        logits = (3 * torch.randn(40, loss.num_logits, generator=generator)).to(dtype).to(device, kind).requires_grad_()
        labels = torch.randint(0, NUM_CLASSES + 1, (40,), generator=generator).to(device)
        torch.manual_seed(1)
        value = torch.stack(list(loss(logits, labels).values())).sum()
        (gradient,) = torch.autograd.grad(value, logits)
        scores = loss.scores(logits.detach())
        results.append([each.detach().double().cpu() for each in (value, gradient, scores)])
    (value, gradient, scores), (expected, expected_gradient, expected_scores) = results[1], results[0]
    rounding = 2 * torch.finfo(dtype).eps + 1e-4
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=rounding, atol=1e-6)
    torch.testing.assert_close(scores, expected_scores, rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 9])
@pytest.mark.parametrize("grid", [None, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_suppression_equals_brute_force(classes, grid, seed):
    boxes, scores = random_problem(200, classes, specific=True, seed=seed, grid=grid)
    ours = class_nms(boxes.to(GPU), scores.to(GPU), **SETTINGS)
    assert found(ours) == brute_force(boxes, scores, **SETTINGS)


def test_suppression_side_by_side_equals_a_cpus():
    """20,000 candidates of which few survive: beyond every prefix."""
    generator = torch.Generator().manual_seed(0)
    corner = 3 * torch.rand(20_000, 2, generator=generator)
    boxes = torch.cat([corner, corner + 40], dim=1)
    scores, levels = torch.rand(20_000, generator=generator), torch.randint(0, 5, (20_000,), generator=generator)
    problem = (boxes, scores, levels)
    expected = level_nms(*problem, iou_threshold=0.7, max_proposals=1000)
    ours = level_nms(*(each.to(GPU) for each in problem), iou_threshold=0.7, max_proposals=1000)
    assert ours.tolist() == expected.tolist()


def test_pooling_is_a_cpus_and_masks_come_from_the_gpu():
    """Masks are pasted, and their targets made, in main memory."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, 64 // 2**i, 96 // 2**i, generator=generator) for i in range(4)]
    corner = 200 * torch.rand(50, 2, generator=generator)
    boxes = torch.cat([corner, corner + 5 + 180 * torch.rand(50, 2, generator=generator)], dim=1)
    settings = {"output_size": 7, "strides": (4, 8, 16, 32)}
    expected = roi_pool(maps, [boxes[:20], boxes[20:]], **settings)
    on_gpu = [each.to(GPU) for each in maps], [boxes[:20].to(GPU), boxes[20:].to(GPU)]
    torch.testing.assert_close(roi_pool(*on_gpu, **settings).cpu(), expected, rtol=1e-4, atol=1e-4)
    probabilities = torch.rand(50, 28, 28, generator=generator)
    assert paste_masks(probabilities.to(GPU), boxes.to(GPU), 256, 384) == paste_masks(probabilities, boxes, 256, 384)
    polygons = [target.masks[0] for target in targets()] * 25
    made = mask_targets(polygons, Frame(), boxes.to(GPU))
    assert made.device == GPU
    assert torch.equal(made.cpu(), mask_targets(polygons, Frame(), boxes))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return folder


def steps(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_a_run_learns_is_saved_and_goes_on(data, tmp_path, precision):
    """The third epoch again: its first step is what it was, but for sums in another order."""
    recipe = small.recipe(data, tmp_path / "whole")
    recipe = replace(recipe, run=replace(recipe.run, device="cuda", precision=precision))
    recipe = replace(recipe, optim=replace(recipe.optim, ema_decay=0.9))
    train(recipe)
    whole = steps(tmp_path / "whole")
    assert whole[-1] < 0.7 * whole[0]
    third = checkpoint.load(run_files.step_path(tmp_path / "whole", 3 * small.STEPS_PER_EPOCH))
    assert all(value.isfinite().all() and value.device.type == "cpu" for value in third.model.values())

    parts = tmp_path / "parts"
    shutil.copytree(tmp_path / "whole", parts)
    run_files.step_path(parts, 3 * small.STEPS_PER_EPOCH).unlink()
    train(replace(recipe, run=replace(recipe.run, out=str(parts))), resume=True)
    again = steps(parts)
    assert len(again) == len(whole)
    assert again[2 * small.STEPS_PER_EPOCH] == pytest.approx(whole[2 * small.STEPS_PER_EPOCH], rel=0.05)


def test_what_a_gpu_trained_a_cpu_uses(data, tmp_path):
    recipe = small.recipe(data, tmp_path)
    train(replace(recipe, run=replace(recipe.run, device="cuda")))
    images = sorted((data / "val").iterdir())[:2]
    saved = run_files.get_latest(tmp_path)
    assert saved is not None
    found = [list(Predictor(saved, device=device, base=recipe).predict(images)) for device in ("cuda", "cpu")]
    assert any(len(ours) for _, ours in found[0])
    for (_, ours), (_, theirs) in zip(*found, strict=True):
        assert_same_detections(ours, theirs, scores=1e-4, pixels=0.1)


def test_torchrun_trains_on_a_gpu(data, tmp_path):
    """One process: there is a process group of NCCL, and it comes up and goes down."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"),
        *("-m", "tailseg", "train", "small:recipe", "--run.device", "cuda", "--run.out", str(tmp_path)),
        *("--data.train", str(data / "train.json"), "--data.val", str(data / "val.json")),
    ]
    here = Path(__file__).parent / "training"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "on cuda" in done.stderr
    assert steps(tmp_path)[-1] < 0.7 * steps(tmp_path)[0]


COMPILED = """
import sys
import torch
from tailseg.losses import Gumbel, NormalCDF, Sigmoid, binary
sys.path.insert(0, sys.argv[1])
from test_binary import by_autograd, problem, value_and_gradient

for link in (Gumbel(), Sigmoid(), NormalCDF()):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for regions in (37, 50):
            logits, labels, (rows, classes) = problem(regions, 11, dtype)
            dropped = binary.Dropped(rows, classes)
            on_gpu = binary.Dropped(rows.cuda(), classes.cuda())
            for here, there in ((None, None), (dropped, on_gpu)):
                value, gradient = value_and_gradient(logits.cuda(), labels.cuda(), link, there)
                expected = by_autograd(logits, labels, link, here)
                torch.testing.assert_close(value.cpu().double(), expected[0], rtol=1e-5, atol=0)
                rounding = 2 * torch.finfo(dtype).eps + 1e-5
                torch.testing.assert_close(gradient.cpu().double(), expected[1], rtol=rounding, atol=6e-8)
assert not binary._FAILURES, binary._FAILURES
"""


def test_the_compiled_loss_is_that_of_a_cpu_in_float64():
    """In a process of its own: functions that check their arguments' shapes, as here, are no code to compile."""
    here = Path(__file__).parent / "losses"
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(here)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
