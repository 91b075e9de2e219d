"""From annotations to batches."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler
from torchvision.transforms import v2

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.data.images import read_annotated
from tailseg.data.kept_maps import KeptMaps
from tailseg.data.paste import CopyPaste, Scene, widen
from tailseg.data.sampler import EvaluationSampler, Sample, TrainSampler
from tailseg.data.transforms import Transform, apply_transform, compute_frame, make_sample
from tailseg.data.verified import find_unverified
from tailseg.data.workers import Workers
from tailseg.ops.masks import mask_area, mask_box, rasterize
from tailseg.structures import Batch, Frame, ImageInfo, ImageMaps, Segmentation, Target

Item = tuple[Tensor | ImageMaps, Target, ImageInfo]
"""An image, uint8 RGB ``[3, h, w]``, or its kept maps; its target and its origin."""

MAX_REPLACEMENTS = 8
"""The number of other images that are tried in place of an unusable one. If all of them fail, the folder is missing."""


class DetectionDataset(Dataset[Item]):
    """Images with their targets, after a transform whose randomness depends on the sample's seed alone.

    Objects below one pixel in width or height (in the file, as in mmdetection, or after a crop) are left out. So are
    objects that a crop leaves without a pixel of their mask, as in detectron2.

    Args:
        annotations: of `read_dataset`.
        transform: takes and returns an image and a target, see `tailseg.data.transforms`.
        look: whether to look for the first image at once.
        paste: pastes objects into the transformed image; None pastes none.
        color: changes the colors of the image, after all other steps; None changes none.
        only_verified: targets say which classes are no negatives in their image (`Target.unverified`); without effect
            on a file that does not list the classes which were looked for, as LVIS does.
        tight_boxes: the box of an object that the transform has cut shrinks to the pixels that are left of its mask.
            The published recipes with large-scale jitter do so, those with a plain crop do not.
        maps: read instead of the images; the transform then resizes and flips, and does nothing else.

    Raises:
        ImageError: the first image cannot be found; the folder is most likely wrong.
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: Transform,
        *,
        look: bool = True,
        paste: CopyPaste | None = None,
        color: v2.Transform | None = None,
        only_verified: bool = False,
        tight_boxes: bool = False,
        maps: KeptMaps | None = None,
    ) -> None:
        if look:
            annotations.get_info(0)
        self.annotations = annotations
        self.transform = transform
        self.paste, self.color = paste, color
        self.maps = maps
        self.tight_boxes = tight_boxes
        self.only_verified = only_verified and annotations.format == "lvis"
        self.category_ids = np.array([category.id for category in annotations.categories], np.int64)

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
        if self.maps is None:
            pixels, exif = read_annotated(self.annotations, info)
        else:  # the transform needs the size of the image alone
            pixels, exif = torch.zeros(3, 1, 1, dtype=torch.uint8), self.maps.get_exif(index)
            pixels = pixels.expand(3, info.height, info.width)
        target = make_sample(pixels, boxes, torch.from_numpy(record.ignore_boxes))
        with seeded(seed):
            moved_image, moved = apply_transform(self.transform, target.pop("image"), target)
            image = moved_image.as_subclass(Tensor)
            height, width = image.shape[-2:]
            clipped = _clip(moved["boxes"].as_subclass(Tensor), height, width)
            ignored = _clip(moved["ignore"].as_subclass(Tensor), height, width)
            frame = compute_frame(moved["frame"].as_subclass(Tensor), info.height, info.width)
            rows = (_large_enough(boxes) & _large_enough(clipped)).nonzero()[:, 0]
            cut = (moved["boxes"].as_subclass(Tensor) != clipped).any(dim=1).numpy()
            for i in (i for i in rows.tolist() if cut[i]):
                visible = _find_visible(record.segmentations[i], frame, image, clipped[i])
                if visible is None:
                    clipped[i] = 0
                elif self.tight_boxes:
                    clipped[i] = visible
            rows = rows[_large_enough(clipped[rows])]
            truth = Target(
                boxes=clipped[rows],
                labels=torch.from_numpy(record.labels)[rows],
                masks=tuple(record.segmentations[i] for i in rows.tolist()),
                frame=frame,
                ignore_boxes=ignored[_large_enough(ignored)],
                seed=seed ^ 1,  # other numbers than those of the augmentation
                unverified=self._find_unverified(index) if self.only_verified else None,
            )
            if self.paste is not None:
                image, truth = _paste(self.paste, _own_pixels(image, pixels), truth)
            if self.color is not None:
                image = self.color(image)
        info = info if exif == 1 else replace(info, exif=exif)
        if self.maps is None:
            return image, truth, info
        return self.maps.read(index, (height, width), mirrored=frame.scale_x < 0), truth, info

    def _find_unverified(self, index: int) -> Tensor:
        return torch.from_numpy(find_unverified(self.annotations, index, self.category_ids))


def _own_pixels(image: Tensor, source: Tensor) -> Tensor:
    """The image with pixels that may be changed: a transform may return a part of what it got."""
    shares = image.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    return image.clone() if shares or 0 in image.stride() else image


def _paste(paste: CopyPaste, image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Pastes objects into the image and returns it with its new target."""
    frames = (target.frame,) * len(target)
    boxes, labels, ignored = target.boxes.numpy(), target.labels.numpy(), target.ignore_boxes.numpy()
    scene = Scene(image, boxes, labels, target.masks, frames, ignored)
    pasted = paste(scene)
    if pasted is scene:
        return image, target
    rows = _find_large(pasted.boxes)
    return pasted.image, replace(
        target,
        boxes=torch.from_numpy(pasted.boxes[rows]),
        labels=torch.from_numpy(pasted.labels[rows]),
        masks=tuple(pasted.masks[i] for i in rows.tolist()),
        frames=tuple(pasted.frames[i] for i in rows.tolist()),
        ignore_boxes=torch.from_numpy(pasted.ignore_boxes[_find_large(pasted.ignore_boxes)]),
    )


def _find_large(boxes: np.ndarray) -> np.ndarray:
    """The positions of the boxes that are at least one pixel wide and high."""
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))


def _clip(boxes: Tensor, height: int, width: int) -> Tensor:
    limit = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def _large_enough(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)


def _find_visible(mask: Segmentation, frame: Frame, image: Tensor, box: Tensor) -> Tensor | None:
    """The part of a cropped box around the pixels of the mask; None without a pixel, such as in the hole of a ring."""
    if mask == ():
        return box
    (left, top), (right, bottom) = box[:2].floor().int().tolist(), box[2:].ceil().int().tolist()
    part = widen((left, top, right, bottom), image.shape[-2:])
    pixels = rasterize(mask, frame, part)
    if mask_area(pixels) == 0:
        return None
    extents = torch.tensor(mask_box(pixels)) + torch.tensor(part[:2] * 2)
    return torch.cat([torch.maximum(box[:2], extents[:2]), torch.minimum(box[2:], extents[2:])])


@contextmanager
def seeded(seed: int) -> Generator[None, None, None]:
    """Seeds torch's default generator of the CPU, which transforms draw from, for the time of the context.

    ``torch.manual_seed`` would also seed the generators of all accelerators, which belong to the model.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Loader:
    """Batches in the order of a sampler, prepared by worker processes.

    Workers are forked on Linux. They share the arrays of the annotations, and their memory does not grow with the data
    set. Each uses one thread, and none draws from the random generators of the main process. A worker that dies is
    replaced by another one with the same data, see `tailseg.data.workers`.

    Args:
        dataset: the data set.
        sampler: yields the samples; each pass iterates over it from its start, in the main process.
        batch_size: images per batch in this process.
        workers: the number of worker processes; 0 makes the batches in the main process.
        spares: images that replace unusable images; without them an unusable image is an error.
        leave_out: leave out unusable images, so that a batch may be empty; if False they are errors.
        clean: the same images with less augmentation, for passes that want them; None has no others.

    Raises:
        ValueError: a batch size below 1 or a negative number of workers.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        sampler: Sampler[Sample] | Sequence[Sample],
        batch_size: int,
        workers: int,
        *,
        spares: Sequence[int] | np.ndarray = (),
        leave_out: bool = False,
        clean: DetectionDataset | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise ValueError(f"expected a batch of 1 or more and 0 or more workers, got {batch_size} and {workers}")
        self.sampler = sampler
        self._batches = BatchSampler(sampler, batch_size, drop_last=False)  # ty: ignore[invalid-argument-type]
        self._make = _Batches(dataset, clean or dataset, spares, leave_out=leave_out)
        self._workers = Workers(self._make, workers) if workers else None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(
        self,
        *,
        say: Callable[[str], None] = lambda _line: None,
        check: Callable[[], None] = lambda: None,
        clean: bool = False,
    ) -> Iterator[Batch]:
        """Iterates over the batches.

        Args:
            say: called with a line when a worker died and was replaced.
            check: called about once a second while the loader waits for a worker; may raise to end the wait.
            clean: take the images with less augmentation, if the loader has them.

        Raises:
            ImageError: an image cannot be used and nothing replaces it; names the file.
            WorkerError: a worker died, and so did its replacement, over the same batch.
        """
        batches = cast("Iterable[Sequence[Sample]]", self._batches)
        tasks = ((samples, clean) for samples in batches)
        for result in self._workers.map(tasks, say=say, check=check) if self._workers else map(self._make, tasks):
            if isinstance(result, Exception):
                raise result
            images, targets, infos, unusable = result
            yield Batch(images, tuple(_unpack(target) for target in targets), infos, unusable)


def train_loader(
    dataset: DetectionDataset,
    sampler: TrainSampler,
    batch_size: int,
    workers: int,
    *,
    clean: DetectionDataset | None = None,
) -> Loader:
    """Builds the loader of the training images. It replaces an unusable image by another one and names it in the batch.

    Args:
        dataset: the training set.
        sampler: the order of its images; it also gives the spare images.
        batch_size: images per batch in this process.
        workers: the number of worker processes; 0 makes the batches in the main process.
        clean: the training set with less augmentation, for the last epochs; None has no such epochs.

    Returns:
        The batches of this process in the order of the sampler.
    """
    return Loader(dataset, sampler, batch_size, workers, spares=sampler.images, clean=clean)


def evaluation_loader(
    dataset: DetectionDataset,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    leave_out: bool = False,
) -> Loader:
    """The loader of an evaluation: every image once, in order.

    Args:
        dataset: the data set.
        batch_size: images a batch.
        workers: processes; 0 makes the batches in the main process.
        rank: this process.
        world_size: number of processes; each gets every ``world_size``-th batch.
        leave_out: leave out images that cannot be used; else they are errors.

    Returns:
        The batches of this process.
    """
    sampler = EvaluationSampler(len(dataset), batch_size=batch_size, rank=rank, world_size=world_size)
    return Loader(dataset, sampler, batch_size, workers, leave_out=leave_out)


class _Batches:
    """Makes a batch of its samples. An error that a user can correct is returned as a value, without a stack trace.

    An image that cannot be used is replaced by a spare one, with the reason. The seed of the sample chooses it: a
    resumed run sees the same one.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        clean: DetectionDataset,
        spares: Sequence[int] | np.ndarray,
        *,
        leave_out: bool,
    ) -> None:
        self.dataset, self.clean, self.spares, self.leave_out = dataset, clean, spares, leave_out

    def __call__(self, task: tuple[Sequence[Sample], bool]) -> "_Made | Exception":
        samples, clean = task
        items: list[Item] = []
        unusable: list[str] = []
        for sample in samples:
            item, reasons = self._item(*sample, self.clean if clean else self.dataset)
            if not isinstance(item, Exception):
                items.append(item)
            elif not (self.leave_out and isinstance(item, ImageError)):
                return item
            unusable += reasons
        return (
            cast("tuple[Tensor, ...]", tuple(image for image, _, _ in items)),
            tuple(_pack(target) for _, target, _ in items),
            tuple(info for _, _, info in items),
            tuple(unusable),
        )

    def _item(self, index: int, seed: int, dataset: DetectionDataset) -> tuple[Item | Exception, list[str]]:
        """The image or a spare one, or the error of the image; and the reasons of those that cannot be used."""
        errors: list[ImageError] = []
        for candidate in self._candidates(index, seed):
            try:
                return dataset[candidate, seed], [str(error) for error in errors]
            except ImageError as error:
                errors.append(error.with_traceback(None))
            except ValueError as error:
                return error.with_traceback(None), []
        return errors[0], [str(errors[0])]

    def _candidates(self, index: int, seed: int) -> Iterator[int]:
        """The image, then the spare ones, which are drawn only when they are needed."""
        yield index
        if len(self.spares):
            yield from np.random.default_rng(seed).choice(self.spares, MAX_REPLACEMENTS).tolist()


_Packed = tuple[
    np.ndarray,
    np.ndarray,
    tuple[Segmentation, ...],
    Frame,
    np.ndarray,
    int | None,
    tuple[Frame, ...] | None,
    np.ndarray | None,
]
_Made = tuple[tuple[Tensor, ...] | tuple[ImageMaps, ...], tuple[_Packed, ...], tuple[ImageInfo, ...], tuple[str, ...]]
"""What a worker sends to the main process. Every tensor needs a shared memory file, so only images stay tensors."""


def _pack(target: Target) -> _Packed:
    boxes, labels, ignore = target.boxes.numpy(), target.labels.numpy(), target.ignore_boxes.numpy()
    unverified = None if target.unverified is None else target.unverified.numpy()
    return boxes, labels, target.masks, target.frame, ignore, target.seed, target.frames, unverified


def _unpack(packed: _Packed) -> Target:
    boxes, labels, masks, frame, ignore, seed, frames, unverified = packed
    return Target(
        torch.from_numpy(boxes),
        torch.from_numpy(labels),
        masks,
        frame,
        torch.from_numpy(ignore),
        seed,
        frames,
        None if unverified is None else torch.from_numpy(unverified),
    )
