"""Thresholds by class: F1 and its shrinkage one class at a time, LVIS's rules, unseen images, and the file."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from tailseg.evaluation import find_thresholds, thresholds
from tailseg.evaluation.detections import match_results, read_detections, select_best_of_each_image
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.matches import FOUND, LEFT_ALONE
from tailseg.evaluation.thresholds import _Counted, _Curves

SIDE = 10


def make_case(counts, scores, *, num_images=60, false_each=2, seed=0, lvis=False):
    """An annotation file and results: an object is found with a score about ``scores[k]``; false ones score half.

    Args:
        counts: objects of each class, one an image.
        scores: the mean score of the detections that find objects of each class.
        num_images: images.
        false_each: false detections for each object.
        seed: of the scores.
        lvis: names the classes without objects in no image as looked for: LVIS's rules.
    """
    rng = np.random.default_rng(seed)
    images = [
        {"id": 1 + number, "height": 100, "width": 100, "file_name": f"{number}.jpg"} for number in range(num_images)
    ]
    groups = ["r" if count < 10 else "f" for count in counts]
    categories = [{"id": 1 + k, "name": f"class {k}", "frequency": groups[k]} for k in range(len(counts))]
    annotations, results = [], []
    for k, (count, score) in enumerate(zip(counts, scores, strict=True)):
        for image in rng.choice(num_images, size=count, replace=False).tolist():
            box = [float(SIDE * k % 90), 0.0, SIDE, SIDE]
            shared = {"image_id": 1 + image, "category_id": 1 + k}
            annotations.append(shared | {"id": len(annotations) + 1, "bbox": box, "area": 100, "iscrowd": 0})
            results.append(shared | {"bbox": box, "score": float(score * rng.uniform(0.7, 1.3))})
            for place in range(false_each):
                wrong = [float(SIDE * k % 90), 50.0 + 20 * place, SIDE, SIDE]
                results.append(shared | {"bbox": wrong, "score": float(score * rng.uniform(0.2, 0.9))})
    content = {"images": images, "categories": categories, "annotations": annotations}
    if lvis:
        for image in images:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    return content, results


def match(content, results, tmp_path):
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(content))
    truth = read_ground_truth(file, masks=False)
    found = read_detections(results, truth, ("bbox",))
    return truth, match_results(truth, found, select_best_of_each_image(found, truth, 300), "bbox")


def naive_counts(matches, k, threshold):
    """TP, D and N of a class, one detection at a time."""
    found = kept = 0
    for label, score, state in zip(matches.classes, matches.scores, matches.states[0, 0], strict=True):
        if label == k and score >= threshold and state != LEFT_ALONE:
            kept += 1
            found += state == FOUND
    return found, kept, int(((matches.object_classes == k) & matches.wanted[0]).sum())


def naive_f1(matches, groups, k, threshold, a, b):
    """F1' of the docstring."""
    rows = [naive_counts(matches, other, threshold) for other in range(matches.num_classes)]

    def rates(members, strength=0.0, prior=(0.0, 0.0)):
        total = sum(rows[m][2] for m in members) + strength
        return [(sum(rows[m][i] for m in members) + strength * prior[i]) / total for i in (0, 1)]

    prior = rates(range(len(rows)))
    if math.isfinite(b):
        prior = rates([m for m in range(len(rows)) if groups[m] == groups[k]], b, prior)
    if math.isinf(a):
        return 2 * prior[0] / (prior[1] + 1)
    found, kept, num_objects = rows[k]
    return 2 * (found + a * prior[0]) / (kept + a * prior[1] + num_objects + a)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (3.0, math.inf), (math.inf, 10.0), (math.inf, math.inf)])
def test_the_threshold_of_a_class_maximizes_its_shrunken_f1(tmp_path, a, b):
    content, results = make_case([2, 4, 12, 20, 0], [0.2, 0.3, 0.6, 0.5, 0.4])
    truth, matches = match(content, results, tmp_path)
    curves = _Curves.of_data(_Counted.of_matches(matches, truth.class_groups))

    values = curves.find(a, b)

    for k, value in enumerate(values.tolist()):
        best = max(naive_f1(matches, truth.class_groups, k, threshold, a, b) for threshold in curves.grid)
        assert naive_f1(matches, truth.class_groups, k, value, a, b) == pytest.approx(best, rel=1e-12)
    if math.isinf(a) and math.isinf(b):
        assert len(set(values.tolist())) == 1
        everything = sorted({*matches.scores.tolist()})
        sums = [np.sum([naive_counts(matches, k, t) for k in range(5)], axis=0) for t in (values[0], *everything)]
        first, *others = [2 * found / (kept + num) for found, kept, num in sums]
        assert first >= max(others) - 0.01, "the grid is fine enough"


def test_f1_is_judged_on_images_that_the_thresholds_have_not_seen(tmp_path, monkeypatch):
    content, results = make_case([6, 8, 30, 40], [0.1, 0.2, 0.6, 0.7])
    (tmp_path / "truth.json").write_text(json.dumps(content))
    fitted = []
    fit = thresholds._fit

    def spy(data, rng):
        fitted.append((set(data.images.tolist()) | set(data.object_images.tolist()), fit(data, rng)))
        return fitted[-1][1]

    monkeypatch.setattr(thresholds, "_fit", spy)
    found = find_thresholds(tmp_path / "truth.json", results, folds=3, samples=10)

    *parts, (everything, final) = fitted
    assert len(parts) == 3
    _, matches = match(content, results, tmp_path)
    assert everything == set(matches.images.tolist())
    assert final.values.tolist() == [entry.threshold for entry in found.classes]
    held_out = [everything - seen for seen, _ in parts]
    assert sorted(image for part in held_out for image in part) == sorted(everything)
    counts = Counter()
    for image, label, score, state in zip(
        matches.images, matches.classes, matches.scores, matches.states[0, 0], strict=True
    ):
        (own,) = [each for part, (_, each) in zip(held_out, parts, strict=True) if image in part]
        for name, threshold in (("before", own.single), ("after", own.values[label])):
            if score >= threshold:
                counts[name, "kept", int(label)] += 1
                counts[name, "found", int(label)] += int(state == FOUND)
    sizes = [6, 8, 30, 40]
    for part, members in (("all", range(4)), ("r", range(2)), ("f", range(2, 4))):
        for name in ("before", "after"):
            each = [2 * counts[name, "found", k] / (counts[name, "kept", k] + sizes[k]) for k in members]
            sums = [sum(counts[name, what, k] for k in members) for what in ("found", "kept")]
            assert getattr(found.f1[part]["macro"], name) == pytest.approx(np.mean(each))
            micro = 2 * sums[0] / (sums[1] + sum(sizes[k] for k in members))
            assert getattr(found.f1[part]["micro"], name) == pytest.approx(micro)
    assert "c" not in found.f1


def test_images_that_are_drawn_twice_count_twice(tmp_path):
    """Against the same figures of a file in which they are written twice."""
    content, results = make_case([6, 8, 30], [0.1, 0.2, 0.6], num_images=40)
    truth, matches = match(content, results, tmp_path)
    data = _Counted.of_matches(matches, truth.class_groups)
    weights = np.random.default_rng(0).integers(0, 3, size=(40, 1)).astype(np.float32)
    kept = data.scores > 0.15

    found, total = thresholds._count(data, kept, weights)

    for values, rows in ((found, kept & data.correct), (total, kept)):
        repeated = np.repeat(data.classes[rows], weights[data.images[rows], 0].astype(int))
        assert values[:, 0].tolist() == np.bincount(repeated, minlength=3).tolist()


def test_classes_that_score_low_get_lower_thresholds_and_a_better_macro_f1(tmp_path):
    content, results = make_case([8, 9, 8, 9, 50, 55], [0.06, 0.08, 0.05, 0.07, 0.7, 0.7], num_images=100)
    found = find_thresholds(content, results)

    values = [entry.threshold for entry in found.classes]
    assert max(values[:4]) < 0.1 < 0.3 < min(values[4:])
    assert found.f1["r"]["macro"].verdict == "better"
    assert found.f1["r"]["macro"].before < 0.1
    assert found.f1["r"]["macro"].after > 0.5
    assert "rare classes" in found.describe()
    assert "macro, rare" in repr(found)


def test_classes_that_score_alike_get_one_threshold(tmp_path):
    """Differences between their best thresholds are chance."""
    content, results = make_case([5, 6, 7, 8, 40, 40], [0.5] * 6, num_images=100)
    found = find_thresholds(content, results)

    assert found.class_strength == found.group_strength == math.inf
    assert {entry.threshold for entry in found.classes} == {found.single}
    assert found.f1["all"]["macro"].difference == pytest.approx(0, abs=0.02)


def test_under_lvis_s_rules_a_class_that_was_not_looked_for_is_not_wrong(tmp_path):
    content, results = make_case([8, 30], [0.5, 0.6], lvis=True)
    with_objects = {annotation["image_id"] for annotation in content["annotations"] if annotation["category_id"] == 1}
    others = [image["id"] for image in content["images"] if image["id"] not in with_objects]
    strange = [{"image_id": key, "category_id": 1, "bbox": [0, 70, 9, 9], "score": 0.99} for key in others]

    before, after = (find_thresholds(content, records) for records in (results, results + strange))
    assert before == after

    for image in content["images"]:
        image["neg_category_ids"] = [1] if image["id"] in others else []
    looked_for = find_thresholds(content, results + strange)
    assert looked_for.f1["r"]["macro"].before < before.f1["r"]["macro"].before


def test_equal_inputs_give_equal_thresholds_whatever_the_order_of_records(tmp_path):
    content, results = make_case([6, 8, 30], [0.1, 0.2, 0.6])
    assert find_thresholds(content, results, seed=3) == find_thresholds(content, results[::-1], seed=3)


def test_the_file_gives_back_what_was_written(tmp_path):
    content, results = make_case([5, 40], [0.5, 0.5])
    found = find_thresholds(content, results, samples=2)
    file = tmp_path / "thresholds.json"

    thresholds.save(found, file)

    assert thresholds.load(file) == found
    assert json.loads(file.read_text())["class_strength"] is None, "JSON has no infinity"
    for text in ("{}", "[]", json.dumps({**json.loads(file.read_text()), "more": 1})):
        file.write_text(text)
        with pytest.raises(ValueError, match="was not written by `tailseg thresholds`"):
            thresholds.load(file)


def test_what_cannot_be_judged_is_refused(tmp_path):
    content, results = make_case([1, 1], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"no detection finds an object .* A run has learned too little"):
        find_thresholds(content, [record | {"bbox": [80, 80, 5, 5]} for record in results])
    with pytest.raises(ValueError, match=r"has objects in 2 images: 3 folds need at least as many"):
        find_thresholds(content, results, folds=3)
    with pytest.raises(ValueError, match="folds and samples should be at least 2"):
        find_thresholds(content, results, folds=1)
    assert len(find_thresholds(content, results, samples=2).classes) == 2


def test_the_only_objects_of_a_class_are_dealt_to_different_parts(tmp_path):
    content, results = make_case([2, 2, 2, 50], [0.5] * 4)
    truth, matches = match(content, results, tmp_path)
    data = _Counted.of_matches(matches, truth.class_groups)

    parts = thresholds._split_images(data, 2, np.random.default_rng(0))

    split = [len(set(parts[data.object_images[data.object_classes == k]].tolist())) == 2 for k in range(3)]
    assert sum(split) >= 2, "an image may hold the objects of two classes"
    assert abs(int((parts == 0).sum()) - 30) <= 1
