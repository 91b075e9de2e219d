"""Order, repeats, seeds, and the share of each process."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.sampler import EvaluationSampler, Sample, TrainSampler

Write = Callable[..., Path]


@pytest.fixture
def annotations(many: dict[str, Any], write: Write) -> Annotations:
    """Twelve images, class 7 in image 4 alone."""
    return read_dataset(write(many))


def images(samples: list[Sample]) -> Counter[int]:
    return Counter(index for index, _ in samples)


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(annotations: Annotations) -> None:
    sampler = TrainSampler(annotations, batch_size=4, seed=0)
    first = list(sampler)
    assert images(first) == Counter(range(12))
    assert len(first) == len(sampler) == 12
    assert sampler.steps_per_epoch == 3
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert images(list(sampler)) == Counter(range(12))
    assert [i for i, _ in sampler] != [i for i, _ in first]


def test_every_sample_has_a_seed_of_its_own(annotations: Annotations) -> None:
    sampler = TrainSampler(annotations, batch_size=4, seed=0)
    seeds = [seed for _, seed in sampler]
    sampler.set_epoch(1)
    seeds += [seed for _, seed in sampler]
    seeds += [seed for _, seed in TrainSampler(annotations, batch_size=4, seed=1)]
    assert len(set(seeds)) == 36
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("rounding", ["ceil", "stochastic"])
def test_rare_classes_are_repeated(annotations: Annotations, rounding: Any) -> None:
    # f = 1/12 and 11/12: r of image 4 is sqrt(0.75 / (1/12)) = 3, of all others 1.
    sampler = TrainSampler(annotations, batch_size=2, seed=0, repeat_threshold=0.75, rounding=rounding)
    assert images(list(sampler)) == Counter({**dict.fromkeys(range(12), 1), 4: 3})
    assert sampler.steps_per_epoch == 7


def test_a_crowd_of_a_rare_class_repeats_no_image(many: dict[str, Any], write: Write) -> None:
    many["annotations"].append({**many["annotations"][4], "id": 100, "image_id": 5, "iscrowd": 1})
    sampler = TrainSampler(read_dataset(write(many)), batch_size=2, seed=0, repeat_threshold=0.75)
    assert images(list(sampler)) == Counter({**dict.fromkeys(range(12), 1), 4: 3})


def test_stochastic_rounding_shows_images_as_often_as_their_factor_says(annotations: Annotations) -> None:
    # r of image 4 is sqrt(0.5 * 12) = 2.449.
    sampler = TrainSampler(annotations, batch_size=1, seed=0, repeat_threshold=0.5, rounding="stochastic")
    assert sampler.steps_per_epoch == 14
    counts = []
    for epoch in range(400):
        sampler.set_epoch(epoch)
        order = sampler.order()
        assert len(order) == 14, "every epoch has the same number of steps"
        counts.append((order == 4).sum())
    assert set(counts) <= {2, 3, 4}  # 4: an epoch of 13 draws is filled up from its own beginning
    # Standard error of the mean: sqrt(0.247 / 400) = 0.025; filling up adds 0.55 * 2 / 13 = 0.09.
    assert np.mean(counts) == pytest.approx(2.449 + 0.09, abs=0.1)


def test_the_last_step_is_filled_up(annotations: Annotations) -> None:
    sampler = TrainSampler(annotations, batch_size=5, seed=0)
    counts = images(list(sampler))
    assert sampler.steps_per_epoch == 3
    assert sum(counts.values()) == 15
    assert set(counts.values()) == {1, 2}


def test_a_batch_larger_than_the_data_set(annotations: Annotations) -> None:
    assert set(images(list(TrainSampler(annotations, batch_size=30, seed=0))).values()) == {2, 3}


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_step_holds_the_same_samples_on_any_number_of_processes(annotations: Annotations, world_size: int) -> None:
    alone = list(TrainSampler(annotations, batch_size=4, seed=0))
    parts = [
        list(TrainSampler(annotations, batch_size=4, seed=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    local = 4 // world_size
    for step in range(3):
        together = [sample for part in parts for sample in part[step * local : (step + 1) * local]]
        assert sorted(together) == sorted(alone[step * 4 : (step + 1) * 4])


@pytest.mark.parametrize("rank", [0, 1])
def test_resuming_inside_an_epoch_goes_on_with_the_same_samples(annotations: Annotations, rank: int) -> None:
    sampler = TrainSampler(annotations, batch_size=4, seed=0, rank=rank, world_size=2)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, start_step=2)
    assert list(sampler) == whole[4:]
    assert len(sampler) == 2


def test_images_without_objects_are_left_out(many: dict[str, Any], write: Write) -> None:
    many["annotations"][0]["iscrowd"] = 1
    del many["annotations"][1]
    many["annotations"][1].update(bbox=[10, 5, 0.5, 20], area=10)
    with pytest.warns(UserWarning, match="less than one pixel"):
        annotations = read_dataset(write(many))
    assert images(list(TrainSampler(annotations, batch_size=1, seed=0))) == Counter(range(3, 12))
    everything = TrainSampler(annotations, batch_size=1, seed=0, filter_empty=False)
    assert images(list(everything)) == Counter(range(12))


def test_no_image_left(raw: dict[str, Any], write: Write) -> None:
    for annotation in raw["annotations"]:
        annotation["iscrowd"] = 1
    annotations = read_dataset(write(raw))
    message = r"(?s)set\.json: no image has an object to learn from .*3 of 3 annotations are crowd regions"
    with pytest.raises(ValueError, match=message):
        TrainSampler(annotations, batch_size=1, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size must be a positive multiple of the number of processes .* data.batch_size"),
        ({"batch_size": 3, "world_size": 2}, r"processes \(2\), got 3"),
        ({"batch_size": 2, "rank": 1}, r"rank must lie in 0 \.\. 0, got 1"),
        ({"batch_size": 2, "seed": -1}, "seed must be 0 or more"),
        ({"batch_size": 2, "repeat_threshold": -0.1}, "share of the images"),
    ],
)
def test_wrong_settings(annotations: Annotations, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSampler(annotations, **{"seed": 0, **arguments})


def test_wrong_position(annotations: Annotations) -> None:
    sampler = TrainSampler(annotations, batch_size=4, seed=0)
    with pytest.raises(ValueError, match=r"a step in 0 \.\. 3, got epoch 0 and step 4"):
        sampler.set_epoch(0, start_step=4)


def test_testing_shows_every_image_once_over_all_processes() -> None:
    parts = [[i for i, _ in EvaluationSampler(7, rank=rank, world_size=3)] for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(EvaluationSampler(7, rank=rank, world_size=3)) for rank in range(3)] == [3, 2, 2]
