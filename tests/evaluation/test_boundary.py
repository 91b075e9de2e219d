"""Boundary IoU: outlines pixel by pixel, and masks that agree inside but not along their edges."""

import json

import numpy as np
import pytest
from hotcoco import mask as run_lengths

from tailseg.evaluation import analyze, boundary
from tailseg.evaluation.boundary import compute_outline


def encode(bitmap):
    return run_lengths.encode(np.asfortranarray(bitmap.astype(np.uint8)))


def slow_outline(bitmap, band):
    """Pixels of the mask with a pixel outside it, or the image's edge, at most ``band`` away along rows and columns."""
    padded = np.pad(bitmap, band)
    found = np.zeros_like(bitmap)
    for y, x in np.argwhere(bitmap):
        found[y, x] = not padded[y : y + 2 * band + 1, x : x + 2 * band + 1].all()
    return found


@pytest.mark.parametrize("width", [0.001, 0.02, 0.07])
def test_an_outline_is_what_lies_near_the_edge(monkeypatch, width):
    monkeypatch.setattr(boundary, "WIDTH", width)
    band = max(round(width * 50), 1)
    rng = np.random.default_rng(0)
    for _ in range(10):
        bitmap = np.zeros((30, 40), dtype=bool)
        for _ in range(3):
            y, x = rng.integers(0, 20, 2)
            bitmap[y : y + rng.integers(3, 20), x : x + rng.integers(3, 25)] = True

        found = run_lengths.decode(compute_outline(encode(bitmap))).astype(bool)

        np.testing.assert_array_equal(found, slow_outline(bitmap, band))


def test_an_empty_mask_has_no_outline():
    assert run_lengths.area(compute_outline(encode(np.zeros((30, 40))))) == 0


def test_what_agrees_inside_only_has_a_lower_boundary_ap(tmp_path):
    truth = np.zeros((200, 200), dtype=bool)
    truth[20:180, 20:180] = True
    found = np.zeros_like(truth)
    found[26:186, 26:186] = True  # IoU 0.86; the bands of 6 pixels share their crossings alone
    masks = [encode(bitmap) for bitmap in (truth, found)]
    mine, theirs = ({"size": mask["size"], "counts": mask["counts"].decode()} for mask in masks)
    data = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "ant"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 160, 160], "area": 25600, "segmentation": mine}
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(data))
    record = {"image_id": 1, "category_id": 1, "score": 0.9}

    shifted = analyze(path, {"segm": [record | {"segmentation": theirs}]}, boundary=True)
    same = analyze(path, {"segm": [record | {"segmentation": mine}]}, boundary=True)

    assert shifted.metrics["segm"]["AP"] == pytest.approx(0.8), "right at the IoU thresholds up to 0.85"
    assert shifted.boundary["AP"] == 0
    assert same.boundary["AP"] == pytest.approx(1)
