"""Small random detectors whose scores and boxes differ, and a run with one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tailseg.cli import main
from tailseg.data.tiny_tail import generate
from tailseg.evaluation import thresholds
from tailseg.evaluation.thresholds import ClassThreshold, Thresholds
from tailseg.losses import GumbelCE
from tailseg.losses.base import ClassificationLoss
from tailseg.models import ModelConfig, ResNetConfig, build_detector
from tailseg.models.config import BuildsBackbone
from tailseg.models.detector import Detector
from tailseg.models.optimize import InferenceConfig, for_inference
from tailseg.recipes import Recipe, get_recipe
from tailseg.recipes.build import build_model, build_training
from tailseg.recipes.saved import save_recipe, to_plain
from tailseg.recipes.tiny import small_mask_rcnn
from tailseg.structures import ClassFrequency
from tailseg.training.checkpoint import Checkpoint, Progress, save

NUM_CLASSES = 6
SIZES = [((100, 130), (70, 96)), ((64, 200),), ((20, 30),), ((64, 64),) * 3]
"""Heights and widths of the images of several batches."""


def shrink(config: ModelConfig) -> ModelConfig:
    """Makes the tiny networks of the recipes smaller still."""
    mask = None if config.mask is None else replace(config.mask, channels=8, num_convs=1, pool_size=7)
    return replace(
        config,
        backbone=ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=0),
        fpn=replace(config.fpn, channels=8),
        rpn=replace(config.rpn, test_pre_nms=60, test_post_nms=40),
        box=replace(config.box, hidden=16),
        mask=mask,
        postprocess=replace(config.postprocess, max_detections=20),
    )


@torch.no_grad()
def randomize(model: Detector) -> None:
    """Random weights with which scores and boxes differ: at the start of a training, all scores are equal.

    Each layer behind the backbone is scaled so that its output has the standard deviation 1, deltas of boxes 0.3. Each
    class has logits with the mean 0.
    """
    generator = torch.Generator().manual_seed(1)

    def rescale(module: nn.Linear | nn.Conv2d, _: object, output: Tensor) -> Tensor:
        if output.numel() < 2:
            return output
        wanted = 0.3 if names[module].endswith(("regressor", "box_deltas")) else 1.0
        factor = wanted / output.std().clamp(min=1e-6)
        module.weight.mul_(factor)
        module.bias.mul_(factor)
        if names[module].endswith("classifier"):  # or one class would have the best scores everywhere
            module.bias.sub_((output * factor).mean(0))
        return output * factor

    names, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith("backbone"):
            module.weight.normal_(generator=generator)
            names[module] = name
            handles.append(module.register_forward_hook(rescale))
    model.eval()([torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8)])
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Detector]:
    def make(
        config: ModelConfig | None = None,
        loss: ClassificationLoss | None = None,
        backbone: BuildsBackbone | None = None,
    ) -> Detector:
        torch.manual_seed(0)
        small = shrink(config or small_mask_rcnn())
        small = small if backbone is None else replace(small, backbone=backbone)
        model = build_detector(small, loss or GumbelCE(NUM_CLASSES), load_weights=False)
        randomize(model)
        return for_inference(model, InferenceConfig())

    return make


Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="session")
def make_inputs() -> Callable[[Sequence[tuple[int, int]]], tuple[list[Tensor], Inputs]]:
    """Images of these sizes, and the inputs of the exported model; the files are larger than the images."""

    def make(sizes: Sequence[tuple[int, int]]) -> tuple[list[Tensor], Inputs]:
        generator = torch.Generator().manual_seed(len(sizes))
        images = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
        height, width = (-(-max(sides) // 32) * 32 for sides in zip(*sizes, strict=True))
        batch = torch.zeros(len(sizes), height, width, 3, dtype=torch.uint8)
        for row, image in zip(batch, images, strict=True):
            row[: image.shape[1], : image.shape[2]] = image.permute(1, 2, 0)
        original = torch.tensor([(2 * h + 1, 3 * w) for h, w in sizes])
        return images, (batch, torch.tensor(sizes), original)

    return make


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("export")
    drawn = generate(folder / "data", preset="test")
    base = get_recipe("tiny_gumbel")
    sides = {"short_sides": (96,), "test_short_side": 96, "max_long_side": 128}
    data = replace(base.data, train=str(drawn / "train.json"), val=str(drawn / "val.json"), workers=0, **sides)
    return replace(base, data=data, model=shrink(base.model), run=replace(base.run, out=str(folder / "run")))


@pytest.fixture(scope="session")
def run(recipe: Recipe) -> Path:
    """Folder of a run that has a random model and was never trained."""
    folder, annotations = Path(recipe.run.out), build_training(recipe)
    frequency = ClassFrequency.from_class_counts(annotations.frequency)
    torch.manual_seed(0)  # `randomize` leaves the backbone as it is
    model = build_model(recipe, frequency, load_weights=False)
    randomize(model)
    state = dict(model.state_dict())
    checkpoint = Checkpoint(to_plain(recipe), annotations.categories, frequency, state, {}, Progress())
    save(checkpoint, folder / "checkpoints" / "best.pt")
    save_recipe(recipe, folder / "recipe.json")
    return folder


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run as an ONNX file, with thresholds of the classes, and its comparison on six images."""
    pytest.importorskip("onnxruntime")
    categories = json.loads((run.parent / "data" / "val.json").read_text())["categories"]
    classes = tuple(ClassThreshold(entry["id"], entry["name"], None, 9, 0.4) for entry in categories)
    thresholds.save(Thresholds(classes, 0.4, 1, 1, "segm", 9, 2, {}), run / thresholds.FILE)
    out = tmp_path_factory.mktemp("exported")
    assert main(["export", str(run), "--out", str(out), "--images=6"]) == 0
    return out
