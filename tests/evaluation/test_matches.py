"""The short cuts of matching and precision against the plain way, to the last bit."""

from dataclasses import fields

import numpy as np
import pytest
from hotcoco import mask as run_lengths

from tailseg.evaluation import overlaps
from tailseg.evaluation.detections import (
    find_candidates,
    match_results,
    read_detections,
    select_best_of_each_image,
    select_counting,
)
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.matches import FALSE, FOUND, LEFT_ALONE, sort_best_first, sort_for_matching
from tailseg.evaluation.overlaps import LEAST, Pairs
from tailseg.evaluation.precision import (
    compute_mean_precision,
    compute_precision_curve,
    compute_precision_curves,
    count_objects_needed,
)

from .conftest import needs_new_hotcoco


@pytest.fixture(scope="module")
def read(case):
    truth = read_ground_truth(case.truth, masks=True)
    return truth, read_detections(case.results, truth, ("bbox", "segm"))


@pytest.mark.parametrize("decimals", [1, 17])
@pytest.mark.parametrize("size", [0, 1, 5000])
def test_orders_are_those_of_a_stable_sort(decimals, size):
    rng = np.random.default_rng(0)
    scores = np.where(rng.random(size) < 0.1, -0.0, rng.random(size)).round(decimals)
    classes, images = rng.integers(0, 70_000, size), rng.integers(0, 40, size)

    np.testing.assert_array_equal(sort_best_first(scores), np.argsort(-scores, kind="stable"))
    for few in (classes % 7, classes):
        np.testing.assert_array_equal(sort_for_matching(few, images, scores), np.lexsort((images, -scores, few)))


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_those_of_lower_score_can_be_left_out_after_the_matching(read, iou_type):
    truth, found = read
    capped = select_best_of_each_image(found, truth, 40)
    whole = match_results(truth, found, np.arange(len(found)), iou_type, around=True)

    some, alone = whole.select(capped), match_results(truth, found, capped, iou_type, around=True)

    assert len(alone) < 0.8 * len(whole)
    for field in fields(alone):
        ours, theirs = getattr(some, field.name), getattr(alone, field.name)
        if isinstance(theirs, Pairs):
            ours, theirs = ((pairs.detections, pairs.objects, pairs.overlaps) for pairs in (ours, theirs))
            for mine, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine, other)
        else:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("block", [1 << 16, 7])
@pytest.mark.parametrize("iou_type", [pytest.param("bbox", marks=needs_new_hotcoco), "segm"])
def test_overlaps_are_hotcocos(read, monkeypatch, iou_type, block):
    """Of every detection with every object of its image; crowds among them."""
    truth, found = read
    monkeypatch.setattr(overlaps, "BLOCK", block)
    truth.objects.crowds[::5] = True
    try:
        rows = select_counting(found, truth, np.flatnonzero(np.isin(found.image_ids, truth.image_ids[:20])), iou_type)
        near = find_candidates(truth, found, rows, iou_type, around=True)
        expected = []
        for image in range(20):
            mine = np.flatnonzero(near.images == image)
            theirs = np.flatnonzero(truth.objects.images == image)
            boxes = found.boxes[near.rows[mine]], truth.objects.boxes[theirs]
            masks = found.masks(near.rows[mine]), [truth.object_masks[index] for index in theirs.tolist()]
            pair = masks if iou_type == "segm" else boxes
            table = run_lengths.iou(*pair, truth.objects.crowds[theirs])
            expected += [(mine[i], theirs[j], table[i, j]) for i, j in zip(*np.nonzero(table >= LEAST), strict=True)]
    finally:
        truth.objects.crowds[:] = False

    around = near.around
    assert len(expected) > 300
    assert list(zip(around.detections, around.objects, around.overlaps, strict=True)) == sorted(expected)
    own = near.classes[around.detections] == truth.objects.classes[around.objects]
    np.testing.assert_array_equal(near.pairs.overlaps, around.overlaps[own])


def test_curves_of_all_classes_at_once_are_those_of_each():
    rng = np.random.default_rng(1)
    num_objects = np.array([0, 1, 2, 3, 7, 40, 300, 5, 0])
    classes = np.sort(rng.integers(0, len(num_objects) - 1, 2000))  # the last class has no detection
    states = rng.choice([FALSE, LEFT_ALONE, FOUND], len(classes), p=[0.6, 0.2, 0.2]).astype(np.uint8)
    for index, count in enumerate(num_objects.tolist()):  # no more are found than there are
        places = np.flatnonzero((classes == index) & (states == FOUND))
        states[places[count:]] = FALSE

    curves, recall = compute_precision_curves(classes, states, num_objects, count_objects_needed(num_objects))

    for index in np.flatnonzero(num_objects).tolist():
        curve, last = compute_precision_curve(states[classes == index], int(num_objects[index]))
        np.testing.assert_array_equal(curves[index], curve)
        assert recall[index] == last
        assert curves[index].mean() == curve.mean()
    mean, last = compute_mean_precision(classes, states, num_objects)
    np.testing.assert_allclose(mean, curves.mean(1), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(last, recall)
