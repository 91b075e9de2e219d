"""The images with the most errors."""

import json

from tailseg.report.figures import sort_outcomes
from tailseg.report.galleries import Galleries, Photographs
from tailseg.report.images import GALLERY, PER_ORDER, add_images, choose_images, count_image_errors

from .squares import ANT, BEE, GNU, dataset, evaluated, record

RECORDS = [
    record(1, ANT, 5, 5, 0.9),
    record(2, GNU, 41, 25, 0.8),  # on the bee
    record(2, ANT, 2, 28, 0.7),  # on nothing
    record(1, ANT, 40, 20, 0.2),  # scores too little
]


def counted(run):
    return count_image_errors(run.evidence, sort_outcomes(run.evidence, threshold=0.3))


def test_errors_are_objects_that_are_not_found_and_false_detections(read):
    counts = counted(evaluated(read(dataset()), RECORDS, name="run"))
    assert counts.missed.tolist() == [0, 1], "the ant of image 2"
    assert counts.confused.tolist() == [0, 1], "the bee"
    assert counts.found.tolist() == [1, 0]
    assert counts.false.tolist() == [0, 2]
    assert counts.rare.tolist() == [0, 1]
    assert counts.errors.tolist() == [0, 4]
    assert choose_images(counts) == [1], "an image without an error is not shown"


def test_the_worst_image_of_each_order_comes_first(read):
    data = dataset()
    data["images"] += [data["images"][0] | {"id": number} for number in range(3, 40)]
    alarms = [record(image, BEE, x, 5, 0.9) for image in (7, 8) for x in range(0, 10 * (image - 6), 5)]
    run = evaluated(read(data), alarms, name="run")
    counts = counted(run)
    assert counts.false[[6, 7]].tolist() == [2, 4]
    chosen = choose_images(counts)
    assert chosen[:2] == [7, 1], "the most errors; the most objects that are not found"
    assert len(chosen) == len(set(chosen)) <= 4 * PER_ORDER


def test_an_item_has_the_name_the_counts_and_what_is_drawn(read):
    run = evaluated(read(dataset()), RECORDS, name="run")
    galleries = Galleries([GALLERY], room=10**6)
    results = [sort_outcomes(run.evidence, threshold=0.3)]
    add_images(galleries, [run], results, photographs=Photographs(run.annotations), longest=320)
    (picture,) = galleries.of[GALLERY]["pictures"]
    assert picture[:2] == (60, 40)
    assert picture[2]
    ((number, which, name, counts, objects, detections),) = json.loads(json.dumps(galleries.of[GALLERY]["items"]))
    assert (number, which, name, counts) == (0, 0, "2.jpg", [1, 1, 0, 2, 1])
    assert [(label, fate) for label, fate, _ in objects] == [(0, 0), (1, 1)]
    assert [(label, state, score) for label, state, score, _ in detections] == [(2, 0, 0.8), (0, 0, 0.7)]
    assert all(item[-1].startswith("M") for item in (*objects, *detections))


def test_without_room_nothing_is_added_but_counted(read):
    run = evaluated(read(dataset()), RECORDS, name="run")
    galleries = Galleries([GALLERY], room=-1)
    results = [sort_outcomes(run.evidence, threshold=0.3)]
    add_images(galleries, [run], results, photographs=Photographs(run.annotations), longest=320)
    assert (galleries.shown, galleries.left_out) == (0, 1)
