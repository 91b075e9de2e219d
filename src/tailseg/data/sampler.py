"""Samplers: the order of the images, and the random seed of each augmentation."""

from collections.abc import Iterator

import numpy as np
import torch.utils.data

from tailseg.annotations.dataset import Annotations
from tailseg.data.epoch_plan import Rounding, plan_epoch
from tailseg.data.settings import RepeatThreshold, Sampling

Sample = tuple[int, int]
"""Position of an image in the data set, and the seed of its augmentation."""


class TrainSampler(torch.utils.data.Sampler[Sample]):
    """Shuffled images of an epoch, some of them repeated; yields this process's samples, step by step.

    Step ``s`` takes the samples ``s * batch_size ... (s + 1) * batch_size - 1`` of the epoch's order; of P processes,
    process p takes every P-th of them, from the p-th on. So the images of a step do not depend on the number of
    processes, and the seed of a sample does not depend on the number of loader workers. Every epoch has
    ``steps_per_epoch`` full steps: if the last step is not full, it takes images from the epoch's beginning.

    Args:
        annotations: the training set.
        batch_size: images per step, over all processes.
        seed: the seed of the order and of the augmentation.
        sampling: which images are drawn more often, see `tailseg.data.epoch_plan.plan_epoch`.
        repeat_threshold: t of the repeat factors, or ``auto``; 0 repeats no image.
        repeat_exponent: exponent of the sampling; None is the published one.
        rounding: of the repeat factors, see `tailseg.data.repeat_factor.repeat_indices`; ``stochastic`` is drawn again
            for each epoch.
        rank: this process, ``0 .. world_size-1``.
        world_size: number of processes.
        filter_empty: leave out images without an object to learn from.

    Raises:
        ValueError: the batch cannot be shared equally by the processes, or no image is left.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        batch_size: int,
        seed: int,
        sampling: Sampling = "repeat",
        repeat_threshold: RepeatThreshold = 0.0,
        repeat_exponent: float | None = None,
        rounding: Rounding = "ceil",
        rank: int = 0,
        world_size: int = 1,
        filter_empty: bool = True,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"the batch size must be a positive multiple of the number of processes ({world_size}), got "
                f"{batch_size}: change data.batch_size"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must lie in 0 .. {world_size - 1}, got {rank}")
        if seed < 0:
            raise ValueError(f"the seed must be 0 or more, got {seed}")
        self.plan = plan_epoch(
            annotations,
            sampling=sampling,
            threshold=repeat_threshold,
            exponent=repeat_exponent,
            rounding=rounding,
            filter_empty=filter_empty,
        )
        self.images = self.plan.images
        self.factors = self.plan.factors
        self.batch_size, self.seed, self.rounding = batch_size, seed, rounding
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = self.plan.count_steps(batch_size)
        self.epoch = self.start_step = 0

    def set_epoch(self, epoch: int, *, start_step: int = 0) -> None:
        """Makes the next iteration yield the samples of ``epoch`` (from 0) after its first ``start_step`` steps."""
        if epoch < 0 or not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(
                f"expected an epoch of 0 or more and a step in 0 .. {self.steps_per_epoch}, got epoch {epoch} and "
                f"step {start_step}"
            )
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.start_step) * self.batch_size // self.world_size

    def __iter__(self) -> Iterator[Sample]:
        order = self.order()
        for position in range(self.start_step * self.batch_size + self.rank, len(order), self.world_size):
            seed = np.random.SeedSequence([self.seed, self.epoch, position]).generate_state(1, np.uint64)
            yield int(order[position]), int(seed[0] >> np.uint64(1))  # torch takes seeds of 63 bits everywhere

    def order(self) -> np.ndarray:
        """The epoch's images over all processes, int64 ``[steps_per_epoch * batch_size]``."""
        return self.plan.draw(np.random.default_rng([self.seed, self.epoch]), self.batch_size)


class EvaluationSampler(torch.utils.data.Sampler[Sample]):
    """Every image once, in order; process ``rank`` takes every ``world_size``-th batch of ``batch_size`` images.

    A batch holds the same images for every number of processes: they are padded alike, and detections are equal to the
    bit.
    """

    def __init__(self, num_images: int, *, batch_size: int = 1, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank must lie in 0 .. {world_size - 1}, got {rank}")
        if batch_size < 1:
            raise ValueError(f"expected a batch of 1 or more images, got {batch_size}")
        starts = range(rank * batch_size, num_images, world_size * batch_size)
        self.images = [index for start in starts for index in range(start, min(start + batch_size, num_images))]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        return ((index, 0) for index in self.images)
