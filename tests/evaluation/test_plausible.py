"""Results that cannot be what they say are told; of sound ones nothing is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tailseg.evaluation import evaluate, plausible
from tailseg.evaluation.comparison import match_runs
from tailseg.evaluation.ground_truth import read_ground_truth

Record = dict[str, Any]
HEIGHT, WIDTH = 60, 100
COUNT = 24


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Rectangles all over two images, two classes."""
    rng = np.random.default_rng(1)
    annotations = []
    for i in range(COUNT):
        w, h = rng.integers([10, 8], [30, 20]).tolist()
        x, y = rng.integers(0, [WIDTH - w, HEIGHT - h]).tolist()
        mask = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        fields = {"id": i + 1, "image_id": 1 + i % 2, "category_id": 1 + i % 3 // 2, "iscrowd": 0}
        annotations.append(fields | {"bbox": [x, y, w, h], "area": w * h, "segmentation": mask})
    path = tmp_path / "truth.json"
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return path


def results_of(truth: Path) -> list[Record]:
    """Perfect results."""
    found = json.loads(truth.read_text())["annotations"]
    for i, record in enumerate(found):
        encoded = coco.merge(coco.frPyObjects(record["segmentation"], HEIGHT, WIDTH))
        record["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        record["score"] = 1 - i / 100
    return [{key: each[key] for key in ("image_id", "category_id", "bbox", "score", "segmentation")} for each in found]


def box(to: Callable[[float, float, float, float], list[float]]) -> Callable[[Record], None]:
    return lambda record: record.update(bbox=to(*record["bbox"]))


def score(to: Callable[[float], float]) -> Callable[[Record], None]:
    return lambda record: record.update(score=to(record["score"]))


def short(record: Record) -> None:
    """Without the pixels after the mask."""
    height, width = record["segmentation"]["size"]
    pixels = coco.decode(record["segmentation"]).ravel(order="F")
    ends = [0, *(np.flatnonzero(np.diff(pixels)) + 1).tolist(), height * width]
    record["segmentation"] = {"size": [height, width], "counts": np.diff(ends[:-1]).tolist()}


CASES: dict[str, tuple[Callable[[Record], None], str]] = {
    "sound": (lambda _: None, ""),
    "corners": (box(lambda x, y, w, h: [x, y, x + w, y + h]), "boxes reach beyond the image and would fit as [x1, y1"),
    "shares": (
        box(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]),
        "24 of 24 boxes lie within 0..1",
    ),
    "centers": (
        box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        "boxes of their records. It seems that bbox is [center x, center y, width, height]",
    ),
    "swapped": (box(lambda x, y, w, h: [y, x, h, w]), "x and y are swapped in the masks, or in bbox"),
    "other boxes": (
        box(lambda x, y, _w, _h: [(x + 50) % 70, (y + 30) % 40, 9, 9]),
        "do not agree with the boxes of their",
    ),
    "percent": (score(lambda value: 100 * value), "scores reach from 77 to 100, expected 0 to 1 (are they percent?)"),
    "logits": (score(lambda value: 9 * value - 8), "scores reach from -1.07 to 1, expected 0 to 1"),
    "one score": (score(lambda _: 1.0), "all 24 scores are 1: AP then depends on the order"),
    "run lengths without their end": (short, "24 of 24 masks that were checked have run lengths that end before"),
    "names of other classes": (
        lambda record: record.update(category_name={1: "dog", 2: "cat"}[record["category_id"]]),
        "2 classes have another name in the results",
    ),
    "names": (lambda record: record.update(category_name={1: "cat", 2: "Hund"}[record["category_id"]]), ""),
}


@pytest.mark.parametrize("sample", [7, plausible.SAMPLE])
@pytest.mark.parametrize("case", CASES)
def test_what_results_cannot_be_is_told(
    case: str, sample: int, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a part of the records or all of them; the figures of the masks stay."""
    monkeypatch.setattr(plausible, "SAMPLE", sample)
    change, words = CASES[case]
    records = results_of(truth)
    for record in records:
        change(record)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records))
    metrics = evaluate(truth, path)
    assert [words in note for note in metrics.notes] == [True] * bool(words)
    assert metrics["segm"]["AP"] == pytest.approx(1.0)


def test_a_few_scores_in_percent_are_counted(truth: Path) -> None:
    records = results_of(truth)
    for record in records[4:7]:
        record["score"] *= 100
    (note,) = evaluate(truth, records).notes
    assert note.startswith("3 of 24 scores are not between 0 and 1 (record 4 has 96): scores reach from 0.77 to 96")
    assert "percent" not in note


def test_run_lengths_by_rows_are_told(truth: Path) -> None:
    """As numpy flattens masks; the size of the image is right."""
    results = results_of(truth)
    for record in results:
        turned = coco.decode(record["segmentation"]).ravel().reshape(WIDTH, HEIGHT, order="F")
        counts = coco.encode(np.asfortranarray(turned))["counts"].decode()
        record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    notes = evaluate(truth, results).notes
    assert any(
        "masks do not agree with the boxes of their records. It seems that the masks' run le" in n for n in notes
    )


def test_boxes_alone_are_judged_too(truth: Path) -> None:
    records = [{key: each[key] for key in each if key != "segmentation"} for each in results_of(truth)]
    assert evaluate(truth, records, iou_types=("bbox",)).notes == ()
    for record in records:
        x, y, w, h = record["bbox"]
        record["bbox"] = [x, y, x + w, y + h]
    (note,) = evaluate(truth, records, iou_types=("bbox",)).notes
    assert "of 24 boxes reach beyond the image" in note


@pytest.mark.parametrize(
    ("times", "wrong", "said"),
    [
        (1, 2, "5 of 21 masks do not agree with the boxes of their records. It seems that bbox is [x1, y1, x2, y2]"),
        (8, 2, "5 of 133 masks do not agree with the boxes of their records (of class 'dog'). It seems that bbox is ["),
        (8, 1, ""),
    ],
)
def test_boxes_of_a_part_are_told(times: int, wrong: int, said: str, truth: Path) -> None:
    """Five boxes are [x1, y1, x2, y2]: all of a rare class, or by chance a few of a frequent one."""
    records = results_of(truth)
    frequent, rare = ([each for each in records if each["category_id"] == key] for key in (1, 2))
    records = [each | {"score": 1 / (1 + i)} for i, each in enumerate([*frequent * times, *rare[:5]])]
    part = [each for each in records if each["category_id"] == wrong and min(each["bbox"][:2]) >= 3]
    part = part if wrong == 1 else records[-5:]
    for record in part[:5]:
        x, y, w, h = record["bbox"]
        record["bbox"] = [x, y, x + w, y + h]
    notes = [note for note in evaluate(truth, records).notes if "boxes of their records" in note]
    assert [note.startswith(said) for note in notes] == [True] * bool(said)


READINGS: dict[str, tuple[Callable[[Record], None], str]] = {
    "sound": (lambda _: None, ""),
    "twice": (box(lambda *xywh: [2 * value for value in xywh]), "It seems that bbox is 2 times that of the objects"),
    "half": (box(lambda *xywh: [value / 2 for value in xywh]), "It seems that bbox is 0.5 times that of the objects"),
    "of a square": (
        box(lambda x, y, w, h: [x * 0.64, y * 64 / 60, w * 0.64, h * 64 / 60]),
        "It seems that bbox is 0.64 (x) and 1.07 (y) times that of the objects",
    ),
    "swapped": (box(lambda x, y, w, h: [y, x, h, w]), "It seems that x and y are swapped in bbox"),
    "elsewhere": (box(lambda x, y, w, h: [(x + 45) % 75, (y + 25) % 45, w, h]), ""),
    "outside": (box(lambda x, y, w, h: [x + 80, y + 31, w, h]), "of 40 boxes have their center outside their image"),
}


@pytest.mark.parametrize("case", READINGS)
def test_boxes_alone_are_compared_with_the_objects(case: str, truth: Path) -> None:
    """Objects alone of their class, each with a good detection and a bad one of a lower score."""
    content = json.loads(truth.read_text())
    content["images"] = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(1, 21)]
    content["annotations"] = content["annotations"][:20]
    for i, annotation in enumerate(content["annotations"], start=1):
        annotation["image_id"] = i
    truth.write_text(json.dumps(content))
    records = [{key: each[key] for key in each if key != "segmentation"} for each in results_of(truth)]
    change, words = READINGS[case]
    for record in records:
        change(record)
    records += [each | {"bbox": [20, 20, 30, 7], "score": each["score"] / 3} for each in records]
    notes = evaluate(truth, records, iou_types=("bbox",)).notes
    assert [words in note for note in notes] == [True] * bool(words)


@pytest.mark.parametrize("part", [1, 2])
def test_boxes_alone_of_which_a_part_is_corners(part: int, truth: Path) -> None:
    records = [{key: each[key] for key in each if key != "segmentation"} for each in results_of(truth)]
    for record in records[::part]:
        x, y, w, h = record["bbox"]
        record["bbox"] = [x, y, x + w, y + h]
    (note,) = evaluate(truth, records, iou_types=("bbox",)).notes
    assert "of 24 boxes reach beyond the image and would fit as [x1, y1, x2, y2]" in note


def test_a_weak_detector_is_not_doubted(truth: Path) -> None:
    """A third of the masks are a corner of their box: no reading explains that."""
    records = results_of(truth)
    for record in records[::3]:
        x, y, w, h = record["bbox"]
        encoded = coco.merge(
            coco.frPyObjects([[x, y, x + w / 3, y, x + w / 3, y + h / 3, x, y + h / 3]], HEIGHT, WIDTH)
        )
        record["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    assert evaluate(truth, records).notes == ()


def test_nothing_but_crowds_is_told(truth: Path) -> None:
    content = json.loads(truth.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    results = results_of(truth)
    truth.write_text(json.dumps(content))
    metrics = evaluate(truth, results)
    assert [note for note in metrics.notes if note.startswith("all 24 annotations are crowd or ignore regions")]
    assert metrics["segm"]["AP"] is None
    content["annotations"] = content["annotations"][:1]
    truth.write_text(json.dumps(content))
    assert [note for note in evaluate(truth, []).notes if note.startswith("the only annotation is a crowd or ignore")]


def images_of(count: int, objects: int = 1, *, lvis: bool = False) -> Record:
    """That many images, each with so many objects of two classes, side by side."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if lvis else {}
    group = {"frequency": "f"} if lvis else {}
    annotations = [
        {"image_id": image, "category_id": 1 + at % 2, "bbox": [4 * (at % 24), 4 * (at // 24), 3, 3], "area": 9}
        for image in range(1, count + 1)
        for at in range(objects)
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} | lists for i in range(1, 13)],
        "categories": [{"id": i, "name": name} | group for i, name in ((1, "cat"), (2, "dog"))],
        "annotations": [each | {"id": at, "iscrowd": 0} for at, each in enumerate(annotations, start=1)],
    }


def get_mask_boxes(content: Record) -> list[Record]:
    keys = "image_id", "category_id", "bbox"
    return [{key: each[key] for key in keys} | {"score": 1 / each["id"]} for each in content["annotations"]]


@pytest.mark.parametrize(
    ("images", "tested", "said"),
    [
        (12, 4, "8 of 12 images with objects have no detection in "),
        (8, 4, "4 of 8 images with objects have no detection in "),
        (12, 7, ""),
        (6, 3, ""),
        (4, 4, ""),
    ],
)
def test_images_that_were_not_tested_are_told(images: int, tested: int, said: str, tmp_path: Path) -> None:
    """Of files: a model that is being trained finds nothing at first. Images without objects do not count."""
    truth, file = tmp_path / "truth.json", tmp_path / "results.json"
    content = images_of(images)
    truth.write_text(json.dumps(content))
    results = [record for record in get_mask_boxes(content) if record["image_id"] <= tested]
    file.write_text(json.dumps(results))
    notes = evaluate(truth, file, iou_types=("bbox",)).notes
    assert [note.startswith(f"{said}{file}: were only some") for note in notes] == [True] * bool(said)
    assert evaluate(truth, results, iou_types=("bbox",)).notes == ()
    matched = match_runs(read_ground_truth(truth, masks=False), [{"bbox": file}, {"bbox": file}])
    assert [run.notes for run in matched["bbox"]] == [notes, notes]


@pytest.mark.parametrize(
    ("lvis", "objects", "said"),
    [
        (False, 200, ""),
        (
            False,
            206,
            "2 images have more objects of a class (up to 103) than detections count (100): 12 of 412 objects ",
        ),
        (True, 300, ""),
        (True, 301, "2 images have more objects (up to 301) than detections count (300): 2 of 602 objects cannot be "),
    ],
)
def test_more_objects_than_detections_count_are_told(lvis: bool, objects: int, said: str, tmp_path: Path) -> None:
    """More detections can be asked for, of each class (COCO) or of all (LVIS); fewer are a choice."""
    path = tmp_path / "truth.json"
    content = images_of(2, objects, lvis=lvis)
    path.write_text(json.dumps(content))
    notes = evaluate(path, get_mask_boxes(content), iou_types=("bbox",)).notes
    assert [note.startswith(said) for note in notes] == [True] * bool(said)
    most = 301 if lvis else 103
    assert all(note.endswith(f"with `tailseg eval --max-detections {most}`") for note in notes)
    for cap in (10, most):
        assert evaluate(path, get_mask_boxes(content), iou_types=("bbox",), max_detections=cap).notes == ()
