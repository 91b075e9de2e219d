"""Writes a synthetic annotation file in LVIS style and the results of a simulated detector, of any size.

    uv run python benchmarks/synthetic_results.py OUT --images 5000

1,203 classes with frequencies proportional to 1 / rank (405 frequent, 461 common, 337 rare, as in LVIS v1), about 12
objects of up to 6 classes per image, and LVIS's lists for every image. 300 detections per image: some moved and scaled
copies of each object, a part of them with another class, and random boxes, a third of them with classes that were
checked in the image. The files are written image by image: memory does not grow with the size.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from hotcoco import mask as run_lengths

Record = dict[str, Any]
HEIGHT, WIDTH = 480, 640
NUM_CLASSES = 1203
GROUPS = "f" * 405 + "c" * 461 + "r" * 337


@dataclass(frozen=True)
class Files:
    """Where the two files lie."""

    truth: Path
    results: Path


def write(
    out: tyro.conf.Positional[Path],
    *,
    images: int,
    detections: int = 300,
    num_classes: int = NUM_CLASSES,
    seed: int = 0,
    skill: float = 0.6,
) -> Files:
    """Writes ``truth.json`` and ``results.json`` into the folder ``out``, in place of what is there.

    Args:
        out: made if need be.
        images, detections: how many, and how many detections in each image.
        num_classes: at most 1,203; the frequency groups keep their shares.
        seed: of the objects; the detector's own is drawn from it and ``skill``.
        skill: how close copies come and how seldom they are misnamed, in 0 .. 1.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = Files(out / "truth.json", out / "results.json")
    scenes, finds = np.random.default_rng(seed), np.random.default_rng([seed, int(1000 * skill)])
    pool = [_blob(finds, finds.uniform(8, 120, 2)) for _ in range(2000)]
    truth: Record = {"images": [], "annotations": [], "categories": _categories(num_classes)}
    with files.results.open("w") as file:
        for image_id in range(1, images + 1):
            image, objects = _scene(scenes, image_id, num_classes)
            truth["images"].append(image)
            truth["annotations"] += [
                found | {"id": len(truth["annotations"]) + i} for i, found in enumerate(objects, 1)
            ]
            records = list(_detections(finds, image, objects, pool, detections, num_classes, skill))
            file.write(("[" if image_id == 1 else ", ") + json.dumps(records)[1:-1])
        file.write("]")
    files.truth.write_text(json.dumps(truth))
    return files


def _categories(num_classes: int) -> list[Record]:
    groups = [GROUPS[index * NUM_CLASSES // num_classes] for index in range(num_classes)]
    return [{"id": index + 1, "name": f"class_{index + 1}", "frequency": group} for index, group in enumerate(groups)]


def _draw_classes(rng: np.random.Generator, num: int, num_classes: int) -> list[int]:
    """Category ids, the frequent ones first: P(rank) falls as 1 / rank."""
    ranks = np.exp(rng.uniform(0, np.log(num_classes + 1), num)).astype(int)
    return np.clip(ranks, 1, num_classes).tolist()


def _scene(rng: np.random.Generator, image_id: int, num_classes: int) -> tuple[Record, list[Record]]:
    present = _draw_classes(rng, 6, num_classes)
    objects = []
    for _ in range(int(rng.integers(4, 21))):
        polygon, box, mask = _blob(rng, np.exp(rng.uniform(np.log(8), np.log(200), 2)))
        objects.append(
            {
                "image_id": image_id,
                "category_id": present[int(rng.integers(len(present)))],
                "bbox": box,
                "area": float(run_lengths.area(mask)),
                "segmentation": [polygon],
            }
        )
    absent = sorted({*_draw_classes(rng, 8, num_classes), *rng.integers(1, num_classes + 1, 8).tolist()})
    image = {
        "id": image_id,
        "file_name": f"{image_id:012d}.jpg",
        "height": HEIGHT,
        "width": WIDTH,
        "neg_category_ids": sorted(set(absent) - {found["category_id"] for found in objects}),
        "not_exhaustive_category_ids": [objects[0]["category_id"]] if rng.random() < 0.2 else [],
    }
    return image, [found for found in objects if found["area"] > 0]


def _blob(
    rng: np.random.Generator, sides: np.ndarray, center: np.ndarray | None = None
) -> tuple[list[float], list[float], Record]:
    """A round polygon of 12 corners, its box and its run lengths."""
    if center is None:
        center = rng.uniform(0.1, 0.9, 2) * (WIDTH, HEIGHT)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radius = rng.uniform(0.7, 1, 12) * sides[:, None] / 2
    points = center[:, None] + radius * (np.cos(angles), np.sin(angles))
    points = np.clip(points.T, 0, (WIDTH, HEIGHT)).round(2)
    low, high = points.min(0), points.max(0)
    polygon = points.reshape(-1).tolist()
    mask = run_lengths.fr_poly(polygon, HEIGHT, WIDTH)
    return polygon, [*low.tolist(), *(high - low).round(2).tolist()], mask


def _detections(
    rng: np.random.Generator,
    image: Record,
    objects: list[Record],
    pool: list[tuple[list[float], list[float], Record]],
    num: int,
    num_classes: int,
    skill: float,
) -> Iterator[Record]:
    looked_for = image["neg_category_ids"] + [found["category_id"] for found in objects]
    left = num
    for found in objects:
        x, y, width, height = found["bbox"]
        hard = rng.random() < 0.4 * (1 - skill)
        for _ in range(0 if hard else min(int(rng.integers(1, 5)), left)):
            noise = rng.normal(0, 0.25 * (1 - skill) + 0.02, 4)
            center = np.array([x + width / 2 + noise[0] * width, y + height / 2 + noise[1] * height])
            _, box, mask = _blob(rng, np.array([width, height]) * np.exp(noise[2:]) + 1, center.clip(2, (638, 478)))
            wrong = rng.random() < 0.5 * (1 - skill)
            category = int(rng.integers(1, num_classes + 1)) if wrong else found["category_id"]
            left -= 1
            yield _record(image["id"], category, box, rng.beta(3 - wrong, 2), mask)
    for shape, chance in zip(rng.integers(len(pool), size=left).tolist(), rng.random(left).tolist(), strict=True):
        near = chance < 1 / 3
        category = looked_for[int(rng.integers(len(looked_for)))] if near else int(rng.integers(1, num_classes + 1))
        _, box, mask = pool[shape]
        yield _record(image["id"], category, box, rng.beta(1, 6), mask)


def _record(image_id: int, category_id: int, box: list[float], score: float, mask: Record) -> Record:
    segmentation = {"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode("ascii")}
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "score": round(float(score), 6),
        "segmentation": segmentation,
    }


if __name__ == "__main__":
    print(tyro.cli(write))
