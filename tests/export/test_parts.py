"""Parts of the authors' newer models, each alone in a small network: the exported file computes what torch does."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tailseg.export import runner
from tailseg.export.trace import trace
from tailseg.models import ModelConfig, ResNetConfig
from tailseg.models.config import NormalizedConfig, SEConfig, WrappedCauchyConfig
from tailseg.ops.masks import decode_mask, paste_masks
from tailseg.recipes.tiny import small_mask_rcnn

from .conftest import SIZES

onnx_file = pytest.importorskip("tailseg.export.onnx_file")

PLAIN = ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=0)
BACKBONES = {
    "SE": replace(PLAIN, se=SEConfig(reduction=4)),
    "SE, APA": replace(PLAIN, se=SEConfig(gate="apa", reduction=4)),
    "AGLU": replace(PLAIN, activation="aglu"),
    "SiLU": replace(PLAIN, activation="silu"),
    "all": replace(PLAIN, activation="aglu", se=SEConfig(gate="apa", reduction=4)),
}


def change_heads(name: str) -> ModelConfig:
    """The small Mask R-CNN with one other part in its heads, or with all that the newer models have."""
    model = small_mask_rcnn()
    assert model.mask is not None
    learned = NormalizedConfig(temperature=20.25, learned=True)
    return {
        "CARAFE": replace(model, mask=replace(model.mask, upsample="carafe")),
        "learned temperature": replace(model, mask=replace(model.mask, normalized=learned)),
        "normalized classifier": replace(model, box=replace(model.box, normalized=learned)),
        "wrapped Cauchy": replace(model, box=replace(model.box, wrapped_cauchy=WrappedCauchyConfig())),
        "all": replace(
            model,
            box=replace(model.box, normalized=NormalizedConfig()),
            mask=replace(model.mask, upsample="carafe", normalized=learned),
        ),
    }.get(name, model)


PARTS = ["SE", "SE, APA", "AGLU", "SiLU", "CARAFE", "learned temperature", "normalized classifier", "wrapped Cauchy"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PARTS, "all"])
def test_a_file_with_this_part_is_torchs(
    name: str, make_model: Callable, make_inputs: Callable, tmp_path: Path
) -> None:
    """Scores within 1e-4, boxes within 0.05 pixels, masks of the original file but for a pixel, or 1 % of them."""
    model = make_model(change_heads(name), backbone=BACKBONES.get(name))
    with torch.no_grad():  # parameters that a start leaves at a special value
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("raw_lambda", "kappa")):
                parameter.uniform_(0.3, 1.5)
    onnx_file.save(onnx_file.to_onnx(trace(model, None)), tmp_path / "model.onnx", {"version": "0", "masks": "box"})
    engine = runner.Model(tmp_path / "model.onnx", threads=1)
    count = 0
    for sizes in SIZES[:2]:
        images, inputs = make_inputs(sizes)
        outputs = engine.run(dict(zip(runner.PARTS, (tensor.numpy() for tensor in inputs), strict=True)))
        with torch.no_grad():
            expected = model(images, original_sizes=[tuple(size) for size in inputs[2].tolist()])
        for row, image in enumerate(expected):
            assert outputs["counts"][row] == len(image) > 0
            size = slice(len(image))
            assert outputs["labels"][row, size].tolist() == image.labels.tolist()
            np.testing.assert_allclose(outputs["scores"][row, size], image.scores, atol=1e-4)
            np.testing.assert_allclose(outputs["boxes"][row, size], image.boxes, atol=0.05)
            probabilities, boxes = (torch.from_numpy(outputs[part][row, size]) for part in ("masks", "boxes"))
            masks = paste_masks(probabilities, boxes, *inputs[2][row].tolist(), threshold=0.5)
            for mask, other in zip(masks, image.masks, strict=True):
                bitmap = decode_mask(other)
                different = int((decode_mask(mask) != bitmap).sum())
                assert different <= max(1, 0.01 * bitmap.sum()), "rounding may decide about a pixel"
                count += 1
    assert count > 20
