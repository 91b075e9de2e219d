"""From annotations to batches."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.data.images import read_turned
from tailseg.data.sampler import EvaluationSampler, Sample, TrainSampler
from tailseg.data.transforms import TransformSample, frame_of, make_sample
from tailseg.data.workers import Workers
from tailseg.structures import Batch, Frame, ImageInfo, Segmentation, Target

Item = tuple[Tensor, Target, ImageInfo]
"""An image, uint8 RGB ``[3, h, w]``, its target and its origin."""

MOST_REPLACEMENTS = 8
"""Spare images that are tried for one that cannot be used; when none of them can be either, the folder is gone."""

Transform = Callable[[TransformSample], TransformSample]
"""Any chain of torchvision.transforms.v2 that resizes, flips, crops, pads or changes colors."""


class DetectionDataset(Dataset[Item]):
    """Images with their targets, after a transform whose randomness depends on the sample's seed alone.

    Objects below one pixel in width or height (in the file, as in mmdetection, or after a crop) are left out.

    Args:
        annotations: of `read_dataset`.
        transform: takes and returns a sample as described in `tailseg.data.transforms`.
        look: whether to look for the first image here.

    Raises:
        ImageError: the first image is not to be found: the folder is most likely wrong.
    """

    def __init__(self, annotations: Annotations, transform: Transform, *, look: bool = True) -> None:
        if look:
            annotations.get_info(0)
        self.annotations = annotations
        self.transform = transform

    def __len__(self) -> int:
        return self.annotations.num_images

    def __getitem__(self, sample: Sample) -> Item:
        """Image ``index`` augmented with random seed ``seed``, for ``sample = (index, seed)``.

        Raises:
            ImageError: the image is missing, unreadable, or not of the annotated size; names the file.
            ValueError: the transform rotates or shears, or drops boxes.
        """
        index, seed = sample
        info = self.annotations.get_info(index)
        record = self.annotations.get_record(index)
        boxes = torch.from_numpy(record.boxes)
        pixels, exif = read_turned(info)
        with seeded(seed):
            moved = self.transform(make_sample(pixels, boxes, torch.from_numpy(record.ignore_boxes)))
        image = moved["image"].as_subclass(Tensor)
        height, width = image.shape[-2:]
        if len(moved["boxes"]) != len(boxes):
            raise ValueError(
                f"a transform must keep all boxes, got {len(moved['boxes'])} of {len(boxes)}: leave out "
                "SanitizeBoundingBoxes, boxes outside the image are dropped afterwards"
            )
        clipped = _clip(moved["boxes"].as_subclass(Tensor), height, width)
        ignored = _clip(moved["ignore"].as_subclass(Tensor), height, width)
        kept = (_large_enough(boxes) & _large_enough(clipped)).nonzero()[:, 0]
        target = Target(
            boxes=clipped[kept],
            labels=torch.from_numpy(record.labels)[kept],
            masks=tuple(record.segmentations[i] for i in kept.tolist()),
            frame=frame_of(moved["frame"].as_subclass(Tensor), info.height, info.width),
            ignore_boxes=ignored[_large_enough(ignored)],
            seed=seed ^ 1,  # other numbers than those of the augmentation
        )
        return image, target, info if exif == 1 else replace(info, exif=exif)


def _clip(boxes: Tensor, height: int, width: int) -> Tensor:
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def _large_enough(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Within, torch's default generator of the CPU (the one that transforms draw from) starts at ``seed``.

    Not ``torch.manual_seed``: that would also set the generators of every accelerator, which belong to the model.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Loader:
    """Batches in the order of a sampler, made ahead by worker processes.

    Workers are forked on Linux, so that they share the annotations' arrays instead of copying them: their memory does
    not grow with the data set. They use one thread each and never draw from the main process's random generators. One
    that dies is replaced by another with the same data, see `tailseg.data.workers`.

    Args:
        dataset: what the samples index.
        sampler: yields samples; iterated in the main process, from its start for each pass.
        batch_size: images a batch on this process.
        workers: processes; 0 makes the batches in the main process.
        spares: images that replace those that cannot be used; with none of them such an image is an error.
        leave_out: an image that cannot be used is missing in its batch, which may then be empty, instead of an error.

    Raises:
        ValueError: a batch size below 1 or a negative number of workers.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        sampler: Sampler[Sample],
        batch_size: int,
        workers: int,
        *,
        spares: Sequence[int] | np.ndarray = (),
        leave_out: bool = False,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise ValueError(f"expected a batch of 1 or more and 0 or more workers, got {batch_size} and {workers}")
        self.sampler = sampler
        self._batches = BatchSampler(sampler, batch_size, drop_last=False)  # ty: ignore[invalid-argument-type]
        self._make = _Batches(dataset, spares, leave_out=leave_out)
        self._workers = Workers(self._make, workers) if workers else None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(
        self, *, say: Callable[[str], None] = lambda _line: None, check: Callable[[], None] = lambda: None
    ) -> Iterator[Batch]:
        """The batches.

        Args:
            say: called with a line when a worker died and another one took its place.
            check: called about once a second while a worker is waited for; may raise to end the wait.

        Raises:
            ImageError: an image cannot be used and nothing replaces it; names the file, also when a worker met it.
            WorkerError: a worker died, and so did the one in its place, over the same batch.
        """
        batches = cast("Iterable[Sequence[Sample]]", self._batches)
        for made in self._workers.map(batches, say=say, check=check) if self._workers else map(self._make, batches):
            if isinstance(made, Exception):
                raise made
            images, targets, infos, unusable = made
            yield Batch(images, tuple(_unpacked(target) for target in targets), infos, unusable)


def train_loader(dataset: DetectionDataset, sampler: TrainSampler, batch_size: int, workers: int) -> Loader:
    """Batches of ``batch_size`` images on this process, in the sampler's order; see `Loader`.

    An image that cannot be used is replaced by another one that the sampler draws from, and named in the batch.
    """
    return Loader(dataset, sampler, batch_size, workers, spares=sampler.images)


def evaluation_loader(
    dataset: DetectionDataset,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    leave_out: bool = False,
) -> Loader:
    """Every image once, in order, on process ``rank`` every ``world_size``-th batch; see `Loader`."""
    sampler = EvaluationSampler(len(dataset), batch_size=batch_size, rank=rank, world_size=world_size)
    return Loader(dataset, sampler, batch_size, workers, leave_out=leave_out)


class _Batches:
    """Makes a batch of its samples, or hands over what a user can correct: the error as a value, without a stack trace.

    Replaces an image that cannot be used by a spare one, and says why. The sample's seed chooses it, so that a resumed
    run sees the same one.
    """

    def __init__(self, dataset: DetectionDataset, spares: Sequence[int] | np.ndarray, *, leave_out: bool) -> None:
        self.dataset, self.spares, self.leave_out = dataset, spares, leave_out

    def __call__(self, samples: Sequence[Sample]) -> "_Made | Exception":
        items: list[Item] = []
        unusable: list[str] = []
        for sample in samples:
            item, reasons = self._item(*sample)
            if not isinstance(item, Exception):
                items.append(item)
            elif not (self.leave_out and isinstance(item, ImageError)):
                return item
            unusable += reasons
        return (
            tuple(image for image, _, _ in items),
            tuple(_packed(target) for _, target, _ in items),
            tuple(info for _, _, info in items),
            tuple(unusable),
        )

    def _item(self, index: int, seed: int) -> tuple[Item | Exception, list[str]]:
        """The image or a spare one, or the first one's error; and what was wrong with those that were not taken."""
        errors: list[ImageError] = []
        for each in self._tries(index, seed):
            try:
                return self.dataset[each, seed], [str(error) for error in errors]
            except ImageError as error:
                errors.append(error.with_traceback(None))
            except ValueError as error:
                return error.with_traceback(None), []
        return errors[0], [str(errors[0])]

    def _tries(self, index: int, seed: int) -> Iterator[int]:
        """The image, and then the spare ones, which are drawn when they are asked for: hardly ever."""
        yield index
        if len(self.spares):
            yield from np.random.default_rng(seed).choice(self.spares, MOST_REPLACEMENTS).tolist()


_Packed = tuple[np.ndarray, np.ndarray, tuple[Segmentation, ...], Frame, np.ndarray, int | None]
_Made = tuple[tuple[Tensor, ...], tuple[_Packed, ...], tuple[ImageInfo, ...], tuple[str, ...]]
"""What travels to the main process: every tensor takes a shared memory file, so only images stay tensors."""


def _packed(target: Target) -> _Packed:
    boxes, labels, ignore = target.boxes.numpy(), target.labels.numpy(), target.ignore_boxes.numpy()
    return boxes, labels, target.masks, target.frame, ignore, target.seed


def _unpacked(packed: _Packed) -> Target:
    boxes, labels, masks, frame, ignore, seed = packed
    return Target(torch.from_numpy(boxes), torch.from_numpy(labels), masks, frame, torch.from_numpy(ignore), seed)
