"""Random sets for error kinds, and what TIDE's own code makes of a set (tidecv 1.0.1, an optional peer)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as run_lengths

SHORT = {"classification": "Cls", "localization": "Loc", "both": "Both", "duplicate": "Dupe"}
SHORT |= {"background": "Bkg", "missed": "Miss"}
HEIGHT, WIDTH = 240, 320
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Theirs:
    """In percent, as tidecv prints them: AP50, costs by kind; the number of errors by kind."""

    ap: float
    cost: dict[str, float | None]
    counts: dict[str, int]


def peer() -> Any:
    """tidecv; skips the test where it is not installed."""
    return pytest.importorskip("tidecv", reason="needs tidecv: uv sync --group peers")


def run_of(truth: dict[str, Any], results: Records, iou_type: str, *, max_dets: int = 10**6) -> Any:
    """tidecv's run over a COCO-format set; crowds are its regions to ignore."""
    tide = peer()
    objects, found = (tide.Data(name, max_dets) for name in ("truth", "results"))

    def shape(record: dict[str, Any]) -> dict[str, Any]:
        return {"box": record["bbox"]} if iou_type == "bbox" else {"mask": record["segmentation"]}

    for category in truth["categories"]:
        objects.add_class(category["id"], category["name"])
    for image in truth["images"]:
        objects.add_image(image["id"], str(image["id"]))
    for record in truth["annotations"]:
        add = objects.add_ignore_region if record["iscrowd"] else objects.add_ground_truth
        add(record["image_id"], record["category_id"], **shape(record))
    for record in results:
        found.add_detection(record["image_id"], record["category_id"], record["score"], **shape(record))
    return tide.TIDE(mode="bbox" if iou_type == "bbox" else "mask").evaluate(objects, found)


def without_excused(truth: dict[str, Any], results: Records, iou_type: str) -> Records:
    """The detections but for those that a crowd excuses, which tidecv leaves out of AP but calls errors."""
    found = run_of(truth, results, iou_type).preds.annotations
    return [record for record, theirs in zip(results, found, strict=True) if theirs.get("used", False) is not None]


def printed(run: Any) -> Theirs:
    """What tidecv says; the cost of missed objects is None where it divides by no class."""
    cost: dict[str, float | None] = {}
    for kind in type_names():
        try:
            cost |= {each.short_name: value for each, value in run.fix_main_errors(error_types=[kind]).items()}
        except ZeroDivisionError:
            cost[kind.short_name] = None
    return Theirs(run.ap, cost, counts_of(run))


def over_classes(run: Any, classes: Iterable[int]) -> Theirs:
    """The same from tidecv's AP of each class, with the mean over ``classes`` alone."""
    wanted = set(classes)

    def mean(data: Any) -> float | None:
        values = [each.get_ap() for label, each in data.objs.items() if label in wanted and not each.is_empty()]
        return sum(values) / len(values) if values else None

    ap = mean(run.ap_data)
    assert ap is not None
    cost: dict[str, float | None] = {}
    for kind in type_names():
        fixed = mean(run.fix_errors(of_kind(kind)))
        cost[kind.short_name] = None if fixed is None else fixed - ap
    return Theirs(ap, cost, counts_of(run))


def of_kind(kind: type) -> Callable[[Any], bool]:
    return lambda error: isinstance(error, kind)


def type_names() -> list[Any]:
    return peer().TIDE._error_types


def counts_of(run: Any) -> dict[str, int]:
    return {kind.short_name: count for kind, count in run.count_errors().items()}


def random_set(rng: np.random.Generator, *, only_known: bool, crowds: bool = True) -> tuple[dict[str, Any], Records]:
    """Up to 9 objects of each of up to five classes, and detections of every kind of error.

    Some classes have no object, some no detection. With 10 objects the recall 7 / 10 lies on a point of the curve,
    where pycocotools and tidecv round apart.

    Args:
        rng: draws everything.
        only_known: no detection is of a class without objects.
        crowds: whether a fifth of the regions are crowds.
    """
    num_classes = int(rng.integers(1, 6))
    present = rng.choice(num_classes, size=int(rng.integers(1, num_classes + 1)), replace=False) + 1
    images = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, 7)]
    annotations: Records = []
    for image in images:
        for _ in range(rng.integers(0, 4)):
            box = random_box(rng)
            crowd = crowds and len(annotations) > 0 and rng.random() < 0.2
            label = int(rng.choice(present))
            if sum(each["category_id"] == label for each in annotations) < 9:
                annotations.append(record(image, label, box) | {"iscrowd": int(crowd)})
    if not annotations:
        return random_set(rng, only_known=only_known, crowds=crowds)
    annotations = [{"id": i, "area": each["bbox"][2] * each["bbox"][3]} | each for i, each in enumerate(annotations, 1)]
    asked = {each["category_id"] for each in annotations if not each["iscrowd"]}
    usable = sorted(asked) if only_known else range(1, num_classes + 1)
    seen = rng.choice(list(usable), size=int(rng.integers(1, len(usable) + 1)), replace=False)
    results: Records = []
    for image in images:
        near = [each["bbox"] for each in annotations if each["image_id"] == image["id"]]
        for _ in range(rng.integers(0, 9)):
            results.append(random_detection(rng, image, near, seen, annotations))
    truth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, num_classes + 1)],
    }
    return truth, results


def random_detection(
    rng: np.random.Generator, image: dict[str, Any], near: list[list[float]], seen: np.ndarray, annotations: Records
) -> dict[str, Any]:
    """Over an object, well or badly, of its class or another one; or anywhere."""
    box, label = random_box(rng), int(rng.choice(seen))
    if near and rng.random() < 0.8:
        box = near[int(rng.integers(len(near)))]
        own = next(each["category_id"] for each in annotations if each["bbox"] == box)
        label = own if own in seen and rng.random() < 0.6 else label
        spread = rng.choice([0.05, 0.2, 0.5])
        x, y, w, h = box
        moves = spread * rng.normal(size=4) * [w, h, w, h]
        left, top = np.clip(np.array([x, y]) + moves[:2], 0, [WIDTH - 4, HEIGHT - 4]).tolist()
        right, bottom = np.minimum(np.array([x + w, y + h]) + moves[2:], [WIDTH, HEIGHT]).tolist()
        box = [left, top, max(right - left, 3.0), max(bottom - top, 3.0)]
    return record(image, label, box) | {"score": float(rng.random())}


def random_box(rng: np.random.Generator) -> list[float]:
    w, h = rng.uniform(12, 110, size=2).tolist()
    return [float(rng.uniform(0, WIDTH - w)), float(rng.uniform(0, HEIGHT - h)), w, h]


def record(image: dict[str, Any], label: int, box: list[float]) -> dict[str, Any]:
    """A box and its pixels."""
    x, y, w, h = box
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[round(y) : round(y + h) + 1, round(x) : round(x + w) + 1] = 1
    encoded = run_lengths.encode(pixels)
    mask = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode("ascii")}
    return {"image_id": image["id"], "category_id": label, "bbox": box, "segmentation": mask}
