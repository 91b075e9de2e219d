"""Region features of a trained network, kept on disk: what a box head sees in training and in evaluation.

The network runs once over the training images, with their augmentation, and once over the validation images. What its
box head would get is kept: the pooled features of each region, rotated to their D principal directions. A box head that
is trained on them is trained as in the whole network, except that the layers before it are fixed.

Shapes: T regions of all views (a view is a training image with one augmentation), V views, C classes, W regions of all
validation images, M validation images, I pooled features of a region, D directions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tailseg.annotations.dataset import Annotations
from tailseg.data.loader import DetectionDataset, Loader
from tailseg.data.sampler import EvaluationSampler, Sample
from tailseg.data.transforms import evaluation_transform
from tailseg.files import write_atomically
from tailseg.models.box_head import BoxHead
from tailseg.models.detector import TwoStageDetector
from tailseg.models.precision import Precision, autocast
from tailseg.models.sampling import RoISample, sample_rois
from tailseg.recipes.recipe import Recipe
from tailseg.structures import Batch
from tailseg.training.run import build_train_dataset

MAX_BASIS_VALUES: Final = 20_000_000
"""The largest number of pooled values that the principal directions are computed from."""
FILE: Final = "regions.npz"
"""The file with all columns but the features."""
STORED: Final = np.float16
"""The type of the features on disk."""

Step = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and its total."""


@dataclass(frozen=True, eq=False)
class TrainingRegions:
    """Sampled training regions of all views, positives of each view first.

    Attributes:
        x: float16 ``[T, D]``, on disk.
        boxes: float32 ``[T, 4]``, in pixels of the resized image.
        labels: int64 ``[T]``; C is background.
        object_boxes: float32 ``[T, 4]``, the box of the object of each positive; zeros for background.
        offsets: int64 ``[V + 1]``: view v has the rows ``offsets[v] : offsets[v + 1]``.
        images: int64 ``[V]``, the position of each view's image in the training set.
        unverified: bool ``[V, C]``, the classes that are no negatives in each view; ``[0, C]`` if there are none.
    """

    x: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    object_boxes: np.ndarray
    offsets: np.ndarray
    images: np.ndarray
    unverified: np.ndarray


@dataclass(frozen=True, eq=False)
class ValidationRegions:
    """The proposals of all validation images.

    Attributes:
        x: float16 ``[W, D]``, on disk.
        boxes: float32 ``[W, 4]``, in pixels of the resized image.
        offsets: int64 ``[M + 1]``: image m has the rows ``offsets[m] : offsets[m + 1]``.
        image_ids: int64 ``[M]``.
        sizes: int64 ``[M, 2]``, height and width of the resized images.
        original_sizes: int64 ``[M, 2]``, those of the files.
    """

    x: np.ndarray
    boxes: np.ndarray
    offsets: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    original_sizes: np.ndarray


@dataclass(frozen=True, eq=False)
class Features:
    """What is kept of the network's regions.

    Attributes:
        train: the regions to learn from.
        val: the regions to detect in.
        num_inputs: I, the pooled features of a region before the rotation.
        kept: the share of the features' squared length that lies in the D directions.
    """

    train: TrainingRegions
    val: ValidationRegions
    num_inputs: int
    kept: float


def save(features: Features, folder: Path) -> None:
    """Writes everything but the features themselves, which `collect` wrote already, into ``folder/regions.npz``."""
    columns = {
        f"{part}.{name}": values
        for part, regions in (("train", features.train), ("val", features.val))
        for name, values in vars(regions).items()
        if name != "x"
    }
    with write_atomically(folder / FILE) as path, path.open("wb") as file:
        np.savez(
            file,
            directions=features.train.x.shape[1],
            num_inputs=features.num_inputs,
            kept=features.kept,
            **columns,
        )


def load(folder: Path) -> Features:
    """Opens the features that `collect` and `save` wrote; they stay on disk until they are read."""
    with np.load(folder / FILE) as stored:
        columns = {name: stored[name] for name in stored.files}
    train, val = (
        {name.removeprefix(part): values for name, values in columns.items() if name.startswith(part)}
        for part in ("train.", "val.")
    )
    directions = int(columns["directions"])
    for part, regions in (("train", train), ("val", val)):
        regions["x"] = _open(folder / f"{part}.bin", directions)
    return Features(
        TrainingRegions(**train), ValidationRegions(**val), int(columns["num_inputs"]), float(columns["kept"])
    )


class Views(torch.utils.data.Sampler[Sample]):
    """Given images in a given order, each with the seed of its augmentation."""

    def __init__(self, images: Sequence[int], seed: int) -> None:
        seeds = np.random.default_rng(seed).integers(2**62, size=len(images))
        self.samples = list(zip(images, seeds.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


class Collector:
    """Runs a network up to its box head.

    Args:
        model: a Faster R-CNN or Mask R-CNN in evaluation mode.
        recipe: of its run.
        device: of the model.
        precision: of the model's layers.
    """

    def __init__(self, model: TwoStageDetector, recipe: Recipe, device: torch.device, precision: Precision) -> None:
        self.model, self.recipe, self.device, self.precision = model, recipe, device, precision

    @property
    def head(self) -> BoxHead:
        """The box head."""
        return cast("BoxHead", self.model.box_head)

    @torch.no_grad()
    def sample_training(self, batch: Batch) -> tuple[Float[Tensor, "R I"], list[RoISample]]:
        """The pooled features of the regions that a training step would learn from, and the regions."""
        with autocast(self.device, self.precision):
            pyramid, proposals, _ = self._propose(batch, training=True)
            samples = sample_rois(proposals, batch.targets, self.model.num_classes, self.head.config)
            return self.head.pool(pyramid, [sample.boxes for sample in samples]).float(), samples

    @torch.no_grad()
    def propose(self, batch: Batch) -> tuple[Float[Tensor, "R I"], Sequence[Tensor], Sequence[tuple[int, int]]]:
        """The pooled features of all proposals, the proposals, and the sizes of the resized images."""
        with autocast(self.device, self.precision):
            pyramid, proposals, sizes = self._propose(batch, training=False)
            return self.head.pool(pyramid, proposals).float(), proposals, sizes

    def _propose(
        self, batch: Batch, *, training: bool
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[tuple[int, int]]]:
        images = self.model.batcher(batch.images)
        pyramid = self.model.fpn(self.model.backbone(images.tensors))
        self.model.rpn.train(training)  # decides the number of proposals
        proposals = self.model.rpn.proposals(self.model.rpn(pyramid), images.sizes)
        return pyramid, proposals, images.sizes


def collect(
    collector: Collector,
    train: Annotations,
    val: Annotations,
    folder: Path,
    *,
    views: int,
    directions: int,
    images: int,
    seed: int = 0,
    step: Step = lambda *_: None,
) -> Features:
    """Runs the network over the data and writes the features into a folder.

    Args:
        collector: the network.
        train: the training set.
        val: the validation set.
        folder: gets ``train.bin`` and ``val.bin``, rows of float16.
        views: augmentations of each training image.
        directions: D at most.
        images: the largest number of training images; of more, so many are drawn.
        seed: of the draws and the augmentations.
        step: called with the progress.

    Returns:
        The features.

    Raises:
        ImageError: an image cannot be used.
        ValueError: no training image has an object.
    """
    objects = train.objects
    chosen = np.unique(objects.images[objects.trainable])
    if len(chosen) > images:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, images, replace=False))
    data = collector.recipe.data
    dataset = build_train_dataset(train, data)

    def load_images(order: Sequence[int], seed: int) -> Loader:
        return Loader(dataset, Views(order, seed), data.batch_size, data.workers)

    basis, kept = compute_basis(collector, load_images, chosen, directions, seed, step)
    order = np.concatenate([chosen] * views).tolist()
    training = _collect_training(collector, load_images(order, seed + 1), order, basis, folder / "train.bin", step)
    validation = _collect_validation(collector, val, basis, folder / "val.bin", step)
    return Features(training, validation, num_inputs=len(basis), kept=kept)


def compute_basis(
    collector: Collector,
    load_images: Callable[[Sequence[int], int], Loader],
    chosen: np.ndarray,
    directions: int,
    seed: int,
    step: Step,
) -> tuple[Float[Tensor, "I D"], float]:
    """Computes the directions of the largest second moment of the pooled features, without centering them.

    Args:
        collector: the network.
        load_images: loads given images, with a seed.
        chosen: the training images.
        directions: D at most.
        seed: of the draws and the augmentation.
        step: called with the progress.

    Returns:
        Orthonormal columns ``[I, D]``, and the share of the squared length that lies in them.
    """
    order = np.random.default_rng(seed).permutation(chosen).tolist()
    rows: list[Tensor] = []
    values = 0
    for batch in load_images(order, seed):
        pooled, _ = collector.sample_training(batch.to(collector.device))
        rows.append(pooled)
        values += pooled.numel()
        step("features: directions", values, MAX_BASIS_VALUES)
        if values >= MAX_BASIS_VALUES:
            break
    sample = torch.cat(rows)
    if directions >= min(sample.shape):
        return torch.eye(sample.shape[1], device=sample.device), 1.0
    torch.manual_seed(seed)
    _, lengths, basis = torch.svd_lowrank(sample, q=directions, niter=2)
    return basis, float(lengths.square().sum() / sample.square().sum())


def _collect_training(
    collector: Collector, loader: Loader, order: Sequence[int], basis: Tensor, file: Path, step: Step
) -> TrainingRegions:
    samples: list[RoISample] = []
    with write_atomically(file) as path, path.open("wb") as written:
        for batch in loader:
            pooled, found = collector.sample_training(batch.to(collector.device))
            written.write(_to_bytes(pooled @ basis))
            samples += found
            step("features: training images", len(samples), len(order))
    boxes, labels = (torch.cat([getattr(sample, name) for sample in samples]) for name in ("boxes", "labels"))
    object_boxes = [
        torch.nn.functional.pad(sample.object_boxes, (0, 0, 0, len(sample.boxes) - sample.num_positive))
        for sample in samples
    ]
    return TrainingRegions(
        x=_open(file, basis.shape[1]),
        boxes=boxes.cpu().numpy(),
        labels=labels.cpu().numpy(),
        object_boxes=torch.cat(object_boxes).cpu().numpy(),
        offsets=np.cumsum([0, *(len(sample.boxes) for sample in samples)]),
        images=np.array(order, np.int64),
        unverified=_stack_unverified(samples, collector.model.num_classes),
    )


def _stack_unverified(samples: Sequence[RoISample], num_classes: int) -> np.ndarray:
    if all(sample.unverified is None for sample in samples):
        return np.zeros((0, num_classes), bool)
    none = torch.zeros(num_classes, dtype=torch.bool)
    return np.stack([none if sample.unverified is None else sample.unverified.cpu() for sample in samples])


def _collect_validation(
    collector: Collector, val: Annotations, basis: Tensor, file: Path, step: Step
) -> ValidationRegions:
    data = collector.recipe.data
    dataset = DetectionDataset(val, evaluation_transform(data.test_short_side, data.max_long_side))
    boxes: list[Tensor] = []
    image_ids, sizes, original_sizes = [], [], []
    with write_atomically(file) as path, path.open("wb") as written:
        for batch in Loader(dataset, EvaluationSampler(len(dataset)), data.batch_size, data.workers):
            pooled, proposals, image_sizes = collector.propose(batch.to(collector.device))
            written.write(_to_bytes(pooled @ basis))
            boxes += proposals
            sizes += image_sizes
            image_ids += [info.image_id for info in batch.infos]
            original_sizes += [(info.height, info.width) for info in batch.infos]
            step("features: validation images", len(image_ids), len(dataset))
    return ValidationRegions(
        x=_open(file, basis.shape[1]),
        boxes=torch.cat(boxes).cpu().numpy(),
        offsets=np.cumsum([0, *map(len, boxes)]),
        image_ids=np.array(image_ids, np.int64),
        sizes=np.array(sizes, np.int64),
        original_sizes=np.array(original_sizes, np.int64),
    )


def _to_bytes(x: Tensor) -> bytes:
    return x.cpu().numpy().astype(STORED).tobytes()


def _open(file: Path, directions: int) -> np.ndarray:
    return np.memmap(file, STORED, mode="r").reshape(-1, directions)
