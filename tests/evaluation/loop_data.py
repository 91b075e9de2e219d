"""A small data set with masks and a detector's outputs for it, in the forms of several frameworks."""

import json
from pathlib import Path

import numpy as np
import supervision as sv
import torch
from hotcoco import mask as run_lengths

from tailseg.structures import Detections

HEIGHT, WIDTH = 40, 60
CATEGORIES = {2: "two", 5: "five", 9: "nine"}


def draw(seed: int = 0, num_images: int = 12) -> tuple[dict, dict[int, dict[str, torch.Tensor]]]:
    """An annotation file, and outputs by image id as torchvision's: labels from 1, some images without objects.

    Scores have two decimals, so that there are ties. Some detections are objects moved by some pixels.
    """
    rng = np.random.default_rng(seed)
    raw = {
        "images": [{"id": 100 + 7 * i, "height": HEIGHT, "width": WIDTH} for i in range(num_images)],
        "annotations": [],
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    outputs = {}
    for index, image in enumerate(raw["images"]):
        masks, labels = [], []
        for _ in range(index % 5):
            mask, label = _mask(rng), int(rng.integers(1, 4))
            encoded = run_lengths.encode(np.asfortranarray(mask))
            raw["annotations"].append(
                {
                    "id": len(raw["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": list(CATEGORIES)[label - 1],
                    "bbox": _box(mask, xywh=True),
                    "area": float(mask.sum()),
                    "iscrowd": int(rng.random() < 0.1),
                    "segmentation": encoded | {"counts": encoded["counts"].decode()},
                }
            )
            masks += [np.roll(mask, rng.integers(-2, 3, 2), (0, 1)), _mask(rng)]
            labels += [label, int(rng.integers(1, 4))]
        boxes = [_box(mask) for mask in masks]
        jitter = rng.normal(0, 0.3, (len(masks), 4)).clip(-0.4, 0.4)
        outputs[image["id"]] = {
            "boxes": torch.tensor(np.reshape(boxes, (-1, 4)) + jitter, dtype=torch.float32),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(rng.integers(1, 100, len(masks)) / 100, dtype=torch.float32),
            "masks": torch.from_numpy(np.reshape(masks, (-1, 1, HEIGHT, WIDTH))) * 0.4 + 0.3,  # 0.3 and 0.7
        }
    return raw, outputs


def _mask(rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    y, x = rng.integers(2, HEIGHT - 20), rng.integers(2, WIDTH - 20)
    h, w = rng.integers(4, 18, 2)
    mask[y : y + h, x : x + w] = 1
    mask[y, x] = 0
    return mask


def _box(mask: np.ndarray, *, xywh: bool = False) -> list[float]:
    ys, xs = np.nonzero(mask)
    x, y, right, bottom = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
    return [x, y, right - x, bottom - y] if xywh else [x, y, right, bottom]


def to_tailseg(output: dict[str, torch.Tensor]) -> Detections:
    """The same as tailseg's detections, whose labels start at 0."""
    bitmaps = (output["masks"][:, 0] > 0.5).numpy().astype(np.uint8)
    masks = [run_lengths.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps]
    return Detections(
        boxes=output["boxes"],
        scores=output["scores"],
        labels=output["labels"] - 1,
        masks=tuple(mask | {"counts": mask["counts"].decode()} for mask in masks),
        height=HEIGHT,
        width=WIDTH,
    )


def to_supervision(output: dict[str, torch.Tensor]) -> sv.Detections:
    """The same as supervision's detections, with labels from 0."""
    return to_tailseg(output).to_supervision()


def to_records(outputs: dict[int, dict[str, torch.Tensor]]) -> list[dict]:
    """COCO's result records."""
    ids = list(CATEGORIES)
    return [record for key, output in outputs.items() for record in to_tailseg(output).to_coco(key, ids)]


def write(folder: Path, seed: int = 0) -> tuple[Path, Path, dict[int, dict[str, torch.Tensor]]]:
    """Writes the annotation file and the results file; returns them and the outputs."""
    raw, outputs = draw(seed)
    truth, results = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps(raw))
    results.write_text(json.dumps(to_records(outputs)))
    return truth, results, outputs
