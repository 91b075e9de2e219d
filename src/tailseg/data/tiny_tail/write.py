"""Writes tiny_tail as an LVIS v1 data set: two JSON files and JPEG images."""

import json
import zlib
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from rich.progress import track

from tailseg.annotations.types import frequency_group
from tailseg.data.tiny_tail.plan import (
    PRESETS,
    ObjectClass,
    Preset,
    draw_class_sets,
    draw_negatives,
    draw_order,
)
from tailseg.data.tiny_tail.scene import Bitmap, draw_scene, encode_segmentation

Record = dict[str, Any]

_SPLITS: Final[tuple[Literal["train", "val"], ...]] = ("train", "val")
_PLAN: Final = 2**32 - 1  # random stream of a set's plan; its images have the streams 0, 1, 2, ...


def generate(folder: str | Path, *, preset: str = "full", seed: int = 0, progress: bool = False) -> Path:
    """Draws tiny_tail into a new or empty folder: ``train.json``, ``val.json``, ``train/*.jpg``, ``val/*.jpg``.

    The same preset and seed give the same bytes (with the same versions of NumPy and Pillow). The seed changes the
    images; the preset gives the classes and the image counts. Image ids continue from train to val.

    Args:
        folder: created if it does not exist.
        preset: a name in ``PRESETS``.
        seed: at least 0.
        progress: whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: the preset is unknown, the seed is negative, or the folder is not empty.
    """
    plan, folder = find_preset(preset), Path(folder)
    if seed < 0:
        raise ValueError(f"tiny_tail needs a seed of at least 0, got {seed}")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"tiny_tail needs a new or empty folder, but {folder} has files. Name another folder")
    splits: dict[str, tuple[list[Record], list[Record]]] = {}
    first_image = 1
    for number, split in enumerate(_SPLITS):
        (folder / split).mkdir(parents=True, exist_ok=True)
        stream = (seed, zlib.crc32(preset.encode()), number)
        splits[split] = _draw_split(folder, split, plan, stream, first_image, progress=progress)
        first_image += len(splits[split][0])
    categories = _make_categories(plan.classes(), splits["train"][1])
    for split, (images, annotations) in splits.items():
        content = {
            "info": {
                "description": f"tiny_tail, preset {preset}, seed {seed}, {split}: drawn, not photographed",
                "version": "v1.0",
                "year": 2025,
                "contributor": "tailseg",
                "date_created": "2025-01-01 00:00:00.000000",
                "url": "",
            },
            "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (folder / f"{split}.json").write_text(json.dumps(content, separators=(",", ":")))
    return folder


def find_preset(name: str) -> Preset:
    """Finds the preset with this name.

    Raises:
        ValueError: the preset is unknown; the message lists the names.
    """
    if name not in PRESETS:
        raise ValueError(f"tiny_tail has no preset {name!r}. Name one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _draw_split(
    folder: Path, split: str, plan: Preset, stream: tuple[int, int, int], first_image: int, *, progress: bool
) -> tuple[list[Record], list[Record]]:
    classes = plan.classes()
    counts = [item.train_count if split == "train" else item.val_count for item in classes]
    num_images = plan.train_images if split == "train" else plan.val_images
    class_sets = draw_class_sets(counts, num_images, np.random.default_rng([*stream, _PLAN]))
    images: list[Record] = []
    annotations: list[Record] = []
    for i, class_set in enumerate(track(class_sets, f"tiny_tail {split}", transient=True, disable=not progress)):
        rng = np.random.default_rng([*stream, i])
        file_name = f"{split}/{first_image + i:06d}.jpg"
        image, records = _draw_image(folder / file_name, classes, class_set, plan.surfaces, rng)
        images.append({"id": first_image + i, "file_name": file_name, "coco_url": f"tiny_tail/{file_name}", **image})
        for record in records:
            annotations.append({"id": len(annotations) + 1, "image_id": first_image + i, **record})
    return images, annotations


def _draw_image(
    file: Path, classes: list[ObjectClass], class_set: list[int], surfaces: tuple[str, ...], rng: np.random.Generator
) -> tuple[Record, list[Record]]:
    """Draws and writes an image; returns its image record and its annotation records."""
    objects = draw_order(class_set, rng)
    image, placed = draw_scene([(classes[label].shape, classes[label].surface) for label, _ in objects], surfaces, rng)
    image.save(file, quality=90)
    absent = [label for label in range(len(classes)) if label not in class_set]
    record = {
        "height": image.height,
        "width": image.width,
        "license": 1,
        "neg_category_ids": [label + 1 for label in draw_negatives(absent, rng)],
        "not_exhaustive_category_ids": sorted({label + 1 for label, annotated in objects if not annotated}),
    }
    annotations = [
        {
            "category_id": label + 1,
            "bbox": _compute_box(item.visible),
            "area": float(item.visible.sum()),
            "segmentation": encode_segmentation(item),
        }
        for (label, annotated), item in zip(objects, placed, strict=True)
        if annotated
    ]
    return record, annotations


def _compute_box(mask: Bitmap) -> list[float]:
    """Computes the box x, y, width, height around the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    ]


def _make_categories(classes: list[ObjectClass], train: list[Record]) -> list[Record]:
    instances = np.bincount([record["category_id"] for record in train], minlength=len(classes) + 1)
    return [
        {
            "id": i,
            "name": item.name,
            "synset": f"{item.name.replace(' ', '_')}.n.01",
            "synonyms": [item.name.replace(" ", "_")],
            "def": f"a {item.shape} with a {item.surface} surface",
            "frequency": frequency_group(item.train_count),
            "image_count": item.train_count,
            "instance_count": int(instances[i]),
        }
        for i, item in enumerate(classes, start=1)
    ]
