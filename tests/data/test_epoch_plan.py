"""Every kind of sampling: its factors against the formulas, and its announcement against what the sampler draws."""

import json
from math import exp, sqrt
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import pytest

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.cli import main
from tailseg.cli.data import DataShow
from tailseg.data.epoch_plan import (
    compute_exposure,
    count_group_draws,
    draw_exactly,
    list_sampling_notes,
    plan_epoch,
)
from tailseg.data.sampler import TrainSampler
from tailseg.data.settings import Sampling
from tailseg.data.tiny_tail import prepare
from tailseg.ranges import SettingError
from tailseg.recipes.custom import custom_small
from tailseg.recipes.recipe import DataConfig

KINDS = get_args(Sampling)
every_kind = pytest.mark.parametrize("sampling", KINDS)

IMAGES = [[1], [1, 1, 2], [1, 2, 3, 3], [1], [1, -3], [1, 4], [2], []]
"""The classes of the objects of each image; a negative number is a crowd region. No object has class 5."""


def write(path: Path, classes: list[list[int]]) -> Path:
    objects: list[dict[str, Any]] = []
    for image, members in enumerate(classes):
        for category in members:
            shape = {"bbox": [0, 0, 5, 5], "segmentation": [[0, 0, 5, 0, 5, 5]], "iscrowd": int(category < 0)}
            objects.append({"id": len(objects), "image_id": image, "category_id": abs(category), **shape})
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 10, "width": 10} for i in range(len(classes))]
    categories = [{"id": i, "name": str(i)} for i in range(1, 6)]
    path.write_text(json.dumps({"images": images, "annotations": objects, "categories": categories}))
    return path


@pytest.fixture
def annotations(tmp_path: Path) -> Annotations:
    return read_dataset(write(tmp_path / "set.json", IMAGES))


def literal(sampling: str, threshold: float | str, exponent: float | None) -> list[float]:
    """The wanted draws of images 0 .. 6, from the definitions, one image after the other."""
    members = [[c for c in image if c > 0] for image in IMAGES if image]
    classes = range(1, 5)
    n = {c: sum(c in image for image in members) for c in classes}
    total = sum(len(image) for image in members)
    share = {c: n[c] / len(members) for c in classes}
    if sampling != "repeat":
        share = {c: sqrt(share[c] * sum(image.count(c) for image in members) / total) for c in classes}
    t = median(share.values()) if threshold == "auto" else float(threshold)
    if sampling in ("repeat", "instance_repeat"):
        e = 0.5 if exponent is None else exponent
        return [max(max(1, (t / share[c]) ** e) for c in image) for image in members]
    if sampling == "exponential_repeat":
        e = 2 if exponent is None else exponent
        weights = [max(exp(e * sqrt(t / share[c])) for c in image) for image in members]
    else:
        e = {"class_aware": 1, "balanced": 0.5}[sampling] if exponent is None or sampling == "class_aware" else exponent
        drawn = {c: n[c] ** (1 - e) for c in classes}
        weights = [sum(drawn[c] / sum(drawn.values()) / n[c] for c in {*image}) for image in members]
    return [weight * len(members) / sum(weights) for weight in weights]


@every_kind
@pytest.mark.parametrize("exponent", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("threshold", [0.4, "auto"])
def test_factors_are_those_of_the_definition(
    annotations: Annotations, sampling: Any, threshold: Any, exponent: float | None
) -> None:
    plan = plan_epoch(annotations, sampling=sampling, threshold=threshold, exponent=exponent)
    assert plan.images.tolist() == list(range(7))
    np.testing.assert_allclose(plan.factors, literal(sampling, threshold, exponent), rtol=1e-12)


def test_the_published_exponential_keeps_its_ratios_where_it_overflows(annotations: Annotations) -> None:
    plan = plan_epoch(annotations, sampling="exponential_repeat", threshold=1.0, exponent=1000.0)
    assert plan.factors.sum() == pytest.approx(7)
    assert plan.factors.argmax() == 5  # class 4 has one object, class 3 has two


@every_kind
def test_an_image_without_objects_is_drawn_where_it_is_asked_for(annotations: Annotations, sampling: Any) -> None:
    plan = plan_epoch(annotations, sampling=sampling, threshold=0.4, filter_empty=False)
    assert plan.images.tolist() == list(range(8))
    expected = 1.0
    if sampling == "exponential_repeat":  # exp(0), before the factors are brought to a sum of 8
        expected = plan.factors[3] / exp(2 * sqrt(0.4 / sqrt(6 / 7 * 7 / 13)))
    assert plan.factors[7] == pytest.approx(expected)


def test_a_note_names_an_image_that_fills_the_epoch(tmp_path: Path) -> None:
    annotations = read_dataset(write(tmp_path / "long.json", [[1]] * 300 + [[2]]))
    (note,) = list_sampling_notes(annotations, plan_epoch(annotations, sampling="class_aware"))
    assert "an epoch draws image 300 about 150 times, of 301 draws: lower data.repeat_exponent" in note
    assert list_sampling_notes(annotations, plan_epoch(annotations, sampling="balanced", exponent=0.3)) == []


def test_a_factor_that_would_fill_the_memory_is_refused(annotations: Annotations) -> None:
    with pytest.raises(ValueError, match=r"would be repeated .* lower data\.repeat_threshold or data\.repeat_exponent"):
        plan_epoch(annotations, threshold=1.0, exponent=20.0)


@pytest.mark.parametrize("sampling", ["instance_repeat", "exponential_repeat"])
def test_a_sampling_that_would_repeat_nothing_is_refused(sampling: Any) -> None:
    with pytest.raises(SettingError, match=r"threshold 0 repeats no image: give a threshold, .* or auto"):
        DataConfig(train="", val=None, sampling=sampling)
    assert main(["data", "show", "tiny_tail:test", "--sampling", sampling, "--repeat-threshold", "0"]) == 2


def test_draws_are_rounded_to_one_of_two_numbers_and_their_sum_stays() -> None:
    factors = np.array([0.2, 0.9, 1.7, 4.0, 0.2]) * (5 / 7)
    generator = np.random.default_rng(0)
    draws = np.array([np.bincount(draw_exactly(factors, generator), minlength=5) for _ in range(4000)])
    assert (draws.sum(1) == 5).all()
    assert ((draws == np.floor(factors)) | (draws == np.ceil(factors))).all()
    np.testing.assert_allclose(draws.mean(0), factors, atol=0.03)  # the standard error is at most 0.008


GOLDEN = {
    (0.0, "ceil"): [5, 10, 6, 1, 3, 14, 4, 13, 0, 8, 2, 11, 15, 9, 7, 12],
    (0.5, "ceil"): [11, 2, 15, 13, 14, 0, 11, 15, 1, 10, 4, 5, 12, 7, 9, 6, 3, 2, 3, 12, 4, 8, 9, 8, 10, 6, 7, 5, 12]
    + [15, 11, 2],
    (0.5, "stochastic"): [1, 10, 14, 5, 11, 12, 15, 3, 2, 4, 13, 9, 0, 5, 12, 15, 11, 8, 7, 7, 8, 12, 6, 15, 10, 6, 9]
    + [4],
}
"""The orders of version 0.2.0 for tiny_tail:test, seed 7, epoch 2, 4 images a step, by threshold and rounding."""


@pytest.fixture(scope="module")
def tiny() -> Annotations:
    return read_dataset(prepare("tiny_tail:test")[0])


@pytest.mark.parametrize(("threshold", "rounding"), GOLDEN)
def test_the_default_keeps_the_order_of_earlier_versions(tiny: Annotations, threshold: float, rounding: Any) -> None:
    sampler = TrainSampler(tiny, batch_size=4, seed=7, repeat_threshold=threshold, rounding=rounding)
    sampler.set_epoch(2)
    assert sampler.order().tolist() == GOLDEN[threshold, rounding]


def make_sampler(annotations: Annotations, sampling: Any, rounding: Any = "ceil", **arguments: Any) -> TrainSampler:
    settings = {"batch_size": 6, "seed": 0, "repeat_threshold": "auto", "repeat_exponent": 0.8}
    return TrainSampler(annotations, sampling=sampling, rounding=rounding, **{**settings, **arguments})


@every_kind
@pytest.mark.parametrize("rounding", ["ceil", "stochastic"])
def test_the_announced_numbers_are_those_of_the_real_sampler(tiny: Annotations, sampling: Any, rounding: Any) -> None:
    sampler = make_sampler(tiny, sampling, rounding)
    exposure = compute_exposure(tiny, sampler.plan, sampler.batch_size)
    epochs = 500
    draws = np.zeros(tiny.num_images)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = sampler.order()
        assert len(order) == sampler.steps_per_epoch * 6
        draws += np.bincount(order, minlength=tiny.num_images) / epochs
    objects = tiny.objects
    groups = np.array([category.group for category in tiny.categories])
    for group in ("r", "c"):
        member = groups == group
        rows = objects.trainable & member[objects.labels]
        images = sorted({*objects.images[rows].tolist()})
        assert exposure.objects[member].sum() == pytest.approx(draws[objects.images[rows]].sum(), rel=0.01)
        assert count_group_draws(tiny, exposure, member) == pytest.approx(draws[images].sum(), rel=0.01)
    for label in range(tiny.num_classes):
        rows = objects.trainable & (objects.labels == label)
        assert exposure.objects[label] == pytest.approx(draws[objects.images[rows]].sum(), rel=0.05)
        images = sorted({*objects.images[rows].tolist()})
        assert exposure.images[label] == pytest.approx(draws[images].sum(), rel=0.05)


def test_class_aware_shows_every_class_equally_often(tmp_path: Path) -> None:
    """Where every image has one class; with several in an image, the others come along."""
    annotations = read_dataset(write(tmp_path / "alone.json", [[1], [1, 1], [1], [2], [3, 3, 3], [3]]))
    exposure = compute_exposure(annotations, plan_epoch(annotations, sampling="class_aware"), 1)
    np.testing.assert_allclose(exposure.images, [2, 2, 2, 0, 0])
    np.testing.assert_allclose(exposure.objects, [2 * 4 / 3, 2, 2 * 2, 0, 0])


@every_kind
@pytest.mark.parametrize("world_size", [2, 3])
def test_a_step_holds_the_same_samples_on_any_number_of_processes(
    tiny: Annotations, sampling: Any, world_size: int
) -> None:
    alone = list(make_sampler(tiny, sampling))
    parts = [list(make_sampler(tiny, sampling, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert [sample for samples in zip(*parts, strict=True) for sample in samples] == alone


@every_kind
def test_resuming_inside_an_epoch_goes_on_with_the_same_samples(tiny: Annotations, sampling: Any) -> None:
    sampler = make_sampler(tiny, sampling, "stochastic")
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, start_step=1)
    assert list(sampler) == whole[6:]
    sampler.set_epoch(4)
    assert len(list(sampler)) == len(whole)
    assert [index for index, _ in sampler] != [index for index, _ in whole]


def test_show_describes_the_sampling_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    data, shown = custom_small().data, DataShow(data="x")
    for name in ("sampling", "repeat_threshold", "repeat_exponent", "repeat_rounding", "batch_size"):
        assert getattr(shown, name) == getattr(data, name), name
    assert main(["data", "show", "tiny_tail:test", "--sampling", "class_aware", "--batch-size", "4"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "an epoch 4 steps of 4 images, sampling class_aware" in text
    # plain ring is in one image of the 16, with one object: 16 / 12 classes, and the draws for the image's others.
    assert float(text.split("plain ring r 1 1 ")[1].split()[0]) > 16 / 12


def test_show_of_a_file_with_crowd_regions_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", str(write(tmp_path / "crowds.json", [[-1], [-2]]))]) == 0
    assert "steps of" not in capsys.readouterr().out
