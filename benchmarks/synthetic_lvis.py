"""Writes a synthetic annotation file of LVIS v1's size, with random polygons and a few images.

It has 1,203 classes with the numbers of images and objects of LVIS v1's training set (or, without a file of these
counts, a long tail of the same size), 100,170 images and 1.27 million polygons. The polygons have a size that makes a
file of 1.1 GB. The annotations are not in the order of the images. ``scale`` below 1 makes a smaller file.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torchvision.io import encode_jpeg, write_file

NUM_IMAGES, NUM_CLASSES, NUM_OBJECTS = 100_170, 1203, 1_270_141
HEIGHT, WIDTH = 480, 640
PHOTOGRAPHS = 64
CHUNK = 20_000


def write_lvis(folder: Path, *, scale: float, counts: Path | None) -> Path:
    """Writes ``folder/lvis.json`` and ``folder/images``, unless they are there; returns the former."""
    path = folder / f"lvis-{scale:g}.json"
    if path.is_file():
        return path
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(PHOTOGRAPHS):
        write_file(str(folder / "images" / photograph(i)), encode_jpeg(scenery(i), quality=90))
    categories = class_counts(counts, scale)
    num_images = int(NUM_IMAGES * scale)
    labels, images = assign(categories, int(num_images * 0.9922), rng)  # the rest have no object
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(b'{"info": {}, "licenses": [], "categories": ' + encode(categories) + b', "images": ')
        file.write(encode([image(i, rng) for i in range(num_images)]) + b', "annotations": [')
        for start in range(0, len(labels), CHUNK):
            part = slice(start, start + CHUNK)
            records = annotations(start, labels[part], images[part], rng)
            file.write(b", " * (start > 0) + b", ".join(map(encode, records)))
        file.write(b"]}")
    unfinished.replace(path)
    return path


def class_counts(file: Path | None, scale: float) -> list[dict[str, Any]]:
    """LVIS's category records, their counts scaled."""
    if file is not None:
        known = json.loads(file.read_text())["categories"]
    else:
        tail = 3000 ** np.linspace(1, 0, NUM_CLASSES)
        known = [{"id": i + 1, "name": f"class_{i}", "image_count": int(count)} for i, count in enumerate(tail)]
        factor = NUM_OBJECTS / sum(c["image_count"] for c in known)
        known = [{**c, "instance_count": int(factor * c["image_count"]) + 1, "frequency": "c"} for c in known]
    return [{**c, **{key: max(1, round(scale * c[key])) for key in ("image_count", "instance_count")}} for c in known]


def assign(categories: list[dict[str, Any]], annotated: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each object's category id and image, in random order."""
    labels, images = [], []
    for category in categories:
        within = rng.choice(annotated, min(annotated, category["image_count"]), replace=False)
        more = rng.choice(within, max(0, category["instance_count"] - len(within)))
        images.append(np.concatenate([within, more]))
        labels.append(np.full(len(images[-1]), category["id"]))
    order = rng.permutation(sum(map(len, labels)))
    return np.concatenate(labels)[order], np.concatenate(images)[order]


def image(index: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "id": index,
        "file_name": photograph(index % PHOTOGRAPHS),
        "coco_url": f"http://images.cocodataset.org/train2017/{index:012}.jpg",
        "flickr_url": f"http://farm9.staticflickr.com/8081/{index:010}_ef74d48dff_z.jpg",
        "date_captured": "2013-11-19 20:30:17",
        "license": 3,
        "height": HEIGHT,
        "width": WIDTH,
        "neg_category_ids": rng.integers(1, NUM_CLASSES + 1, 8).tolist(),
        "not_exhaustive_category_ids": [],
    }


def annotations(
    start: int, labels: np.ndarray, images: np.ndarray, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Records with one star-shaped polygon of 45 points on average, coordinates to two decimals."""
    points = np.clip(rng.lognormal(3.5, 0.75, len(labels)), 5, 400).astype(int)
    owner = np.repeat(np.arange(len(labels)), points)
    angle = 2 * np.pi * (np.arange(len(owner)) - np.repeat(np.cumsum(points) - points, points)) / points[owner]
    size = rng.uniform(8, 120, len(labels))
    center = rng.uniform([120, 120], [WIDTH - 120, HEIGHT - 120], (len(labels), 2))
    radius = size[owner] * rng.uniform(0.7, 1, len(owner))
    xy = np.round(center[owner] + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), 2)
    ends = np.cumsum(points)
    for i, (label, index) in enumerate(zip(labels.tolist(), images.tolist(), strict=True)):
        mine = xy[ends[i] - points[i] : ends[i]]
        low, high = mine.min(axis=0), mine.max(axis=0)
        yield {
            "id": start + i + 1,
            "image_id": index,
            "category_id": label,
            "bbox": np.round([*low, *(high - low)], 2).tolist(),
            "area": round(float(np.prod(high - low)) * 0.7, 2),
            "segmentation": [mine.ravel().tolist()],
        }


def encode(value: object) -> bytes:
    """JSON with a space after each comma and colon, as LVIS's own."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0)


def photograph(index: int) -> str:
    return f"{index:06}.jpg"


def scenery(seed: int) -> torch.Tensor:
    """Noise at several scales: a JPEG of it takes about as long to decode as a photograph's."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        torch.nn.functional.interpolate(
            torch.rand(1, 3, HEIGHT // step, WIDTH // step, generator=generator), (HEIGHT, WIDTH), mode="bilinear"
        )
        for step in (120, 40, 10, 4)
    ]
    return (255 * torch.stack(layers).mean(0)[0]).to(torch.uint8)
