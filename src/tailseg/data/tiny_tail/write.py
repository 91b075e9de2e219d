"""Writes tiny_tail as a genuine LVIS v1 data set: two JSON files and JPEG images."""

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
_PLAN: Final = 2**32 - 1  # the random stream of a split's plan; the streams of its images are 0, 1, 2, ...


def generate(folder: str | Path, *, preset: str = "full", seed: int = 0, progress: bool = False) -> Path:
    """Draws tiny_tail into a new or empty folder: ``train.json``, ``val.json``, ``train/*.jpg``, ``val/*.jpg``.

    The same preset and seed give the same bytes (with the same versions of NumPy and Pillow). The seed changes the
    images; classes and image counts belong to the preset. Image ids go on from train to val.

    Args:
        folder: made if it does not exist.
        preset: a name in ``PRESETS``.
        seed: at least 0.
        progress: shows a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown preset, a negative seed, or a folder with something in it.
    """
    plan, folder = find_preset(preset), Path(folder)
    if seed < 0:
        raise ValueError(f"tiny_tail needs a seed of at least 0, got {seed}")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"tiny_tail is drawn into a new or empty folder, but {folder} holds files: name another one")
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
    """The preset of that name; ValueError lists the names there are."""
    if name not in PRESETS:
        raise ValueError(f"tiny_tail has the presets {', '.join(PRESETS)}; there is no {name!r}")
    return PRESETS[name]


def _draw_split(
    folder: Path, split: str, plan: Preset, stream: tuple[int, int, int], first_image: int, *, progress: bool
) -> tuple[list[Record], list[Record]]:
    classes = plan.classes()
    counts = [each.train_count if split == "train" else each.val_count for each in classes]
    num_images = plan.train_images if split == "train" else plan.val_images
    class_sets = draw_class_sets(counts, num_images, np.random.default_rng([*stream, _PLAN]))
    images: list[Record] = []
    annotations: list[Record] = []
    for i, class_set in enumerate(track(class_sets, f"tiny_tail {split}", transient=True, disable=not progress)):
        rng = np.random.default_rng([*stream, i])
        file_name = f"{split}/{first_image + i:06d}.jpg"
        image, found = _draw_image(folder / file_name, classes, class_set, plan.surfaces, rng)
        images.append({"id": first_image + i, "file_name": file_name, "coco_url": f"tiny_tail/{file_name}", **image})
        for record in found:
            annotations.append({"id": len(annotations) + 1, "image_id": first_image + i, **record})
    return images, annotations


def _draw_image(
    file: Path, classes: list[ObjectClass], class_set: list[int], surfaces: tuple[str, ...], rng: np.random.Generator
) -> tuple[Record, list[Record]]:
    """Writes the image; returns what its image record and its annotation records say."""
    objects = draw_order(class_set, rng)
    image, things = draw_scene([(classes[label].shape, classes[label].surface) for label, _ in objects], surfaces, rng)
    image.save(file, quality=90)
    absent = [label for label in range(len(classes)) if label not in class_set]
    record = {
        "height": image.height,
        "width": image.width,
        "license": 1,
        "neg_category_ids": [label + 1 for label in draw_negatives(absent, rng)],
        "not_exhaustive_category_ids": sorted({label + 1 for label, annotated in objects if not annotated}),
    }
    found = [
        {
            "category_id": label + 1,
            "bbox": _compute_box(thing.visible),
            "area": float(thing.visible.sum()),
            "segmentation": encode_segmentation(thing),
        }
        for (label, annotated), thing in zip(objects, things, strict=True)
        if annotated
    ]
    return record, found


def _compute_box(mask: Bitmap) -> list[float]:
    """The box x, y, width, height around a mask's pixels."""
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
            "name": each.name,
            "synset": f"{each.name.replace(' ', '_')}.n.01",
            "synonyms": [each.name.replace(" ", "_")],
            "def": f"a {each.shape} with a {each.surface} surface",
            "frequency": frequency_group(each.train_count),
            "image_count": each.train_count,
            "instance_count": int(instances[i]),
        }
        for i, each in enumerate(classes, start=1)
    ]
