"""From annotations to batches: the same samples however they are loaded, errors that name files, memory."""

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torchvision.transforms import v2

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.ragged import Ragged
from tailseg.annotations.read import read_dataset
from tailseg.data.loader import DetectionDataset, Loader, evaluation_loader, train_loader
from tailseg.data.sampler import EvaluationSampler, TrainSampler
from tailseg.data.transforms import evaluation_transform, train_transform
from tailseg.ops.masks import mask_targets
from tailseg.structures import Batch

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Workers are forked: OpenMP's threads do not survive a fork."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def annotations(many: dict[str, Any], write: Write) -> Annotations:
    """Twelve pictures of 48 x 36 with a bright square in 10..30, 5..25."""
    return read_dataset(write(many, images=True))


def same(one: Batch, other: Batch) -> bool:
    if one.infos != other.infos or not all(map(torch.equal, one.images, other.images)):
        return False
    return all(
        torch.equal(a.boxes, b.boxes)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.ignore_boxes, b.ignore_boxes)
        and a.frame == b.frame
        and all(np.array_equal(p, q) for m, n in zip(a.masks, b.masks, strict=True) for p, q in zip(m, n, strict=True))
        for a, b in zip(one.targets, other.targets, strict=True)
    )


def test_a_sample_without_augmentation_is_the_file(annotations: Annotations) -> None:
    dataset = DetectionDataset(annotations, v2.Identity())
    image, target, info = dataset[4, 0]
    assert image.shape == (3, 36, 48)
    assert image.dtype == torch.uint8
    assert type(image) is torch.Tensor
    assert type(target.boxes) is torch.Tensor
    assert target.boxes.tolist() == [[10, 5, 30, 25]]
    assert target.labels.tolist() == [1]
    assert (target.frame.scale_x, target.frame.shift_x) == (1, 0)
    assert (info.image_id, info.height, info.width) == (4, 36, 48)
    assert len(dataset) == 12


def test_a_sample_depends_on_its_seed_alone(annotations: Annotations) -> None:
    dataset = DetectionDataset(annotations, train_transform([30, 40, 50], 100, 0.5))
    torch.manual_seed(1)
    first = [dataset[0, seed] for seed in range(8)]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = [dataset[0, seed] for seed in range(8)]
    for (image, target, _), (again, target_again, _) in zip(first, second, strict=True):
        assert torch.equal(image, again)
        assert target.frame == target_again.frame
    assert len({(image.shape, target.frame.scale_x > 0) for image, target, _ in first}) > 3
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left as it was"


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(annotations: Annotations, workers: int) -> None:
    dataset = DetectionDataset(annotations, train_transform([30, 40, 50], 100, 0.5))
    sampler = TrainSampler(annotations, batch_size=4, seed=5, repeat_threshold=0.75)
    alone, parallel = train_loader(dataset, sampler, 4, 0), train_loader(dataset, sampler, 4, workers)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        expected, got = list(alone), list(parallel)
        assert len(expected) == len(alone) == 4
        assert all(same(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_inside_an_epoch_gives_the_same_batches(annotations: Annotations, workers: int) -> None:
    dataset = DetectionDataset(annotations, train_transform([30, 40, 50], 100, 0.5))
    sampler = TrainSampler(annotations, batch_size=2, seed=5)
    loader = train_loader(dataset, sampler, 2, workers)
    sampler.set_epoch(1)
    whole = list(loader)
    for _ in loader:  # left in the middle, as by an interruption
        break
    sampler.set_epoch(1, start_step=4)
    assert len(loader) == 2
    assert all(same(a, b) for a, b in zip(whole[4:], list(loader), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_main_process_generators(annotations: Annotations, workers: int) -> None:
    dataset = DetectionDataset(annotations, train_transform([30, 40], 100, 0.5))
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is what is watched
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    list(train_loader(dataset, TrainSampler(annotations, batch_size=4, seed=0), 4, workers))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_testing_covers_every_image_once_in_order(annotations: Annotations, workers: int) -> None:
    dataset = DetectionDataset(annotations, evaluation_transform(40, 100))
    loader = evaluation_loader(dataset, 5, workers)
    assert [[info.image_id for info in batch.infos] for batch in loader] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert [info.image_id for batch in evaluation_loader(dataset, 5, 0, 1, 2) for info in batch.infos] == [
        5,
        6,
        7,
        8,
        9,
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_masks_follow_the_image_through_flip_resize_and_crop(
    kind: str, seed: int, many: dict[str, Any], write: Write
) -> None:
    """The object is exactly the bright square, so its mask target is full, and its box bounds the bright pixels."""
    if kind == "run lengths":
        bitmap = np.zeros((48, 36), dtype=int)
        bitmap[10:30, 5:25] = 1  # column by column
        changes = np.flatnonzero(np.diff(bitmap.ravel(), prepend=0))
        counts = np.diff([0, *changes, bitmap.size]).tolist()
        for annotation in many["annotations"]:
            annotation["segmentation"] = {"size": [36, 48], "counts": counts}
    annotations = read_dataset(write(many, images=True))
    crop = v2.Compose([train_transform([60, 72, 90], 200, 0.5), v2.RandomCrop((50, 60))])
    image, target, _ = DetectionDataset(annotations, crop)[0, seed]
    assert len(target) == 1
    rows, columns = np.nonzero(image.float().mean(dim=0).numpy() > 120)
    bright = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(target.boxes[0].numpy(), bright, atol=1)  # edges fall between pixels
    assert mask_targets(target.masks, target.frame, target.boxes, size=28).mean() > 0.99


def test_objects_that_a_crop_leaves_outside_are_dropped(many: dict[str, Any], write: Write) -> None:
    far = {
        **copy.deepcopy(many["annotations"][0]),
        "id": 100,
        "bbox": [40, 28, 8, 8],
        "area": 32,
        "segmentation": [[40, 28, 48, 28, 44, 36]],
    }
    crowd = {**copy.deepcopy(far), "id": 101, "iscrowd": 1}
    many["annotations"] += [far, crowd]
    annotations = read_dataset(write(many, images=True))
    whole = DetectionDataset(annotations, v2.Identity())[0, 0][1]
    assert len(whole) == 2
    assert whole.ignore_boxes.tolist() == [[40, 28, 48, 36]]
    cropped = DetectionDataset(annotations, v2.CenterCrop((16, 20)))[0, 0][1]  # x 14..34, y 10..26
    assert cropped.boxes.tolist() == [[0, 0, 16, 15]]
    assert cropped.labels.tolist() == [0]
    assert len(cropped.ignore_boxes) == 0


def test_objects_without_a_pixel_of_mask_in_a_crop_are_dropped(many: dict[str, Any], write: Write) -> None:
    """Two parts, left and right of the crop: its box alone reaches into it."""
    parts = [[0, 12, 6, 12, 6, 20, 0, 20], [40, 12, 46, 12, 46, 20, 40, 20]]
    two_parts = {**many["annotations"][0], "id": 100, "bbox": [0, 12, 46, 8], "area": 96, "segmentation": parts}
    many["annotations"].append(two_parts)
    annotations = read_dataset(write(many, images=True))
    assert len(DetectionDataset(annotations, v2.Identity())[0, 0][1]) == 2
    for width, count in [(20, 1), (36, 2)]:  # x 14 .. 34 has no pixel of it, x 6 .. 42 has two columns
        assert len(DetectionDataset(annotations, v2.CenterCrop((16, width)))[0, 0][1]) == count


def test_objects_below_a_pixel_in_the_file_stay_out_when_the_image_grows(many: dict[str, Any], write: Write) -> None:
    many["annotations"][0].update(bbox=[10, 5, 0.5, 20], area=10)
    with pytest.warns(UserWarning, match="1 object is less than one pixel"):
        annotations = read_dataset(write(many, images=True))
    dataset = DetectionDataset(annotations, evaluation_transform(360, 480))
    assert [len(dataset[image, 0][1].boxes) for image in (0, 1)] == [0, 1]


def test_an_image_without_objects_has_an_empty_target(many: dict[str, Any], write: Write) -> None:
    del many["annotations"][0]
    _, target, _ = DetectionDataset(read_dataset(write(many, images=True)), train_transform([30], 100, 0.5))[0, 0]
    assert target.boxes.shape == (0, 4)
    assert target.labels.dtype == torch.int64
    assert target.masks == ()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["truncated", "missing", "another size"])
def test_a_bad_image_ends_loading_with_one_line_that_names_the_file(
    damage: str, workers: int, many: dict[str, Any], write: Write
) -> None:
    path = write(many, images=True).parent / "07.jpg"
    annotations = read_dataset(path.parent / "set.json")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "missing":
        path.unlink()
    else:
        annotations.sizes[7] = (36, 50)
    dataset = DetectionDataset(annotations, evaluation_transform(40, 100))
    with pytest.raises(ImageError) as caught:
        list(evaluation_loader(dataset, 4, workers))
    assert "07.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_where_that_is_asked_for(workers: int, many: dict[str, Any], write: Write) -> None:
    folder = write(many, images=True).parent
    annotations = read_dataset(folder / "set.json")
    for number in (4, 6, 7):
        (folder / f"{number:02}.jpg").write_bytes(b"")
    dataset = DetectionDataset(annotations, evaluation_transform(40, 100))
    batches = list(evaluation_loader(dataset, 2, workers, leave_out=True))
    assert [[info.image_id for info in batch.infos] for batch in batches] == [[0, 1], [2, 3], [5], [], [8, 9], [10, 11]]
    reasons = [reason for batch in batches for reason in batch.replaced]
    assert [reason.partition(".jpg")[0][-2:] for reason in reasons] == ["04", "06", "07"]


def test_wrong_image_folder_is_told_before_anything_is_loaded(many: dict[str, Any], write: Write) -> None:
    annotations = read_dataset(write(many))
    with pytest.raises(ImageError, match=r"image 00\.jpg not found\. Searched for"):
        DetectionDataset(annotations, evaluation_transform(40, 100))


def test_transforms_that_drop_boxes_or_rotate_are_refused(annotations: Annotations) -> None:
    def drop(image: torch.Tensor, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        return image, {**target, "boxes": target["boxes"][:0]}

    with pytest.raises(ValueError, match=r"must keep all boxes, got 0 of 1: leave out SanitizeBoundingBoxes"):
        DetectionDataset(annotations, drop)[0, 0]
    with pytest.raises(ValueError, match="must be a chain of"):
        DetectionDataset(annotations, v2.RandomRotation((20, 21)))[0, 0]


def test_a_transform_that_fails_is_named(annotations: Annotations) -> None:
    def fail(image: Any, target: Any) -> Any:
        raise IndexError("no such row")

    with pytest.raises(ValueError, match="the transform failed: IndexError: no such row"):
        DetectionDataset(annotations, fail)[0, 0]
    with pytest.raises(ValueError, match="return a target with boxes, frame, ignore"):
        DetectionDataset(annotations, lambda image, target: (image, {}))[0, 0]


def test_wrong_settings(annotations: Annotations) -> None:
    dataset = DetectionDataset(annotations, evaluation_transform(40, 100))
    with pytest.raises(ValueError, match="a batch of 1 or more images, got 0"):
        evaluation_loader(dataset, 0, 1)
    with pytest.raises(ValueError, match="got 1 and -1"):
        evaluation_loader(dataset, 1, -1)


class Memory(Dataset[int]):
    """Reads everything that the annotations hold, then tells the memory that this process does not share, in bytes."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def __getitem__(self, sample: int) -> int:
        for index in range(self.annotations.num_images):
            record = self.annotations.get_record(index)
            assert sum(float(polygons[0].sum()) for polygons in record.segmentations) >= 0
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and relies on fork")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_share_the_annotations(annotations: Annotations, workers: int) -> None:
    """A worker that has read 80 MB of annotations owns none of them: memory does not grow with the workers."""
    objects = annotations.objects
    per_object = 80_000_000 // 16 // len(objects) * 2  # x and y
    large = Ragged(np.ones(per_object * len(objects)), np.arange(len(objects) + 1) * per_object)
    annotations = dataclasses.replace(annotations, objects=dataclasses.replace(objects, polygons=large))

    def most(data: Annotations) -> int:
        loader = torch.utils.data.DataLoader(
            Memory(data), batch_size=None, sampler=range(workers), num_workers=workers, multiprocessing_context="fork"
        )
        return max(loader)

    small = most(dataclasses.replace(annotations, objects=objects))
    assert most(annotations) - small < 16_000_000


def test_loader_takes_any_sampler(annotations: Annotations) -> None:
    loader = Loader(DetectionDataset(annotations, evaluation_transform(40, 100)), EvaluationSampler(3), 2, 0)
    assert [len(batch) for batch in loader] == [2, 1]
