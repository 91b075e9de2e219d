"""Image ids that are places among the images score near zero; a note says in which order, and what they give then."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailseg.evaluation import analyze, evaluate

Record = dict[str, Any]
HEIGHT, WIDTH = 60, 100
IDS = (5, 2, 9, 1, 7, 4, 8, 3, 6, 10)
NAMES = "kdgbjahcfi"
"""Of the images in the order of the file, whose ids are not sorted; nor are its names."""

ORDERS: dict[str, Sequence[int]] = {
    "as the file lists them": IDS,
    "in order of id": sorted(IDS),
    "in order of file name": [IDS[at] for at in np.argsort([*NAMES]).tolist()],
}


@pytest.fixture
def data() -> Record:
    """Two objects of two classes in each image, at places of its own."""
    rng = np.random.default_rng(3)
    places = rng.permutation(20)
    annotations = []
    for number in range(20):
        row, column = divmod(int(places[number]), 5)
        x, y, w, h = 20 * column, 15 * row, 18, 13
        mask = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        fields = {"id": number + 1, "image_id": IDS[number // 2], "category_id": 1 + number % 2, "iscrowd": 0}
        annotations.append(fields | {"bbox": [x, y, w, h], "area": w * h, "segmentation": mask})
    return {
        "images": [
            {"id": key, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
            for key, name in zip(IDS, NAMES, strict=True)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }


def results_of(data: Record) -> list[Record]:
    keys = "image_id", "category_id", "bbox", "segmentation"
    return [{key: each[key] for key in keys} | {"score": 1 - at / 100} for at, each in enumerate(data["annotations"])]


Write = Callable[[Record], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(data: Record) -> Path:
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(data))
        return path

    return to_file


@pytest.mark.parametrize("lvis", [False, True])
@pytest.mark.parametrize("iou_types", [("bbox",), ("segm",)])
@pytest.mark.parametrize("order", ["as the file lists them", "in order of file name"])
def test_places_are_told(order: str, iou_types: Any, lvis: bool, data: Record, write: Write) -> None:
    results = results_of(data)
    for record in results:
        record["image_id"] = ORDERS[order].index(record["image_id"]) + 1
    if lvis:
        for image in data["images"]:
            image.update(neg_category_ids=[1, 2], not_exhaustive_category_ids=[])
        for category in data["categories"]:
            category["frequency"] = "f"
    metrics = evaluate(write(data), results, iou_types=iou_types)
    plain = metrics[iou_types[0]]["AP50"]
    assert plain is not None
    assert plain < 0.25
    (note,) = metrics.notes
    assert f"is {100 * plain:.1f}, but 100.0 if image ids are places among the images {order}, from 1" in note


def test_places_from_0_are_told(data: Record, write: Write) -> None:
    """Nothing is found in the first image, so that every id is known."""
    order = ORDERS["as the file lists them"]
    results = [record for record in results_of(data) if record["image_id"] != order[0]]
    for record in results:
        record["image_id"] = order.index(record["image_id"])
    (note,) = analyze(write(data), {"bbox": results}).metrics.notes
    assert "if image ids are places among the images as the file lists them, from 0" in note


def test_masks_of_other_sizes_speak_against_an_order(data: Record, write: Write) -> None:
    """The masks fit the images that they name, not those that they would be places of."""
    for image in data["images"]:
        image["height"] += image["id"]
    results = results_of(data)
    for record in results:
        key = ORDERS["as the file lists them"].index(record["image_id"]) + 1
        x, y, w, h = record["bbox"]
        height = HEIGHT + key
        counts = [x * height + y] + [h, height - h] * (w - 1) + [h, (WIDTH - x - w) * height + height - y - h]
        record.update(image_id=key, segmentation={"size": [height, WIDTH], "counts": counts})
    metrics = evaluate(write(data), results)
    assert metrics.notes == ()


@pytest.mark.parametrize("moved", [0, 1])
def test_right_ids_and_bad_detectors_are_not_suspected(moved: int, data: Record, write: Write) -> None:
    results = results_of(data)
    for record in results:
        x, y, w, h = record["bbox"]
        record["bbox"] = [(x + 40 * moved) % WIDTH, (y + 30 * moved) % HEIGHT, w, h]
    metrics = evaluate(write(data), results, iou_types=("bbox",))
    assert (metrics["bbox"]["AP50"] or 0) == pytest.approx(1 - moved, abs=0.1)
    assert metrics.notes == ()


@pytest.mark.parametrize("iou_types", [("bbox",), ("segm",)])
@pytest.mark.parametrize(
    ("shift", "words"), [(1, "1 is subtracted from each image id"), (-1, "1 is added to each image id")]
)
def test_ids_shifted_by_one_are_told(shift: int, words: str, iou_types: Any, data: Record, write: Write) -> None:
    """All shifted ids are known where nothing is found in the last image, or the first."""
    results = results_of(data)
    for record in results:
        record["image_id"] += shift
    kept = [record for record in results if 1 <= record["image_id"] <= 10]
    metrics = evaluate(write(data), kept, iou_types=iou_types)
    (note,) = metrics.notes
    assert f", but 90.1 if {words}: do the image ids" in note
    with pytest.raises(ValueError, match=rf"for another split\? Every id fits if {words}: AP50 of .* is then 100\.0"):
        evaluate(write(data), results, iou_types=iou_types)


@pytest.mark.parametrize(("step", "words"), [(1, "before"), (-1, "after")])
def test_images_that_run_one_behind_are_told(step: int, words: str, data: Record, write: Write) -> None:
    """The ids go round."""
    results = results_of(data)
    for record in results:
        record["image_id"] = IDS[(IDS.index(record["image_id"]) + step) % len(IDS)]
    (note,) = evaluate(write(data), results, iou_types=("bbox",)).notes
    assert f", but 100.0 if each means the image {words} its own, as the file lists them" in note


def test_ids_beside_file_names_are_not_explained(data: Record, write: Write) -> None:
    """The names decide, and it is these that the error tells."""
    results = [record | {"file_name": "k.png"} for record in results_of(data)]
    for record in results:
        record["image_id"] += 1
    results[0]["file_name"] = "z.png"
    with pytest.raises(ValueError, match="write file_name as it does, with the folders$"):
        evaluate(write(data), results, iou_types=("bbox",))


def test_ids_that_no_numbering_explains_are_refused_alone(data: Record, write: Write) -> None:
    """Shifted, they would all be known; but they lie on no object so."""
    results = results_of(data)
    for record in results:
        record.update(image_id=record["image_id"] + 1, bbox=[0, 0, 3, 3])
    with pytest.raises(ValueError, match=r"\(11 \.\.\): were they made for another split\?$"):
        evaluate(write(data), results, iou_types=("bbox",))
