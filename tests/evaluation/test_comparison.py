"""Resampled AP is AP, intervals hold the truth about as often as they say, and runs are compared as they should be."""

import importlib.util
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from tailseg.evaluation.average_precision import summarize
from tailseg.evaluation.bootstrap import draw_weights, resample
from tailseg.evaluation.comparison import compare_matches, match_runs
from tailseg.evaluation.detections import match_results, read_detections, select_best_of_each_image
from tailseg.evaluation.ground_truth import read_ground_truth
from tailseg.evaluation.precision import compute_precision_and_recall


@pytest.fixture(scope="module")
def simulation():
    """The module benchmarks/bootstrap_coverage.py."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "bootstrap_coverage.py"
    spec = importlib.util.spec_from_file_location("bootstrap_coverage", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def matched(case):
    truth = read_ground_truth(case.truth, masks=False)
    found = read_detections(case.results, truth, ("bbox",))
    return truth, match_results(truth, found, select_best_of_each_image(found, truth, 300), "bbox")


def test_weights_of_one_give_the_ap_of_the_data_set(matched):
    truth, matches = matched
    precision, recall = compute_precision_and_recall(matches)
    expected = summarize(precision, recall, truth.class_groups)

    found = resample(matches, np.ones((200, 1), dtype=np.float32))

    figures = found.figures(truth.class_groups)
    # the same numbers added in another order
    assert {name: float(values[0]) for name, values in figures.items()} == {
        name: pytest.approx(expected[name], abs=1e-12) for name in figures
    }
    per_class = np.where(precision[0, 0, :, 0] < 0, np.nan, precision[..., 0].mean((0, 1)))
    np.testing.assert_allclose(found.AP[:, 0], per_class, rtol=0, atol=1e-12)


def test_a_weight_of_two_is_the_image_twice(case, matched, tmp_path):
    """Images with weight w against a data set in which they stand w times."""
    _, matches = matched
    weights = draw_weights(200, 1, np.random.default_rng(3))
    data, records = json.loads(case.truth.read_text()), json.loads(case.results.read_text())
    objects_of, found_in = defaultdict(list), defaultdict(list)
    for items, index in ((data["annotations"], objects_of), (records, found_in)):
        for item in items:
            index[item["image_id"]].append(item)
    images, annotations, results = [], [], []
    for image, weight in zip(data["images"], weights[:, 0].astype(int), strict=True):
        for copy in range(weight):
            number = image["id"] + 1000 * copy  # copies come later: ties are broken by image
            images.append(image | {"id": number})
            annotations += [a | {"image_id": number} for a in objects_of[image["id"]]]
            results += [r | {"image_id": number} for r in found_in[image["id"]]]
    path = tmp_path / "resampled.json"
    path.write_text(json.dumps(data | {"images": images, "annotations": annotations}))
    again = read_ground_truth(path, masks=False)
    found = read_detections(results, again, ("bbox",))
    expected = compute_precision_and_recall(
        match_results(again, found, select_best_of_each_image(found, again, 300), "bbox")
    )[0]

    ap = resample(matches, weights).AP[:, 0]

    per_class = np.where(expected[0, 0, :, 0] < 0, np.nan, expected[..., 0].mean((0, 1)))
    # copies of one image share their scores: between them precision is a little less than after both
    np.testing.assert_allclose(ap, per_class, rtol=0, atol=0.02)
    assert np.nanmean(ap) == pytest.approx(np.nanmean(per_class), abs=2e-3)


def test_a_run_does_not_differ_from_itself(matched):
    truth, matches = matched

    (found,) = compare_matches([matches, matches], truth.class_groups, samples=20)

    for entry in found.figures.values():
        assert (entry.difference, entry.low, entry.high) == (0, 0, 0)
        assert entry.verdict == "not larger than chance"
    assert found.largest_changes(5) == []


def test_a_better_run_is_better_and_the_first_is_compared_with_each(simulation):
    a, b, c = simulation.simulate(np.random.default_rng(0), 400, (0.0, 0.6, -0.6))

    better, worse = compare_matches([a, b, c], simulation.GROUPS, samples=50)

    assert better.figures["AP"].verdict == "better"
    assert worse.figures["AP"].verdict == "worse"
    assert better.figures["AP"].before == worse.figures["AP"].before
    moved = better.largest_changes(3)
    sizes = [abs(better.classes[index].difference) for index in moved]
    assert sizes == sorted(sizes, reverse=True)
    assert all(better.classes[index].low is not None for index in moved)


def test_classes_of_few_images_have_no_interval(simulation):
    runs = simulation.simulate(np.random.default_rng(0), 100)  # rare classes have one image on average

    (found,) = compare_matches(runs, simulation.GROUPS, samples=20)

    assert found.classes[0].low is not None
    assert found.classes[-1].low is None
    assert found.classes[-1].verdict == "unknown"


def test_intervals_hold_the_truth_about_as_often_as_they_say(simulation):
    """A short form of the benchmark, on 60 data sets: 95 % are 57, chance hardly ever leaves 50 or fewer."""
    found = simulation.coverage(images=150, repeats=60, samples=60, population=20_000)

    assert found["AP"].truth > 0.02
    for name in ("AP", "AP50", "APf", "APc"):
        assert found[name].holds >= 51 / 60, name
    assert found["AP"].decided >= 0.5, "intervals that leave nothing out would hold the truth too"


def test_runs_are_compared_by_what_they_have_in_common(case, tmp_path):
    truth = read_ground_truth(case.truth, masks=True)

    found = match_runs(truth, [{"bbox": case.results, "segm": case.results}, {"bbox": case.results}])

    assert list(found) == ["bbox"]
    assert len(found["bbox"]) == 2
    with pytest.raises(ValueError, match="neither boxes nor masks in common"):
        match_runs(truth, [{"bbox": case.results}, {"segm": case.results}])
