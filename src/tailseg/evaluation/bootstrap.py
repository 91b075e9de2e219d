"""AP of resampled images: what the figures would have been, had other images of the same kind been drawn.

Shapes: B samples, I images, n detections, m detections that find an object at some threshold, K classes,
T IoU thresholds (0.50, 0.55 .. 0.95).
"""

from dataclasses import dataclass

import numpy as np

from tailseg.annotations.types import Group
from tailseg.evaluation.errors import find_members
from tailseg.evaluation.matches import FALSE, FOUND, LEFT_ALONE, Matches
from tailseg.evaluation.precision import RECALLS, count_points_reached

BLOCK = 4_000_000
"""Detections times samples that are worked on at a time."""


@dataclass(frozen=True)
class Resampled:
    """AP in B samples of images.

    Attributes:
        AP, AP50, AP75, AR: float64 ``[K, B]``, NaN where a sample has no object of the class.
    """

    AP: np.ndarray
    AP50: np.ndarray
    AP75: np.ndarray
    AR: np.ndarray

    def figures(self, groups: tuple[Group | None, ...]) -> dict[str, np.ndarray]:
        """``[B]`` each: AP, AP50, AP75, AR, and APr, APc, APf where the groups have classes: means over classes."""
        found = {name: _mean(getattr(self, name)) for name in ("AP", "AP50", "AP75", "AR")}
        for part, members in find_members(groups).items():
            if part != "all":
                found[f"AP{part}"] = _mean(self.AP[members])
        return found


def draw_weights(num_images: int, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image occurs in each sample of ``num_images`` with replacement, float32 ``[I, B]``.

    Args:
        num_images: the number of images.
        num_samples: the number of samples, B.
        rng: the random generator.

    Returns:
        float32 ``[I, B]``.
    """
    shares = np.full(num_images, 1 / num_images)
    return rng.multinomial(num_images, shares, size=num_samples).T.astype(np.float32)


def resample(matches: Matches, weights: np.ndarray) -> Resampled:
    """AP where image i counts ``weights[i, b]`` times; ones give the AP of the data set itself.

    Args:
        matches: by `match_results`.
        weights: float32 ``[I, B]``.
    """
    num_samples = weights.shape[1]
    AP, AP50, AP75, AR = (np.full((matches.num_classes, num_samples), np.nan) for _ in range(4))
    segments = matches.segments()
    wanted = np.flatnonzero(matches.wanted[0])
    object_order = wanted[np.argsort(matches.object_classes[wanted], kind="stable")]
    edges = np.searchsorted(matches.object_classes[object_order], np.arange(matches.num_classes + 1))
    for index in np.flatnonzero(np.diff(edges)).tolist():
        images = matches.object_images[object_order[edges[index] : edges[index + 1]]]
        states, at = matches.states[0, :, segments[index]], matches.images[segments[index]]
        last = int(np.flatnonzero((states == FOUND).any(0)).max(initial=-1)) + 1  # what follows changes no precision
        step = max(BLOCK // max(last, len(images)), 1)
        for start in range(0, num_samples, step):
            block = slice(start, start + step)
            num_objects = weights[images, block].sum(0, dtype=np.float64)
            ap, recall = _compute_ap(states[:, :last], weights[at[:last], block], num_objects)
            ap[:, num_objects == 0] = np.nan
            AP[index, block], AP50[index, block], AP75[index, block] = ap.mean(0), ap[0], ap[5]
            AR[index, block] = np.where(num_objects > 0, recall.mean(0), np.nan)
    return Resampled(AP, AP50, AP75, AR)


def _compute_ap(states: np.ndarray, weights: np.ndarray, num_objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and final recall, ``[T, B]`` each, of one class from states ``[T, n]`` and weights ``[n, B]``."""
    # a detection partly in a crowd region is left alone at low thresholds, and false at high ones
    interesting = np.flatnonzero((states == FOUND).any(0) | (states != states[0]).any(0))
    others = np.where((states == FALSE).all(0)[:, None], weights, 0).cumsum(0)[interesting]
    states, weights = states[:, interesting], weights[interesting].astype(np.float64)
    ap, recall = (np.zeros((len(states), weights.shape[1])) for _ in range(2))
    for threshold, state in enumerate(states):
        places = np.flatnonzero(state == FOUND)
        if not len(places):
            continue
        ranked = others[places] + np.where((state != LEFT_ALONE)[:, None], weights, 0).cumsum(0)[places]
        found = weights[places].cumsum(0)
        precision = np.divide(found, ranked, out=np.zeros_like(found), where=ranked > 0)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        recalls = np.divide(found, num_objects, out=np.zeros_like(found), where=num_objects > 0)
        points = np.diff(count_points_reached(recalls), axis=0, prepend=0)
        ap[threshold] = (points * best).sum(0) / len(RECALLS)
        recall[threshold] = recalls[-1]
    return ap, recall


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes ``[K, B]`` -> ``[B]``, of those that are there; NaN where none is."""
    there = ~np.isnan(values)
    count = there.sum(0)
    return np.divide(np.where(there, values, 0).sum(0), count, out=np.full(values.shape[1], np.nan), where=count > 0)
