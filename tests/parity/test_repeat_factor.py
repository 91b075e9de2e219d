"""Repeat factors against numbers worked out by hand, and at LVIS v1's real counts against the definition."""

import json
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tailseg.annotations.read import read_dataset
from tailseg.data.repeat_factor import category_repeat_factors, image_repeat_factors, repeat_indices


def test_category_factors_by_hand() -> None:
    # t = 0.01: f = 0.0025 -> sqrt(4) = 2; f = 0.01 -> 1; f = 0.5 -> sqrt(0.02) < 1 -> 1; f = 0.0004 -> 5; unseen -> 1
    factors = category_repeat_factors(torch.tensor([0.0025, 0.01, 0.5, 0.0004, 0.0], dtype=torch.float64), 0.01)
    torch.testing.assert_close(factors, torch.tensor([2.0, 1.0, 1.0, 5.0, 1.0], dtype=torch.float64))


def test_threshold_zero_repeats_nothing() -> None:
    assert category_repeat_factors(torch.tensor([0.0, 1e-6, 1.0]), 0.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_wrong_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="the repeat threshold must be a share of the images, 0 or more"):
        category_repeat_factors(torch.tensor([0.5]), threshold)


def write_images(path: Path, classes: list[list[int]], num_classes: int) -> Path:
    """A COCO file with one object for each image and entry of ``classes``; a negative entry is a crowd region."""
    annotations: list[dict[str, Any]] = []
    for image, members in enumerate(classes):
        for category in members:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": abs(category),
                    "bbox": [0, 0, 5, 5],
                    "iscrowd": int(category < 0),
                    "segmentation": [[0, 0, 5, 0, 5, 5]],
                }
            )
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 10} for i in range(len(classes))]
    categories = [{"id": i, "name": str(i)} for i in range(1, num_classes + 1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_image_factors_by_hand(tmp_path: Path) -> None:
    # Images (of 8 annotated ones): class 1 in 8, class 2 in 2, class 3 in 1 (twice there); image 8 is empty.
    # t = 0.5: r_1 = 1, r_2 = sqrt(0.5 / 0.25) = 1.414, r_3 = sqrt(0.5 / 0.125) = 2.
    path = write_images(tmp_path / "x.json", [[1], [1, 2], [1, 2, 3, 3], [1], [1], [1, -3], [1], [1], []], 3)
    factors = image_repeat_factors(read_dataset(path), 0.5)
    np.testing.assert_allclose(factors, [1, sqrt(2), 2, 1, 1, 1, 1, 1, 1], rtol=1e-15)
    indices = repeat_indices(factors, "ceil", np.random.default_rng(0))
    assert indices.tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8]


def test_stochastic_rounding_expects_the_factor() -> None:
    factors = np.array([1.0, 1.25, 2.5, 3.0])
    generator = np.random.default_rng(0)
    draws = np.array([np.bincount(repeat_indices(factors, "stochastic", generator)) for _ in range(4000)])
    assert set(draws[:, 1]) == {1, 2}
    assert set(draws[:, 2]) == {2, 3}
    # A Bernoulli draw's standard error over 4000 is at most 0.008.
    np.testing.assert_allclose(draws.mean(axis=0), factors, atol=0.03)
    assert (draws[:, [0, 3]] == [1, 3]).all()


def test_lvis_v1_at_its_real_counts(shared: Path) -> None:
    """The published setting, t = 0.001 with ceil, over 99,388 images and 1,203 classes."""
    lvis = json.loads((shared / "data/lvis/categories_v1.json").read_text())
    counts = [category["image_count"] for category in lvis["categories"]]
    num_images = lvis["num_images"]
    ours = category_repeat_factors(torch.tensor(counts).double() / num_images, 1e-3)
    expected = [max(1.0, sqrt(1e-3 / (count / num_images))) for count in counts]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-14)
    # A class seen once is shown ceil(sqrt(99.388)) = 10 times; classes in at least 100 images are not repeated.
    assert ceil(max(expected)) == 10
    assert all((count >= 100) == (factor == 1.0) for count, factor in zip(counts, ours.tolist(), strict=True))
    rare = [
        factor
        for category, factor in zip(lvis["categories"], ours.tolist(), strict=True)
        if category["frequency"] == "r"
    ]
    assert len(rare) == 337
    assert min(rare) == pytest.approx(sqrt(99.388 / 10))
