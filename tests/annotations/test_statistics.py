"""Sizes, positions and co-occurrence, against counts from the raw records."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.annotations.statistics import (
    compute_quantiles,
    count_bands,
    count_group_pairs,
    count_positions,
    find_companions,
    list_class_groups,
    tabulate_objects,
)

SIZE = 480


@pytest.fixture(params=["coco", "lvis"])
def both(request: pytest.FixtureRequest, write: Callable[..., Path]) -> tuple[dict[str, Any], Annotations]:
    """Raw records of 40 images and 12 classes, some of them crowds, one class without objects; and what was read."""
    draws = np.random.default_rng(0)
    images: list[dict[str, Any]] = [{"id": i, "file_name": f"{i}.jpg", "height": SIZE, "width": 640} for i in range(40)]
    categories: list[dict[str, Any]] = [{"id": 10 * i, "name": f"class {i}"} for i in range(1, 13)]
    annotations = []
    for number in range(400):
        x, y = draws.uniform(0, [500, 340]).round(1).tolist()
        width, height = draws.uniform(2, 130, 2).round(1).tolist()
        label = min(int(draws.geometric(0.35)), 11)
        box = [x, y, width, height]
        record = {"id": number, "image_id": int(draws.integers(38)), "category_id": 10 * label, "bbox": box}
        annotations.append({**record, "area": width * height, "iscrowd": int(number % 50 == 0)})
    if request.param == "lvis":
        for category in categories:
            category["frequency"] = "rcf"[category["id"] // 10 % 3]
        for image in images:
            image |= {"neg_category_ids": [120], "not_exhaustive_category_ids": []}
    raw = {"images": images, "annotations": annotations, "categories": categories}
    return raw, read_dataset(write(raw), use="boxes")


def list_objects(raw: dict[str, Any]) -> list[tuple[int, int, list[float]]]:
    """Image, label and box of each object."""
    return [(a["image_id"], a["category_id"] // 10 - 1, a["bbox"]) for a in raw["annotations"] if not a["iscrowd"]]


def test_sizes_and_bands_of_classes(both: tuple[dict[str, Any], Annotations]) -> None:
    raw, annotations = both
    table = tabulate_objects(annotations)
    sides, bands = defaultdict(list), Counter()
    for _, label, (_, _, width, height) in list_objects(raw):
        sides[label].append((width * height) ** 0.5)
        bands[label, sum(width * height >= edge**2 for edge in (32, 96))] += 1
    quantiles = compute_quantiles(table.sides, table.labels, 12)
    for label in range(12):
        expected = np.quantile(sides[label], (0.05, 0.25, 0.5, 0.75, 0.95)) if sides[label] else np.full(5, np.nan)
        np.testing.assert_allclose(quantiles[label], expected, rtol=1e-5)
    assert np.isnan(quantiles[11]).all()
    counted = count_bands(table.sides, table.labels, 12)
    assert {(label, band): n for (label, band), n in np.ndenumerate(counted) if n} == bands
    np.testing.assert_allclose(table.shares, table.sides / (640 * SIZE) ** 0.5)


def test_positions(both: tuple[dict[str, Any], Annotations]) -> None:
    raw, annotations = both
    table = tabulate_objects(annotations)
    counts = count_positions(table.centers, np.zeros(len(table.labels), np.int64), 1, 4)[0]
    expected = np.zeros((4, 4), int)
    for _, _, (x, y, width, height) in list_objects(raw):
        expected[int((y + height / 2) / SIZE * 4), int((x + width / 2) / 640 * 4)] += 1
    assert counts.tolist() == expected.tolist()


def test_companions_and_pairs_of_groups(both: tuple[dict[str, Any], Annotations]) -> None:
    raw, annotations = both
    table = tabulate_objects(annotations)
    contents: dict[int, set[int]] = defaultdict(set)
    for image, label, _ in list_objects(raw):
        contents[image].add(label)
    company = find_companions(table, 12, range(12), limit=20)
    assert [one.label for one in company] == sorted(set().union(*contents.values()))
    for one in company:
        own = [labels for labels in contents.values() if one.label in labels]
        shared = Counter(label for labels in own for label in labels if label != one.label)
        assert one.images == len(own)
        assert one.alone == sum(len(labels) == 1 for labels in own)
        assert {companion.label: companion.images for companion in one.frequent} == shared
        assert [c.images for c in one.frequent] == sorted((c.images for c in one.frequent), reverse=True)
        for companion in one.frequent:
            overall = sum(companion.label in labels for labels in contents.values()) / len(contents)
            assert companion.share == pytest.approx(companion.images / len(own))
            assert companion.lift == pytest.approx(companion.share / overall)
        likely = {c.label for c in one.frequent if c.lift > 1 and c.images >= min(2, len(own))}
        assert {companion.label for companion in one.beyond_chance} == likely
        lifts = [companion.lift for companion in one.beyond_chance]
        assert lifts == sorted(lifts, reverse=True)

    counts = Counter(label for labels in contents.values() for label in labels)
    groups = [0 if counts[label] <= 10 else 1 for label in range(12)]  # no class is in more than 100 images
    if annotations.format == "lvis":
        groups = [(label + 1) % 3 for label in range(12)]
    assert list_class_groups(annotations).tolist() == groups
    images, pairs = count_group_pairs(table, np.array(groups))
    for one in range(3):
        has = [[groups[label] for label in labels] for labels in contents.values()]
        assert images[one] == sum(one in present for present in has)
        for other in range(3):
            both_groups = sum(one in g and other in g if one != other else g.count(one) > 1 for g in has)
            assert pairs[one, other] == both_groups


def test_a_file_of_crowds_alone(raw: dict[str, Any], write: Callable[..., Path]) -> None:
    for annotation in raw["annotations"]:
        annotation["iscrowd"] = 1
    annotations = read_dataset(write(json.loads(json.dumps(raw))), use="boxes", on_problem="repair")
    table = tabulate_objects(annotations)
    assert len(table.labels) == 0
    assert find_companions(table, 2, [0, 1], limit=3) == []
    assert np.isnan(compute_quantiles(table.sides, table.labels, 2)).all()
    assert not count_positions(table.centers, table.labels, 2, 3).any()
    images, pairs = count_group_pairs(table, list_class_groups(annotations))
    assert not images.any()
    assert not pairs.any()
