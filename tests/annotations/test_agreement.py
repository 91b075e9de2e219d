"""Boxes, masks and areas that do not agree: counted, with the likely reason; nothing is said of sound ones."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from tailseg.annotations import agreement
from tailseg.annotations.read import open_file

RawDataset = dict[str, Any]
Write = Callable[..., Path]
Change = Callable[[RawDataset], Any]
HEIGHT, WIDTH = 60, 100


def boxes(count: int = 12) -> np.ndarray:
    """Boxes xywh all over an image, int64 ``[count, 4]``."""
    rng = np.random.default_rng(0)
    sides = rng.integers([10, 8], [30, 20], (count, 2))
    return np.concatenate([rng.integers(0, [WIDTH, HEIGHT] - sides), sides], axis=1)


def rectangle(box: Sequence[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


@pytest.fixture
def sound() -> RawDataset:
    """Twelve objects in two images, a class."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 1, "name": "one"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1 + i % 2,
                "category_id": 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [rectangle(box)],
            }
            for i, box in enumerate(boxes().tolist())
        ],
    }


def points(to: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Changes the corners (float64 ``[4, 2]``) of all polygons."""

    def change(annotation: RawDataset) -> None:
        corners = np.array(annotation["segmentation"][0], np.float64).reshape(-1, 2)
        annotation["segmentation"] = [to(corners).ravel().tolist()]

    return change


def box(to: Callable[[float, float, float, float], Sequence[float]], **fields: object) -> Change:
    """Changes all boxes, and sets fields."""
    return lambda annotation: annotation.update(bbox=[*to(*annotation["bbox"])], **fields)


def runs(annotation: RawDataset) -> None:
    """The mask as run lengths, moved by 15 pixels."""
    x, y, w, h = annotation["bbox"]
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    encoded = coco.encode(np.asfortranarray(np.roll(pixels, 30, axis=1)))
    annotation["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def xyxy(x: float, y: float, w: float, h: float) -> list[float]:
    return [x, y, x + w, y + h]


def shares(x: float, y: float, w: float, h: float) -> list[float]:
    return [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


SEEMS = "of 12 masks do not agree with their boxes: the IoU of bbox and the box around the mask is below 0.5"
CASES: dict[str, tuple[Change, str, str]] = {
    "sound": (lambda _: None, "", ""),
    "rounded": (points(lambda corners: np.round(corners + 0.9)), "", ""),
    "normalized masks": (
        points(lambda c: c / [WIDTH, HEIGHT]),
        "mask_box",
        "masks' coordinates are shares of the image",
    ),
    "swapped": (points(lambda c: c[:, ::-1]), "mask_box", "x and y are swapped"),
    "half as large": (points(lambda c: c / 2), "mask_box", "the masks' coordinates are 0.5 times those of bbox"),
    "as of 640 x 640": (
        points(lambda c: c * [640 / WIDTH, 640 / HEIGHT]),
        "mask_box",
        "masks' coordinates are 6.4 (x) and 10.7 (y) times",
    ),
    "grouped": (points(lambda c: c.T), "mask_box", "the polygons are written as x, x, .. y, y, .."),
    "from the box's corner": (points(lambda c: c - c.min(axis=0)), "mask_box", "start at the corner of the box"),
    "moved": (points(lambda c: c + [25, 0]), "mask_box", SEEMS),
    "run lengths that are moved": (runs, "mask_box", SEEMS),
    "boxes as corners": (box(xyxy), "mask_box", "bbox is [x1, y1, x2, y2]"),
    "boxes as centers": (
        box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        "mask_box",
        "bbox is [center x, center y, width, height]",
    ),
    "normalized boxes": (box(shares), "mask_box", "bbox is written in shares of the image's width and height"),
    "normalized boxes of centers": (
        box(lambda x, y, w, h: shares(x + w / 2, y + h / 2, w, h)),
        "mask_box",
        "bbox is [center x, center y, width, height] in shares",
    ),
    "no mask, corners": (box(xyxy, segmentation=[], area=None), "box_otherwise", "would fit as [x1, y1, x2, y2]"),
    "no mask, normalized": (box(shares, segmentation=[], area=None), "box_otherwise", "boxes lie within 0..1"),
    "no mask, sound": (box(lambda *xywh: xywh, segmentation=[]), "", ""),
    "two corners": (points(lambda c: c[[0, 2, 0]]), "mask_empty", "only one or two different corners"),
    "no larger than a pixel": (points(lambda c: c / [WIDTH, HEIGHT]), "mask_empty", "lie within 0..1"),
    "areas of the images": (box(lambda *xywh: xywh, area=HEIGHT * WIDTH), "area_large", "are those of the images"),
    "areas of another scale": (box(lambda *xywh: xywh, area=10), "", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_agree_is_told(case: str, sound: RawDataset, write: Write) -> None:
    change, kind, words = CASES[case]
    for annotation in sound["annotations"]:
        change(annotation)
    found = {problem.kind.name: problem for problem in open_file(write(sound)).problems}
    told = found.keys() & {"mask_box", "mask_box_some", "box_otherwise", "area_group", "mask_empty", "area_large"}
    assert kind in told if kind else not told
    if kind:
        assert words in str(found[kind])
        assert "{" not in str(found[kind])
    assert ("mask_box" in told) + ("box_otherwise" in told) < 2, "each is told once"


def test_areas_of_superannotate(sound: RawDataset, write: Write) -> None:
    """Width * bottom - top: larger than the box, the lower it lies."""
    for i, annotation in enumerate(sound["annotations"]):
        annotation["bbox"] = [5 * i, 30, 30, 30]
        annotation["segmentation"] = [rectangle(annotation["bbox"])]
        annotation["area"] = 30 * 60 - 30
    (found,) = open_file(write(sound)).problems
    assert found.counted == (
        "12 areas are larger than the box (the areas are width * bottom - top of the box, as SuperAnnotate writes them)"
        "; 12 objects are in a larger size group"
    )


def boxes_alone(content: RawDataset, count: int = 120, side: int = 200) -> list[RawDataset]:
    """Gives a file that many boxes and no mask, sizes and places all over images of that side."""
    for image in content["images"]:
        image.update(height=side, width=side)
    rng = np.random.default_rng(3)
    content["annotations"] = []
    for i in range(count):
        w, h = rng.integers(8, 90, 2).tolist()
        x, y = rng.integers(0, [side - w, side - h]).tolist()
        fields = {"id": i + 1, "image_id": 1 + i % 2, "category_id": 1, "iscrowd": 0}
        content["annotations"].append(fields | {"bbox": [x, y, w, h], "area": w * h})
    return content["annotations"]


AS_SHARES = box(lambda *xywh: [number / 200 for number in xywh])
PARTS: dict[str, tuple[Change, slice, bool, str]] = {
    "corners by their areas": (box(xyxy), slice(0, None, 5), True, "24 of 120 boxes have the area of [x1, y1, x2"),
    "corners": (
        box(xyxy),
        slice(0, None, 3),
        False,
        "of 120 boxes reach beyond the image and would fit as [x1, y1, x2,",
    ),
    "shares": (AS_SHARES, slice(0, None, 10), True, "12 of 120 boxes lie within 0..1"),
    "shares, no areas": (AS_SHARES, slice(0, None, 10), False, "12 of 120 boxes lie within 0..1"),
    "centers": (
        box(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        slice(None),
        True,
        "of 120 boxes reach beyond the image and would fit as [center x, center y, width, height]",
    ),
    "of two pixels at the corner": (
        lambda each: each.update(bbox=[each["id"] % 2, each["id"] % 2, 1, 1], area=1),
        slice(None),
        True,
        "",
    ),
    "areas of masks that are not there": (lambda each: each.update(area=0.6 * each["area"]), slice(None), True, ""),
    "cut by their images": (box(lambda x, y, w, h: [x - 12, y + 12, w, h]), slice(None), True, ""),
    "large, and cut": (
        box(lambda x, y, _w, _h: [x / 9, y / 9, 150 + x / 2, 150 + y / 2]),
        slice(None),
        True,
        "",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_boxes_alone_that_are_written_otherwise_in_part(case: str, sound: RawDataset, write: Write) -> None:
    change, rows, areas, words = PARTS[case]
    annotations = boxes_alone(sound)
    for annotation in annotations[rows]:
        change(annotation)
    for annotation in annotations:
        annotation["area"] = annotation["area"] if areas else None
    told = [each.counted for each in open_file(write(sound)).problems if each.kind.name == "box_otherwise"]
    assert [words in each for each in told] == [True] * bool(words)


def test_corners_with_their_area_are_known_though_all_fit_the_image(sound: RawDataset, write: Write) -> None:
    for annotation in sound["annotations"]:
        annotation.update(bbox=[20, 10, 40, 24], area=20 * 14, segmentation=[])
    (found,) = [each for each in open_file(write(sound)).problems if each.kind.name != "mask_missing"]
    assert "12 of 12 boxes have the area of [x1, y1, x2, y2]" in found.counted


@pytest.mark.parametrize(("side", "count"), [(60, []), (40, [12])])
def test_areas_of_another_size_than_the_masks(side: int, count: list[int], sound: RawDataset, write: Write) -> None:
    """A triangle of half its box: of 1,800 pixels in 60 x 60, both medium; of 800 in 40 x 40, small in a medium box."""
    for annotation in sound["annotations"]:
        annotation.update(bbox=[0, 0, side, side], area=side * side, segmentation=[[0, 0, side, 0, 0, side]])
    found = open_file(write(sound)).problems
    assert [(problem.kind.name, problem.count) for problem in found] == [("area_group", number) for number in count]
    assert all(
        "12 of 12 objects" in each.counted and "the areas are those of the boxes" in each.counted for each in found
    )


EIGHT = [0, 0, 58, 58, 58, 0, 0, 58]
"""A figure of eight: two triangles of 841 pixels, of which the corners say that they enclose nothing."""


@pytest.mark.parametrize(("area", "told"), [(2 * 841, False), (900, True)])
def test_masks_that_cross_themselves_are_drawn(area: int, told: bool, sound: RawDataset, write: Write) -> None:
    for annotation in sound["annotations"]:
        annotation.update(bbox=[0, 0, 58, 58], area=area, segmentation=[EIGHT])
    found = [problem.kind.name for problem in open_file(write(sound)).problems]
    assert found == ["area_group"] * told


def test_masks_that_cross_themselves_are_drawn_among_others(sound: RawDataset, write: Write) -> None:
    """The others' areas are wrong, and only these are told."""
    for place, annotation in enumerate(sound["annotations"]):
        annotation.update(bbox=[0, 0, 58, 58], area=2 * 841, segmentation=[EIGHT])
        if place % 2:
            annotation.update(bbox=[0, 0, 40, 40], area=1600, segmentation=[[0, 0, 40, 0, 0, 40]])
    (found,) = open_file(write(sound)).problems
    assert (found.kind.name, found.count) == ("area_group", 6)


def joined(annotation: RawDataset) -> None:
    """Two parts with a gap between them, as one list of points: what lies in the gap is in part filled."""
    first, second = rectangle([5, 5, 12, 24]), rectangle([65, 25, 12, 24])
    annotation.update(bbox=[5, 5, 72, 44], area=2 * 12 * 24, segmentation=[first + second])


def apart(annotation: RawDataset) -> None:
    """The same parts as polygons of their own."""
    joined(annotation)
    annotation["segmentation"] = [rectangle([5, 5, 12, 24]), rectangle([65, 25, 12, 24])]


def thin(annotation: RawDataset) -> None:
    """A line of 1.3 pixels that is drawn two pixels wide: 100 pixels for an area of 65."""
    x, y, w, h = 5, 5.3, 50, 1.3
    annotation.update(bbox=[x, y, w, h], area=w * h, segmentation=[rectangle([x, y, w, h])])


@pytest.mark.parametrize(
    ("change", "rows", "count"),
    [
        (joined, slice(12), 12),
        (joined, slice(8), 8),
        (joined, slice(6), 0),
        (apart, slice(12), 0),
        (thin, slice(12), 0),
    ],
)
def test_parts_that_were_joined(
    change: Change, rows: slice, count: int, sound: RawDataset, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes and size groups agree: only the drawn masks show it, of a part of the objects."""
    for annotation in sound["annotations"][rows]:
        change(annotation)
    found = open_file(write(sound)).problems
    assert [(problem.kind.name, problem.count) for problem in found] == [("area_mask", count)] * bool(count)
    if not count:
        return
    assert found[0].counted.startswith(f"{count} of 12 sampled masks")
    assert re.search(r"has area 576, and its mask 8\d\d pixels", found[0].note)
    monkeypatch.setattr(agreement, "MAX_DRAWN_MASKS", 5)
    assert "of 4 sampled masks" in open_file(write(sound)).problems[0].counted


@pytest.mark.parametrize(("moved", "kind"), [(1, "mask_box_some"), (2, "mask_box")])
def test_a_few_objects_are_a_matter_of_data_check_alone(moved: int, kind: str, sound: RawDataset, write: Write) -> None:
    for annotation in sound["annotations"][:moved]:
        annotation["segmentation"] = [rectangle([0, 50, 4, 4])]
    (found,) = open_file(write(sound)).problems
    assert (found.kind.name, found.count) == (kind, moved)
    assert found.examples[0].startswith("annotation 1 (image 1) has bbox [")
    assert found.kind.verdicts == ("----" if moved == 1 else "nnnn")


def test_masks_of_few_pixels_do_agree(sound: RawDataset, write: Write) -> None:
    for annotation in sound["annotations"]:
        annotation.update(bbox=[10, 10, 2, 3], area=2, segmentation=[rectangle([11, 11, 1, 2])])
    assert open_file(write(sound)).problems == ()


def test_crowds_are_not_asked(sound: RawDataset, write: Write) -> None:
    for annotation in sound["annotations"][6:]:
        annotation.update(bbox=[0, 0, 5, 5], iscrowd=1)
    assert [problem.kind.name for problem in open_file(write(sound)).problems] == ["crowds_alone"]
