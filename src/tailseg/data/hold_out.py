"""A validation set for those who have only one annotation file."""

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

HELD_OUT_SHARE = 0.1


def hold_out(annotation_file: Path, folder: Path, *, share: float = HELD_OUT_SHARE) -> tuple[Path, Path]:
    """Splits a COCO- or LVIS-format file into ``folder/train.json`` and ``folder/val.json``.

    The same file gives the same split every time. An image is held out only while each of its classes stays in some
    other training image, so that no rare class is lost to training; both files list all categories.

    Args:
        annotation_file: read without checks: `read_dataset` it first.
        folder: made if need be; files in it are replaced.
        share: of the images, in (0, 1).

    Raises:
        ValueError: no image can be held out.
    """
    content = json.loads(annotation_file.read_text())
    held_out = _held_out(content, share)
    if not held_out:
        raise ValueError(
            f"{annotation_file}: no image can be held out for validation without losing a class from training; "
            "name a validation set (data.val)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.json", folder / "val.json"
    for path, wanted in zip(paths, (False, True), strict=True):
        part = {
            **content,
            "images": [image for image in content["images"] if (image["id"] in held_out) == wanted],
            "annotations": [item for item in content["annotations"] if (item["image_id"] in held_out) == wanted],
        }
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.write_text(json.dumps(part))
        unfinished.replace(path)
    return paths


def _held_out(content: dict[str, Any], share: float) -> set[int]:
    """Ids of the images held out, drawn from those with objects first to last in a fixed random order."""
    classes: dict[int, set[int]] = defaultdict(set)
    for item in content["annotations"]:
        classes[item["image_id"]].add(item["category_id"])
    images_left = Counter(label for labels in classes.values() for label in labels)
    order = sorted(classes)
    random.Random(0).shuffle(order)
    held_out: set[int] = set()
    for image_id in order:
        if len(held_out) >= max(1, round(share * len(content["images"]))):
            break
        if all(images_left[label] > 1 for label in classes[image_id]):
            held_out.add(image_id)
            images_left.subtract(classes[image_id])
    return held_out
