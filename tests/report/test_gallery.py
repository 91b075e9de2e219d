"""Which pictures a class gets, and that they show the right images."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageStat
from pycocotools import mask as coco
from torchvision.io import encode_png, write_file

from tailseg.annotations.read import read_dataset
from tailseg.report.examples import PER_KIND, add_examples
from tailseg.report.figures import sort_outcomes
from tailseg.report.galleries import Galleries, Photographs
from tailseg.report.thumbnails import compute_thumbnail_size, crop_around, trace_box, trace_outline

from .squares import ANT, BEE, dataset, evaluated, record


@pytest.fixture
def gray(read):
    """Writes a data set whose image number i is of the gray 20 i."""

    def written(data, folder):
        folder.mkdir()
        for image in data["images"]:
            image["file_name"] = f"{folder.name}/{image['id']}.png"
        path = read(data).path
        for image in data["images"]:
            pixels = torch.full((3, image["height"], image["width"]), 20 * image["id"], dtype=torch.uint8)
            write_file(str(path.parent / image["file_name"]), encode_png(pixels))
        return read_dataset(path)

    return written


def build_galleries(runs, results, *, room):
    """The galleries of all classes."""
    galleries = Galleries(range(runs[0].annotations.num_classes), room=room)
    add_examples(galleries, runs, results, photographs=Photographs(runs[0].annotations), longest=96)
    return galleries


def grays(gallery):
    """The pictures' mean gray, by kind of item."""
    shown = [Image.open(io.BytesIO(base64.b64decode(text))).convert("L") for _, _, text in gallery["pictures"]]
    return {item[1]: round(ImageStat.Stat(shown[item[0]]).mean[0]) for item in gallery["items"]}


def test_every_picture_is_of_its_own_image_in_whatever_order_the_file_lists_them(gray, tmp_path):
    training = dataset()
    training["images"] += [training["images"][0] | {"id": 9}]
    training["annotations"][0] |= {"image_id": 9, "bbox": [5, 5, 20, 20]}
    train = gray(training, tmp_path / "train")
    data = dataset()
    data["images"].reverse()
    annotations = gray(data, tmp_path / "val")
    run = evaluated(annotations, [record(1, ANT, 5, 5, 0.9), record(2, BEE, 2, 2, 0.8)], name="run")
    run = replace(run, train=train)

    galleries = build_galleries([run], [sort_outcomes(run.evidence, threshold=0.3)], room=100_000)

    ants = grays(galleries.of[0])
    assert ants == {
        "train": pytest.approx(40, abs=2),
        "found": pytest.approx(20, abs=2),
        "missed": pytest.approx(40, abs=2),
    }
    assert grays(galleries.of[1])["false"] == pytest.approx(40, abs=2)
    assert {item[1] for item in galleries.of[1]["items"]} == {"train", "missed", "false"}


def test_a_full_file_takes_the_rare_first_and_counts_what_it_leaves_out(read):
    annotations = read(dataset())
    run = evaluated(annotations, [record(2, BEE, 40, 25, 0.9), record(1, ANT, 5, 5, 0.9)], name="run")
    results = [sort_outcomes(run.evidence, threshold=0.3)]
    everything = build_galleries([run], results, room=10**6)
    little = build_galleries([run], results, room=1)
    assert everything.left_out == 0
    assert [len(little.of[label]["pictures"]) for label in (0, 1)] == [0, 1], "the bee is in one training image"
    assert little.shown + little.left_out == everything.shown


def test_no_kind_has_more_than_its_share(read):
    alarms = [record(1, ANT, x, 25, 0.9) for x in range(0, 40, 4)]
    run = evaluated(read(dataset()), alarms, name="run")
    galleries = build_galleries([run], [sort_outcomes(run.evidence, threshold=0.3)], room=10**6)
    assert sum(item[1] == "false" for item in galleries.of[0]["items"]) == PER_KIND


@pytest.mark.parametrize(
    ("box", "crop"),
    [
        ((100, 100, 150, 120), (75, 60, 175, 160)),  # twice the longer side, around the middle
        ((0, 0, 50, 50), (0, 0, 100, 100)),  # moved into the image
        ((350, 250, 400, 300), (300, 200, 400, 300)),
        ((100, 100, 110, 110), (73, 73, 137, 137)),  # not below 64 pixels
        ((0, 0, 400, 200), (0, 0, 400, 300)),  # cut where the image ends
    ],
)
def test_a_crop_surrounds_its_box_and_stays_in_the_image(box, crop):
    assert crop_around(box, height=300, width=400) == crop


def test_thumbnails_are_never_enlarged():
    assert compute_thumbnail_size((0, 0, 200, 100), 96) == (96, 48)
    assert compute_thumbnail_size((0, 0, 60, 50), 96) == (60, 50)


def read_path(path):
    """The corners of each closed polygon of an SVG path."""
    polygons = [re.fullmatch(r"M(.+)l(.+)", part).groups() for part in path.split("z")[:-1]]
    return [
        np.cumsum([[int(word) for word in pair.split()] for pair in (start, *re.findall(r"\S+ \S+", steps))], axis=0)
        for start, steps in polygons
    ]


def test_outlines_are_in_half_pixels_of_the_thumbnail():
    mask = record(1, ANT, 8, 6, 0.9)["segmentation"]
    path = trace_outline(coco.frPyObjects(mask, 40, 60), (0, 0, 60, 40), 96)
    (corners,) = read_path(path)
    assert len(corners) < 10, "a square"
    np.testing.assert_array_equal([corners.min(axis=0), corners.max(axis=0)], [[16, 12], [36, 32]])
    assert trace_outline(coco.frPyObjects(mask, 40, 60), (30, 0, 60, 40), 96) == "", "nothing of it is in the crop"
    assert trace_box((8, 6, 18, 16), (0, 0, 60, 40), 30) == "M8 6H18V16H8z", "the thumbnail has half the size"


@pytest.mark.parametrize(("radius", "hole", "polygons"), [(60, 0, 1), (60, 30, 2)])
def test_outlines_surround_the_area_of_the_mask(radius, hole, polygons):
    y, x = np.mgrid[-99.5:100, -99.5:100]
    bitmap = (np.hypot(x, y) < radius) & (np.hypot(x, y) >= hole)
    mask = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    outlines = read_path(trace_outline(mask, (0, 0, 200, 200), 100))  # a half pixel of the thumbnail is a pixel
    areas = [np.dot(ring[:, 0], np.roll(ring[:, 1], 1) - np.roll(ring[:, 1], -1)) / 2 for ring in outlines]
    assert len(areas) == polygons
    assert abs(sum(areas)) == pytest.approx(bitmap.sum(), rel=0.03)
    for ring in outlines:
        distances = np.hypot(*(ring - 100).T)
        assert min(abs(distances - radius).max(), abs(distances - hole).max()) < 1.5
        assert len(ring) < 24


def test_an_image_is_decoded_once_while_there_is_memory(gray, tmp_path, monkeypatch):
    from tailseg.report import galleries

    annotations, decoded = gray(dataset(), tmp_path / "val"), []
    real = Photographs._decode

    def decode(self, index):
        decoded.append(index)
        return real(self, index)

    monkeypatch.setattr(Photographs, "_decode", decode)
    photographs = Photographs(annotations)
    for index in (0, 1, 0, 1):
        assert photographs.can_read(index)
    assert decoded == [0, 1]
    monkeypatch.setattr(galleries, "MAX_CACHED", 1)
    for index in (0, 0, 1, 0):
        assert photographs.can_read(index)
    assert decoded == [0, 1, 1, 0]
