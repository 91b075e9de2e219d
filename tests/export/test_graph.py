"""The exportable form of a detector computes what the detector computes, with outputs of fixed shape."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from tailseg.detection.recalibration import Calibration, Setting, apply_calibration
from tailseg.export.graph import DetectorGraph, find_level_bounds
from tailseg.export.suppression import suppress
from tailseg.losses import BAGSLoss, GumbelCE, SeesawLoss, SoftmaxCE
from tailseg.losses.base import ClassificationLoss
from tailseg.models import Detector
from tailseg.models.config import HTCConfig
from tailseg.ops.masks import paste_masks
from tailseg.ops.roi_pool import fpn_levels
from tailseg.recipes.tiny import small_cascade, small_htc, small_mask_rcnn
from tailseg.structures import ClassFrequency, Detections

from .conftest import NUM_CLASSES, SIZES

COUNTS = torch.tensor([1, 5, 20, 90, 400, 2000])
FREQUENCY = ClassFrequency.from_counts(COUNTS, 2 * COUNTS, 3000)
CONFIGS = {
    "mask": small_mask_rcnn(),
    "faster": replace(small_mask_rcnn(), mask=None),
    "agnostic": replace(small_mask_rcnn(), box=replace(small_mask_rcnn().box, class_agnostic=True)),
    "shared": replace(small_mask_rcnn(), box=replace(small_mask_rcnn().box, shared_share=0.5)),
    "cascade": small_cascade(),
    "htc": small_htc(),
    "htc_last": replace(small_htc(), cascade=HTCConfig(test_masks="last")),
}


@torch.no_grad()
def assert_equal(model: Detector, images: list[Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> list[Detections]:
    """Compares the graph with the detector, image by image, since padding changes detections a little."""
    expected: list[Detections] = model(images, original_sizes=[tuple(size) for size in inputs[2].tolist()])
    found = DetectorGraph(model)(*inputs)
    assert found.counts.tolist() == [len(image) for image in expected]
    for row, image in enumerate(expected):
        count = len(image)
        assert torch.equal(found.labels[row, :count], image.labels)
        torch.testing.assert_close(found.scores[row, :count], image.scores, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.boxes[row, :count], image.boxes, atol=1e-3, rtol=0)
        assert not found.boxes[row, count:].any()
        assert not found.scores[row, count:].any()
        assert found.above[row].tolist() == [True] * count + [False] * (len(found.above[row]) - count)
        if image.masks is None:
            assert found.masks is None
        else:
            masks = paste_masks(found.masks[row, :count], found.boxes[row, :count], image.height, image.width)
            same = sum(mask == other for mask, other in zip(masks, image.masks, strict=True))
            assert same >= 0.9 * count  # a pixel at the threshold may fall to either side
    return expected


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sizes", SIZES[:3], ids=str)
def test_every_detector(name: str, sizes: tuple[tuple[int, int], ...], make_model, make_inputs) -> None:
    found = assert_equal(make_model(CONFIGS[name]), *make_inputs(sizes))
    assert all(len(image) == 20 for image in found)
    assert len(torch.cat([image.labels for image in found]).unique()) > 1, "one class alone shows little"


@pytest.mark.parametrize("loss", [SoftmaxCE(FREQUENCY), BAGSLoss(FREQUENCY), SeesawLoss(FREQUENCY)], ids=str)
def test_scores_are_those_of_the_loss(loss: ClassificationLoss, make_model, make_inputs) -> None:
    assert_equal(make_model(loss=loss), *make_inputs(SIZES[0]))


@pytest.mark.parametrize("method", ["NorCal", "logit adjustment"])
@pytest.mark.parametrize("loss", [SoftmaxCE(FREQUENCY), GumbelCE(FREQUENCY)], ids=["softmax", "gumbel"])
def test_the_calibration_is_inside(method, loss: ClassificationLoss, make_model, make_inputs) -> None:
    model = make_model(loss=loss)
    images, inputs = make_inputs(SIZES[0])
    plain = DetectorGraph(model)(*inputs).scores
    apply_calibration(model, Calibration(Setting(method, 0.5)), FREQUENCY)
    assert_equal(model, images, inputs)
    assert not torch.allclose(plain, DetectorGraph(model)(*inputs).scores, atol=1e-3)


def test_images_without_detections(make_model: Callable[..., Detector], make_inputs) -> None:
    config = small_mask_rcnn()
    model = make_model(replace(config, postprocess=replace(config.postprocess, score_threshold=1.0)))
    assert [len(image) for image in assert_equal(model, *make_inputs(SIZES[0]))] == [0, 0]


def test_thresholds_of_the_classes(make_model: Callable[..., Detector], make_inputs) -> None:
    model, (_, inputs) = make_model(), make_inputs(SIZES[0])
    found = DetectorGraph(model)(*inputs)
    label = int(found.labels[0, 0])
    thresholds = [0.0] * NUM_CLASSES
    thresholds[label] = float(found.scores[found.labels == label].sort().values[1])
    above = DetectorGraph(model, thresholds)(*inputs).above
    assert torch.equal(above, found.scores >= torch.tensor(thresholds)[found.labels])
    assert 0 < int((~above).sum()) < above.numel()


def test_a_detector_of_your_own_is_refused() -> None:
    class Own(Detector):
        def forward(self, images, targets=None, original_sizes=None):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"type Own: export writes the detectors of tailseg .* torch.onnx.export"):
        DetectorGraph(Own())


@pytest.mark.parametrize("scale", [56.0, 16.0, 24.0, 7.3])
def test_level_bounds_are_those_of_fpn_levels(scale: float) -> None:
    for level, bound in enumerate(find_level_bounds(scale, 4), 1):
        sides = torch.stack([torch.nextafter(bound, torch.tensor(0.0)), bound])
        expected = (sides / scale + 1e-6).log2().floor().long().tolist()
        assert expected == [level - 1, level]
    sides = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 20 * scale
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1)
    found = ((sides * sides).sqrt()[:, None] >= find_level_bounds(scale, 4)).sum(1)
    assert torch.equal(found, fpn_levels(boxes, finest_scale=scale))


def test_suppression_is_greedy_within_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 50, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 10 + torch.rand(2, 50, 2, generator=generator) * 20], 2)
    scores = torch.rand(2, 3, 50, generator=generator)
    found = suppress(boxes, scores, 0.4, 0.2, 7)
    for group in range(2):
        for label in range(3):
            rows = nms(boxes[group], scores[group, label], 0.4)
            rows = rows[scores[group, label, rows] > 0.2][:7]
            assert sorted(rows.tolist()) == found[group, label].nonzero()[:, 0].tolist()
    assert not suppress(boxes, scores, 0.4, 1.0, 7).any()
