"""How often a 95 % interval of `tailseg.evaluation.comparison` contains the true difference: a simulation.

    uv run python benchmarks/bootstrap_coverage.py                  about 5 minutes on one core
    uv run python benchmarks/bootstrap_coverage.py --skill 0        two equal detectors
    uv run python benchmarks/bootstrap_coverage.py --slices         slices of the images of one detector

Two simulated detectors run on images of an infinite population. Objects of a class occur in clusters. Both detectors
often find the same objects. One detector finds more objects and places them better. False positives come from images
that are hard for both. The true difference is that on 100,000 images. Many data sets of some hundred images are drawn,
the detectors are compared on each, and the script counts the intervals that contain the true difference. For each
figure it prints this share (with its standard error), the share of intervals without zero, and for comparison the share
for the quantiles of the samples.

With ``--slices`` one detector runs on 400 images, and a part of them is evaluated by `tailseg.evaluation.slices`. The
detector finds objects in this part as well as in the others, or worse. The script counts how often the part is called
worse or better, and how often the interval of its AP contains the mean AP of such parts. For comparison it counts how
often a bootstrap of the part against a bootstrap of all other images would call it worse or better.
"""

from dataclasses import dataclass, replace

import numpy as np
import tyro

from tailseg.evaluation.bootstrap import draw_weights, resample
from tailseg.evaluation.comparison import compare_matches
from tailseg.evaluation.matches import FALSE, FOUND, Matches, sort_for_matching
from tailseg.evaluation.overlaps import Pairs
from tailseg.evaluation.slices import DEVIATIONS, evaluate_parts
from tailseg.structures import Group

IMAGES_WITH_OBJECTS = (0.6, 0.4, 0.2, 0.1) + (0.01,) * 20
"""Of each class: two frequent, two common and twenty rare ones, which have four of 400 images on average."""
GROUPS: tuple[Group, ...] = ("f", "f", "c", "c") + ("r",) * 20
NOTHING = np.zeros(0, dtype=np.int64)


def simulate(rng: np.random.Generator, num_images: int, skills: tuple[float, float] = (0.0, 0.3)) -> list[Matches]:
    """Matches of two detectors on the same images; skill is a shift of how well objects are found and placed."""
    classes, images, ease = [], [], []
    for index, share in enumerate(IMAGES_WITH_OBJECTS):
        at = np.flatnonzero(rng.random(num_images) < share)
        at = np.repeat(at, 1 + rng.poisson(0.7, len(at)))
        images.append(at)
        classes.append(np.full(len(at), index))
    object_images, object_classes = np.concatenate(images), np.concatenate(classes)
    mood = rng.normal(0, 0.5, num_images)  # images that are easy or hard for both
    ease = rng.normal(0, 0.7, len(object_images)) + mood[object_images]
    return [_detect(rng, num_images, object_images, object_classes, ease, mood, skill) for skill in skills]


def _detect(
    rng: np.random.Generator,
    num_images: int,
    object_images: np.ndarray,
    object_classes: np.ndarray,
    ease: np.ndarray,
    mood: np.ndarray,
    skill: float,
) -> Matches:
    quality = 0.3 + ease + skill + rng.normal(0, 0.5, len(ease))
    overlap = 1 / (1 + np.exp(-0.8 - 0.6 * quality))
    confidence = 1 / (1 + np.exp(-quality - rng.normal(0, 0.7, len(ease))))
    false_images = np.repeat(np.arange(num_images), rng.poisson(1.2 * np.exp(-0.5 * mood)))
    false_classes = rng.integers(0, len(GROUPS), len(false_images))
    false_scores = 1 / (1 + np.exp(1.2 + 0.3 * skill + rng.normal(0, 1, len(false_images))))
    classes = np.concatenate([object_classes, false_classes])
    images = np.concatenate([object_images, false_images])
    scores = np.concatenate([confidence, false_scores])
    states = np.full((10, len(scores)), FALSE, dtype=np.uint8)
    states[:, : len(ease)][overlap >= np.linspace(0.5, 0.95, 10)[:, None]] = FOUND
    order = sort_for_matching(classes, images, scores)
    return Matches(
        rows=order,
        classes=classes[order],
        images=images[order],
        scores=scores[order],
        areas=np.ones(len(order)),
        pairs=Pairs(NOTHING, NOTHING, np.zeros(0)),
        states=np.broadcast_to(states[:, order], (4, *states.shape)),
        matched=np.full(len(order), -1),
        wanted=np.ones((4, len(object_images)), dtype=bool),
        object_classes=object_classes,
        object_images=object_images,
        num_classes=len(GROUPS),
        num_images=num_images,
    )


@dataclass(frozen=True)
class Coverage:
    """Of one figure: the shares of intervals that hold the truth, and that leave zero out."""

    truth: float
    holds: float
    quantiles_hold: float
    decided: float


def coverage(
    *, images: int, repeats: int, samples: int, skill: float = 0.3, seed: int = 0, population: int = 100_000
) -> dict[str, Coverage]:
    """Runs the simulation."""
    ones = np.ones((population, 1), dtype=np.float32)
    rng = np.random.default_rng(seed)
    first, second = (resample(run, ones).figures(GROUPS) for run in simulate(rng, population, (0.0, skill)))
    truth = {name: float(second[name][0] - first[name][0]) if skill else 0.0 for name in first}
    counts = {name: np.zeros(3) for name in truth}
    for repeat in range(repeats):
        runs = simulate(rng, images, (0.0, skill))
        (found,) = compare_matches(runs, GROUPS, samples=samples, seed=repeat)
        weights = draw_weights(images, samples, np.random.default_rng(repeat))
        before, after = (resample(run, weights).figures(GROUPS) for run in runs)
        for name, entry in found.figures.items():
            low, high = np.nanquantile(after[name] - before[name], [0.025, 0.975])
            holds = entry.low <= truth[name] <= entry.high
            counts[name] += holds, low <= truth[name] <= high, entry.verdict in ("better", "worse")
    return {name: Coverage(truth[name], *(count / repeats).tolist()) for name, count in counts.items()}


SLICES = 10, 100, 300
"""Images of the part that is evaluated."""


def join(first: Matches, second: Matches) -> Matches:
    """The matches of the images of both."""
    images = np.concatenate([first.images, second.images + first.num_images])
    classes, scores = (
        np.concatenate([getattr(each, name) for each in (first, second)]) for name in ("classes", "scores")
    )
    order = sort_for_matching(classes, images, scores)
    return replace(
        first,
        rows=order,
        classes=classes[order],
        images=images[order],
        scores=scores[order],
        areas=np.ones(len(order)),
        states=np.concatenate([first.states, second.states], axis=-1)[..., order],
        matched=np.full(len(order), -1),
        wanted=np.concatenate([first.wanted, second.wanted], axis=-1),
        object_classes=np.concatenate([first.object_classes, second.object_classes]),
        object_images=np.concatenate([first.object_images, second.object_images + first.num_images]),
        num_images=first.num_images + second.num_images,
    )


def is_outside_by_bootstrap(part: Matches, rest: Matches, samples: int, rng: np.random.Generator) -> bool:
    """Whether a bootstrap within both sides calls the difference, over the classes that both have, more than chance."""
    ones, drawn = [], []
    for side in (part, rest):
        ones.append(resample(side, np.ones((side.num_images, 1), dtype=np.float32)).AP)
        drawn.append(resample(side, draw_weights(side.num_images, samples, rng)).AP)
    common = ~np.isnan(ones[0] - ones[1])[:, 0]
    difference = (ones[0] - ones[1])[common].mean()
    deviations = np.nanmean((drawn[0] - ones[0] - drawn[1] + ones[1])[common], axis=0)
    return bool(abs(difference) > DEVIATIONS * np.nanstd(deviations))


def print_slices(images: int, repeats: int, samples: int, skill: float, seed: int) -> None:
    """Prints the table of slices: those as easy as the other images, and those where the detector is worse."""
    print(f"{repeats} data sets of {images} images, {samples} samples each; shares in percent\n")
    print("| Images of the slice | skill | worse | better | interval of AP holds | bootstrap: worse or better |")
    print("|---|---|---|---|---|---|")
    for shift in dict.fromkeys((0.0, -skill)):
        for size in SLICES:
            rng = np.random.default_rng(seed)
            parts = (np.arange(images) >= size).astype(np.int64)
            values, widths, verdicts, outside = [], [], [], []
            for repeat in range(repeats):
                sides = [simulate(rng, n, (s,))[0] for n, s in ((size, shift), (images - size, 0.0))]
                entry = evaluate_parts(join(*sides), parts, GROUPS, samples=samples, seed=repeat)["AP"][0]
                change = entry.after - entry.before
                verdicts.append(np.sign(change) * (abs(change) > DEVIATIONS * entry.chance))
                whole = resample(sides[0], np.ones((size, 1), dtype=np.float32))
                values.append(float(np.nanmean(whole.AP)))
                widths.append(DEVIATIONS * entry.deviation)
                outside.append(is_outside_by_bootstrap(*sides, samples, rng))
            holds = np.abs(np.array(values) - np.mean(values)) <= np.array(widths)
            shares = np.mean(np.array(verdicts) < 0), np.mean(np.array(verdicts) > 0), holds.mean(), np.mean(outside)
            print(f"| {size} | {shift:+.1f} | {' | '.join(f'{100 * share:.1f}' for share in shares)} |", flush=True)


def main(
    images: int = 400,
    repeats: int = 1000,
    samples: int = 200,
    skill: float = 0.3,
    seed: int = 0,
    slices: bool = False,
) -> None:
    """Prints the table.

    Args:
        images: in each data set.
        repeats: data sets.
        samples: of the bootstrap.
        skill: by how much the second detector is better; 0 makes them equals.
        seed: of everything.
        slices: simulates slices of the images of one detector.
    """
    if slices:
        print_slices(images, repeats, samples, skill, seed)
        return
    print(f"{repeats} data sets of {images} images, {samples} samples each, skill {skill:g}; shares in percent\n")
    print("| Figure | true difference | holds the truth | quantiles would | leaves zero out |\n|---|---|---|---|---|")
    for name, found in coverage(images=images, repeats=repeats, samples=samples, skill=skill, seed=seed).items():
        error = 100 * np.sqrt(found.holds * (1 - found.holds) / repeats)
        print(
            f"| {name} | {100 * found.truth:+.2f} | {100 * found.holds:.1f} ± {error:.1f} | "
            f"{100 * found.quantiles_hold:.1f} | {100 * found.decided:.1f} |"
        )


if __name__ == "__main__":
    tyro.cli(main)
