"""What is ranked first: on regions that are made for it, without a network."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tailseg.annotations.read import read_dataset
from tailseg.label_errors.changes import make_change
from tailseg.label_errors.classes import count_support, estimate_classes, find_similar
from tailseg.label_errors.regions import MOVED, MOVED_IOU, Regions, compute_iou, move_boxes
from tailseg.label_errors.suspects import compute_covered, estimate_places, find_suspects, score_outlines

SIZE = 100


def clusters(counts, *, seed=0, spread=0.3):
    """Features around a center for each class, each region in an image of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centers = rng.normal(size=(len(counts), 16))
    return (centers[labels] + spread * rng.normal(size=(len(labels), 16))).astype(np.float32), labels


def test_a_wrong_label_has_the_lowest_probability():
    x, labels = clusters([40, 20, 8])
    given = labels.copy()
    given[[0, 45, 62]] = [1, 2, 0]
    estimates = estimate_classes(x, given, np.arange(len(x)), 3)
    assert set(np.argsort(estimates.own)[:3].tolist()) == {0, 45, 62}
    assert estimates.other_labels[[0, 45, 62]].tolist() == [0, 1, 2]
    assert (estimates.own[[1, 46, 63]] > 0.5).all()


def test_an_image_is_never_judged_by_itself():
    """Two equal regions in one image with a wrong label do not vouch for each other."""
    x, labels = clusters([30, 30])
    x[1] = x[0]
    given, images = labels.copy(), np.arange(len(x))
    given[:2], images[1] = 1, 0
    estimates = estimate_classes(x, given, images, 2)
    assert (estimates.own[:2] < 0.5).all()


def test_support_counts_the_other_images():
    assert count_support(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 6])).tolist() == [1, 1, 2, 0]


@pytest.fixture
def read(tmp_path):
    def read(boxes_by_image, *, lvis=None):
        images, annotations = [], []
        for number, objects in enumerate(boxes_by_image, start=1):
            images.append({"id": number, "file_name": f"{number}.jpg", "height": SIZE, "width": SIZE} | (lvis or {}))
            for label, box in objects:
                one = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box}
                annotations.append(one | {"area": box[2] * box[3]})
        group = {"frequency": "f"} if lvis else {}
        categories = [{"id": label + 1, "name": name} | group for label, name in enumerate(("ant", "bee", "cat"))]
        path = tmp_path / "my.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return read_dataset(path, use="boxes")

    return read


def regions_for(annotations, x, *, found=(), x_found=None, overlaps=None):
    """Regions of the objects, and detections (image, xyxy box, score, overlap)."""
    objects = annotations.objects
    number, more = len(objects), len(found)
    boxes = np.array([box for _, box, *_ in found], np.float32).reshape(-1, 4)
    return Regions(
        x=np.concatenate([x, np.zeros((0, x.shape[1])) if x_found is None else x_found]).astype(np.float32),
        images=np.concatenate([objects.images, np.array([one[0] for one in found], int)]),
        boxes=np.concatenate([objects.boxes, boxes]),
        labels=np.concatenate([objects.labels, np.zeros(more, int)]),
        rows=np.concatenate([np.arange(number), np.full(more, -1)]),
        scores=np.concatenate([np.ones(number), [one[2] for one in found]]).astype(np.float32),
        overlaps=np.concatenate(
            [np.full(number, 0.8) if overlaps is None else overlaps, [one[3] for one in found]]
        ).astype(np.float32),
        masks=(None,) * (number + more),
        refined=np.concatenate([objects.boxes + 1, boxes]),
        places=np.zeros((number, 1 + MOVED, 4), np.float32),
    )


BOX = [10, 10, 20, 20]


def test_wrong_classes_come_first_and_the_patch_names_the_right_one(read):
    x, labels = clusters([30, 12])
    given = labels.copy()
    given[3] = 1
    annotations = read([[(int(label), BOX)] for label in given])
    first = find_suspects(annotations, regions_for(annotations, x), kinds=["class"])["class"][0]
    change = make_change(first)
    assert (first.annotation_id, change.was, change.becomes) == (4, {"category_id": 2}, {"category_id": 1})


def test_the_only_object_of_a_class_is_not_suspected(read):
    x, labels = clusters([30, 12, 1])
    annotations = read([[(int(label), BOX)] for label in labels])
    suspects = find_suspects(annotations, regions_for(annotations, x), kinds=["class"])["class"]
    assert 43 not in {suspect.annotation_id for suspect in suspects}


@pytest.mark.parametrize(
    ("lvis", "listed"),
    [
        (None, 1),
        ({"neg_category_ids": [2], "not_exhaustive_category_ids": []}, 1),
        ({"neg_category_ids": [], "not_exhaustive_category_ids": []}, 0),
        ({"neg_category_ids": [2], "not_exhaustive_category_ids": [2]}, 0),
    ],
)
def test_missing_objects_are_of_classes_that_were_looked_for(read, lvis, listed):
    """A detection that looks like class 1 in an image with an object of class 0 only."""
    x, labels = clusters([30, 12])
    rng = np.random.default_rng(1)
    annotations = read([[(int(label), BOX)] for label in labels], lvis=lvis)
    background = [(image, [60, 60, 70, 70], 0.1, 0.0) for image in range(1, 30)]
    found = [(0, [60, 60, 90, 90], 0.9, 0.0), (0, [10, 10, 30, 30], 0.9, 1.0), *background]
    x_found = np.concatenate([x[[35, 0]], 3 + rng.normal(size=(len(background), 16))])
    suspects = find_suspects(annotations, regions_for(annotations, x, found=found, x_found=x_found), kinds=["missing"])
    best = [s for s in suspects["missing"] if s.index == 0 and s.new_category_id == 2]
    assert len(best) == listed
    if listed:
        assert best[0] == suspects["missing"][0]
        change = make_change(best[0])
        assert change.annotation_id is None
        assert change.becomes == {"category_id": 2, "bbox": [60.0, 60.0, 30.0, 30.0], "area": 900.0}


def test_parts_and_groups_of_objects_are_covered(read):
    annotations = read([[(0, BOX), (0, [50, 10, 20, 20])], [(1, BOX)]])
    found = [(0, [12, 12, 22, 22], 1.0, 0.0), (0, [0, 0, 80, 40], 1.0, 0.0), (1, [60, 60, 90, 90], 1.0, 0.0)]
    found += [(1, [20, 10, 40, 30], 1.0, 0.0)]  # half of it is inside
    regions = regions_for(annotations, np.zeros((3, 2)), found=found, x_found=np.zeros((4, 2)))
    assert compute_covered(annotations, regions).tolist() == pytest.approx([0, 0, 0, 1, 1, 0, 0.5])


def outlines(overlaps, places=None):
    """Regions of objects alone, with the IoU of each with the network's mask; the network draws the annotated boxes."""
    count = len(overlaps)
    places = np.zeros((count, 1 + MOVED, 4)) if places is None else places
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (count, 1))
    return Regions(
        *(np.zeros((count, 1), np.float32), np.arange(count), boxes, np.zeros(count, int)),
        *(np.arange(count), np.ones(count), overlaps, (None,) * count, boxes.copy(), places),
    )


def test_an_outline_is_compared_with_similar_objects():
    """One kind of object has a low IoU throughout; of the other kind, an object with the same IoU is suspicious."""
    rng = np.random.default_rng(0)
    overlaps = np.concatenate([np.full(50, 0.4), np.full(50, 0.9)])
    overlaps[70] = 0.4
    x = rng.normal(size=(100, 8)).astype(np.float32)
    x[:50, 0] += 20
    regions = replace(outlines(overlaps), x=x)
    regions.refined[20] = [0, 0, 10, 4]  # another box
    scores = score_outlines(regions, np.eye(100)[30])
    assert scores[[70, 20, 30]].tolist() == pytest.approx([0.5 / 3, 0.6 / 3, 1 / 3])
    assert np.delete(scores, [70, 20, 30]).max() == 0


def test_similar_objects_are_in_other_images():
    x = np.array([[5, 0], [5, 0.1], [-5, 0], [-5, 0.2], [5, 0.2]], np.float32)
    assert find_similar(x, np.array([0, 0, 1, 2, 2]), 1).tolist() == [[4], [4], [3], [2], [1]]
    assert find_similar(x[:2], np.array([0, 0]), 3).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_box_in_a_wrong_place_looks_like_moved_boxes():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(100, 1 + MOVED, 8)).astype(np.float32)
    places[:, 1:, 0] += 6  # what tells a moved box
    places[7, 0, 0] += 6
    misplaced = estimate_places(outlines(np.ones(100), places), folds=5, seed=0)
    assert misplaced.argmax() == 7
    assert misplaced[7] > 0.5 > np.delete(misplaced, 7).max()


def test_moved_boxes_overlap_by_about_half():
    boxes = torch.tensor([[10.0, 10.0, 50.0, 30.0], [0.0, 0.0, 9.0, 9.0]])
    moved = move_boxes(boxes).numpy()
    assert np.array_equal(moved[:, 0], boxes.numpy())
    overlaps = [compute_iou(moved[k, :1], moved[k, 1:])[0] for k in range(2)]
    assert (np.stack(overlaps) >= MOVED_IOU[0]).all()
    assert (np.stack(overlaps) <= MOVED_IOU[1]).all()
    assert not np.array_equal(move_boxes(boxes, seed=1).numpy(), moved)


def test_duplicates_of_one_class_come_before_those_of_two(read):
    annotations = read([[(0, BOX), (0, [11, 10, 20, 20])], [(0, BOX), (1, BOX)], [(0, BOX), (0, [50, 50, 20, 20])]])
    x = np.zeros((6, 2))
    suspects = find_suspects(annotations, regions_for(annotations, x), kinds=["duplicate"])["duplicate"]
    assert [(s.annotation_id, s.other_row) for s in suspects] == [(2, 0), (4, 2)]
    assert make_change(suspects[0]).becomes is None
