"""How often an epoch draws each training image, for every kind of sampling. This module does not import torch.

Shapes: C classes, K images that training uses. Crowd and ignore regions count nowhere.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from tailseg.annotations.dataset import Annotations, Objects
from tailseg.annotations.statistics import sort_distinct
from tailseg.data.settings import PUBLISHED_EXPONENTS, RepeatThreshold, Sampling

Rounding = Literal["ceil", "stochastic"]

MAX_REPEATS: Final = 1e6
"""The most repeats of an image. Larger factors come from a large exponent, and an epoch of them would fill the memory.
"""

MAX_DRAWS: Final = 50
"""Draws of an image in an epoch above which a note is written, if they are also a large share of the epoch."""
MAX_SHARE: Final = 0.02
"""Share of an epoch's draws that one image may have without a note."""


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The images of an epoch, and how often it draws each of them.

    Attributes:
        images: int64 ``[K]``, positions in the data set.
        factors: float64 ``[K]``, the wanted number of draws of each image.
        rounding: how the factors become whole numbers. ``ceil`` and ``stochastic`` round each image for itself, see
            `tailseg.data.repeat_factor.repeat_indices`. With ``exact`` every epoch has K draws: an image has its factor
            rounded down or up, and the mean over the epochs is the factor.
    """

    images: Int64[np.ndarray, " K"]
    factors: Float64[np.ndarray, " K"]
    rounding: Literal["ceil", "stochastic", "exact"]

    @property
    def num_draws(self) -> float:
        """Draws of an epoch before its last step is filled up; of ``stochastic``, their expectation."""
        if self.rounding == "exact":
            return float(len(self.images))
        return float(np.ceil(self.factors).sum() if self.rounding == "ceil" else self.factors.sum())

    def count_steps(self, batch_size: int) -> int:
        """Counts the full steps of an epoch: every epoch has as many."""
        return max(1, ceil(self.num_draws / batch_size))

    def draw(self, generator: np.random.Generator, batch_size: int) -> Int64[np.ndarray, " draws"]:
        """Draws the images of an epoch in random order.

        Args:
            generator: the random numbers.
            batch_size: images per step, over all processes.

        Returns:
            Positions of images, for `count_steps` full steps: cut, or filled up from the beginning.
        """
        if self.rounding == "exact":
            drawn = self.images[draw_exactly(self.factors, generator)]
        else:
            drawn = self.images[repeat_indices(self.factors, self.rounding, generator)]
        return np.resize(generator.permutation(drawn), self.count_steps(batch_size) * batch_size)

    def expect_draws(self, batch_size: int, num_images: int) -> Float64[np.ndarray, " images"]:
        """Computes how often an epoch draws each image of the data set on average, with the filling of its last step.

        Args:
            batch_size: images per step, over all processes.
            num_images: the images of the data set.

        Returns:
            The expected draws; 0 for an image that training leaves out.
        """
        draws = np.zeros(num_images)
        draws[self.images] = np.ceil(self.factors) if self.rounding == "ceil" else self.factors
        return draws * (self.count_steps(batch_size) * batch_size / self.num_draws)


def plan_epoch(
    annotations: Annotations,
    *,
    sampling: Sampling = "repeat",
    threshold: RepeatThreshold = 0.0,
    exponent: float | None = None,
    rounding: Rounding = "ceil",
    filter_empty: bool = True,
) -> EpochPlan:
    """Plans how often each image is drawn.

    With n_c the images of class c, f_c a share of the class (see `compute_class_shares`), t the threshold and e the
    exponent, image i with the classes C_i is drawn this often in an epoch:

        repeat, instance_repeat    the maximum over C_i of  max(1, (t / f_c)^e)
        exponential_repeat         proportional to the maximum over C_i of  exp(e sqrt(t / f_c))
        class_aware                proportional to the sum over C_i of  1 / n_c
        balanced                   proportional to the sum over C_i of  n_c^(1 - e) / n_c

    The last three have as many draws as images. ``class_aware`` is: draw a class, each with the same probability, then
    one of its images. ``balanced`` draws the class with a probability proportional to n_c^(1 - e), by default its
    square root. An image without objects is drawn once, or as an image of factor 1.

    Sources: ``repeat``: Gupta et al., LVIS (2019), appendix B.2. ``instance_repeat``: Yaman et al., "Instance-Aware
    Repeat Factor Sampling" (2023). ``exponential_repeat``: Ahmed et al., "Exponentially Weighted Instance-Aware Repeat
    Factor Sampling" (2025); the formula is that of the authors' code (futurians/E-IRFS), which draws with replacement
    and takes f as shares of the sums over the classes. ``class_aware``: Shen et al., "Relay Backpropagation" (2016).
    ``balanced``: square-root sampling, Mahajan et al. (2018) and Kang et al. (2020).

    Args:
        annotations: the training set.
        sampling: the kind.
        threshold: t, or ``auto``: the median of f_c.
        exponent: e; None takes the published one, 0.5, and 2 for ``exponential_repeat``.
        rounding: of ``repeat`` and ``instance_repeat``.
        filter_empty: leave out images without an object to learn from.

    Returns:
        The plan.

    Raises:
        ValueError: no image is left, the threshold is no share, or the factors are too large.
    """
    objects = annotations.objects
    trainable = np.flatnonzero(np.bincount(objects.images[objects.trainable], minlength=annotations.num_images))
    images = trainable if filter_empty else np.arange(annotations.num_images)
    if not len(images):
        notes = "".join(f"\n  {note}" for note in (*annotations.notes, *annotations.remarks))
        raise ValueError(
            f"{annotations.path}: no image has an object to learn from (crowd regions, boxes below one pixel and "
            "what was left out do not count). Annotate objects; or take crowds as objects (--data.crowds objects), "
            f"or train on background alone (filter_empty=False, --data.no-filter-empty){notes}"
        )
    exponent = PUBLISHED_EXPONENTS[sampling] if exponent is None else exponent
    if sampling in ("class_aware", "balanced"):
        strength = 1.0 if sampling == "class_aware" else exponent
        factors = _share_draws(objects, annotations.num_classes, trainable, annotations.num_images, strength)
        return EpochPlan(images, factors[images], "exact")
    shares = compute_class_shares(annotations, instances=sampling != "repeat")
    t = resolve_threshold(shares, threshold)
    if sampling == "exponential_repeat":
        # The logarithms of the factors: the factors themselves may overflow, and only their ratios count.
        logarithms = exponent * np.sqrt(divide(t, shares))
        per_image = compute_image_maximum(annotations, logarithms, least=0.0)[images]
        weights = np.exp(per_image - per_image.max())
        return EpochPlan(images, weights * (len(images) / weights.sum()), "exact")
    factors = compute_image_maximum(annotations, compute_class_factors(shares, t, exponent), least=1.0)[images]
    if factors.max() > MAX_REPEATS:
        raise ValueError(
            f"an image would be repeated {factors.max():.3g} times in an epoch: lower data.repeat_threshold or "
            "data.repeat_exponent"
        )
    return EpochPlan(images, factors, rounding)


def list_sampling_notes(annotations: Annotations, plan: EpochPlan) -> list[str]:
    """Lists a note for the user if one image takes a large part of every epoch."""
    largest = int(plan.factors.argmax())
    draws = plan.factors[largest]
    if draws <= MAX_DRAWS or draws <= MAX_SHARE * plan.num_draws:
        return []
    note = (
        f"an epoch draws image {annotations.image_ids[plan.images[largest]]} about {draws:.0f} times, of "
        f"{plan.num_draws:.0f} draws: lower data.repeat_exponent or data.repeat_threshold, or choose another "
        "data.sampling (`tailseg data show` prints what each would draw)"
    )
    return [note]


def compute_class_shares(annotations: Annotations, *, instances: bool) -> Float64[np.ndarray, " C"]:
    """Computes f_c of each class: its share of the annotated images, or the geometric mean with its share of objects.

    Args:
        annotations: the training set.
        instances: False: f_c = n_c / annotated images. True: f_c = sqrt(n_c / annotated images * objects of c / all
            objects).

    Returns:
        The shares; 0 for a class that never occurs.
    """
    counts = annotations.frequency
    if not instances:
        return counts.image_fraction
    return np.sqrt(counts.image_fraction * (counts.instance_counts / max(int(counts.instance_counts.sum()), 1)))


def resolve_threshold(shares: Float64[np.ndarray, " C"], threshold: RepeatThreshold) -> float:
    """Returns the threshold as a number: ``auto`` is the median share of the classes that occur.

    Half of the classes is then repeated, in a data set of any size. A fixed threshold reaches other classes in each
    data set: 0.001, published for LVIS, reaches no class of a data set with 500 images.

    Raises:
        ValueError: the threshold is negative or not finite.
    """
    if threshold == "auto":
        present = shares[shares > 0]
        return float(np.median(present)) if len(present) else 0.0
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"the repeat threshold must be a share of the images, 0 or more, got {threshold}")
    return float(threshold)


def compute_class_factors(
    shares: Float64[np.ndarray, " C"], threshold: float, exponent: float
) -> Float64[np.ndarray, " C"]:
    """Computes r_c = max(1, (threshold / f_c)^exponent) of each class; 1 for a class that never occurs.

    Args:
        shares: f_c, see `compute_class_shares`.
        threshold: t; a class with a larger share is not repeated.
        exponent: 0.5 is the published square root.

    Returns:
        The factors, 1 or more.
    """
    ratios = divide(threshold, shares)
    with np.errstate(over="ignore"):
        return np.maximum(1.0, np.sqrt(ratios) if exponent == 0.5 else ratios**exponent)


def divide(threshold: float, shares: Float64[np.ndarray, " C"]) -> Float64[np.ndarray, " C"]:
    """Computes t / f_c; 0 for a class that never occurs."""
    return np.divide(threshold, shares, out=np.zeros(len(shares)), where=shares > 0)


def compute_image_maximum(
    annotations: Annotations, values: Float64[np.ndarray, " C"], *, least: float
) -> Float64[np.ndarray, " images"]:
    """Finds the largest value of the classes in each image, in the file's order.

    Args:
        annotations: the data set.
        values: of each class.
        least: the value of an image without objects, and the least of all.

    Returns:
        The value of each image.
    """
    objects = annotations.objects
    largest = np.full(annotations.num_images, least)
    rows = ~objects.ignored
    np.maximum.at(largest, objects.images[rows], values[objects.labels[rows]])
    return largest


def _share_draws(
    objects: Objects, num_classes: int, trainable: Int64[np.ndarray, " T"], num_images: int, strength: float
) -> Float64[np.ndarray, " images"]:
    """Expected draws of each image when a class is drawn first, in proportion to n_c^(1 - strength), then an image."""
    rows = objects.trainable
    pairs = sort_distinct(objects.images[rows] * num_classes + objects.labels[rows])
    images, labels = pairs // num_classes, pairs % num_classes
    counts = np.bincount(labels, minlength=num_classes)
    weights = counts[labels] ** -float(strength)  # n_c^(1 - strength) / n_c
    draws = np.bincount(images, weights, minlength=num_images)
    draws *= len(trainable) / max(weights.sum(), np.finfo(float).tiny)
    empty = np.ones(num_images, bool)
    empty[trainable] = False
    draws[empty] = 1.0
    return draws


def repeat_indices(
    factors: Float64[np.ndarray, " images"], rounding: Rounding, generator: np.random.Generator
) -> Int64[np.ndarray, " samples"]:
    """Repeats the index of each image according to its factor, in order.

    Args:
        factors: r_i, at least 1.
        rounding: ``ceil`` repeats ceil(r_i) times, as published. ``stochastic`` repeats floor(r_i) times, and once more
            with probability r_i - floor(r_i) (detectron2), so that the expectation is r_i.
        generator: the random numbers of the stochastic rounding.

    Returns:
        The indices of the images, int64.
    """
    if rounding == "ceil":
        counts = np.ceil(factors)
    else:
        counts = np.floor(factors) + (generator.random(len(factors)) < factors % 1)
    return np.repeat(np.arange(len(factors)), counts.astype(np.int64))


def draw_exactly(
    factors: Float64[np.ndarray, " images"], generator: np.random.Generator
) -> Int64[np.ndarray, " samples"]:
    """Draws as many indices as there are images: systematic sampling in random order.

    Args:
        factors: expected draws of each image; their sum is the number of images.
        generator: the random numbers.

    Returns:
        Each index floor(factor) or ceil(factor) times; the expectation is the factor.
    """
    order = generator.permutation(len(factors))
    bounds = np.cumsum(factors[order])
    bounds[-1] = len(factors)  # rounding errors must not change the number of draws
    whole = np.floor(bounds + generator.random()).astype(np.int64)
    return np.repeat(order, np.diff(whole, prepend=0))


@dataclass(frozen=True, eq=False)
class Exposure:
    """How often an epoch shows each class on average.

    Attributes:
        images: float64 ``[C]``, drawn images with the class.
        objects: float64 ``[C]``, shown objects of the class.
        draws: float64 ``[images]``, draws of each image.
    """

    images: Float64[np.ndarray, " C"]
    objects: Float64[np.ndarray, " C"]
    draws: Float64[np.ndarray, " images"]


def compute_exposure(annotations: Annotations, plan: EpochPlan, batch_size: int) -> Exposure:
    """Computes how often an epoch shows each class on average, before the augmentation.

    Args:
        annotations: the training set.
        plan: of `plan_epoch`.
        batch_size: images per step, over all processes.

    Returns:
        Expected numbers, with the images that fill up the last step. Only objects that training uses count.
    """
    objects, num_classes = annotations.objects, annotations.num_classes
    draws = plan.expect_draws(batch_size, annotations.num_images)
    rows = objects.trainable
    images, labels = objects.images[rows], objects.labels[rows]
    pairs = sort_distinct(images * num_classes + labels)
    return Exposure(
        images=np.bincount(pairs % num_classes, draws[pairs // num_classes], minlength=num_classes),
        objects=np.bincount(labels, draws[images], minlength=num_classes),
        draws=draws,
    )


def count_group_draws(annotations: Annotations, exposure: Exposure, member: Bool[np.ndarray, " C"]) -> float:
    """Counts the drawn images that have an object of some classes.

    Args:
        annotations: the training set.
        exposure: of `compute_exposure`.
        member: which classes.

    Returns:
        The expected number of an epoch.
    """
    objects = annotations.objects
    images = np.bincount(objects.images[objects.trainable & member[objects.labels]], minlength=annotations.num_images)
    return float(exposure.draws[images > 0].sum())
