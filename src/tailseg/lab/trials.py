"""The candidates of the lab, and one fit of a candidate: trained on kept features, detected with, and measured."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from tailseg.annotations.dataset import Annotations, get_scored_groups
from tailseg.data.workers import end_with
from tailseg.detection.recalibration import Calibrated, Calibration, Setting
from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.bootstrap import draw_weights, resample
from tailseg.evaluation.detections import match_results, select_best_of_each_image
from tailseg.evaluation.ground_truth import GroundTruth
from tailseg.evaluation.results import Results
from tailseg.evaluation.sources import read_truth
from tailseg.lab.features import load
from tailseg.lab.fit import build_head, detect, measure_logits, train_head
from tailseg.losses import LOSSES, ClassificationLoss, build_loss
from tailseg.models.box_head import BoxHead
from tailseg.models.config import ModelConfig, NormalizedConfig
from tailseg.recipes.recipe import Recipe, ScheduleConfig
from tailseg.structures import ClassFrequency
from tailseg.training.run import build_sampler

SamplingName = Literal["as the recipe", "none", "repeat", "instance_repeat", "class_aware"]
FIGURES: Final = ("AP", "APr", "APc", "APf")
SAMPLES: Final = 200
"""How often the validation images are drawn again for the intervals."""
TEMPERATURE: Final = 5.0
"""The temperature of a normalized classifier, as published for GOL."""
CALIBRATIONS: Final = (
    Setting("logit adjustment", 0.5),
    Setting("NorCal", 0.2),
    Setting("NorCal", 0.6),
    Setting("LogN", 1.0),
)
"""The calibrations that are tried on the best candidates."""


def get_model(recipe: Recipe) -> ModelConfig:
    """The settings of a recipe's two-stage detector."""
    assert isinstance(recipe.model, ModelConfig)
    return recipe.model


@dataclass(frozen=True)
class Candidate:
    """What a full training would have as its settings.

    Attributes:
        loss: a name in `LOSSES`; any other name keeps the loss of the recipe.
        normalized: whether the classifier is normalized.
        sampling: a name in `SAMPLINGS`.
    """

    loss: str
    normalized: bool = False
    sampling: SamplingName = "as the recipe"

    def __str__(self) -> str:
        return ", ".join(
            (self.loss, *["normalized"] * self.normalized, *[self.sampling] * (self.sampling != "as the recipe"))
        )

    def change(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with the settings of this candidate."""
        model = get_model(recipe)
        normalized = model.box.normalized or NormalizedConfig(temperature=TEMPERATURE)
        box = replace(model.box, normalized=normalized if self.normalized else None)
        return replace(
            recipe,
            loss=LOSSES.get(self.loss, recipe.loss),
            model=replace(model, box=box),
            data=replace(recipe.data, **SAMPLINGS[self.sampling]),
        )


SAMPLINGS: Final[dict[SamplingName, dict[str, Any]]] = {
    "as the recipe": {},
    "none": {"sampling": "repeat", "repeat_threshold": 0.0},
    "repeat": {"sampling": "repeat", "repeat_threshold": "auto", "repeat_exponent": None},
    "instance_repeat": {"sampling": "instance_repeat", "repeat_threshold": "auto", "repeat_exponent": None},
    "class_aware": {"sampling": "class_aware", "repeat_exponent": None},
}
"""The settings of the data that each sampling changes."""


@dataclass(frozen=True)
class Trial:
    """One fit: a candidate, a seed, and the calibrations of its scores that are measured."""

    candidate: Candidate
    seed: int
    calibrations: tuple[Setting, ...] = (Setting(),)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The figures of one fit with one calibration.

    Attributes:
        candidate, seed, calibration: of the fit.
        figures: AP, APr, APc and APf of boxes in 0..1; NaN where there is no object.
        samples: the same for drawn validation images, float64 ``[SAMPLES]``, the same images for all fits.
    """

    candidate: Candidate
    seed: int
    calibration: Setting
    figures: dict[str, float]
    samples: dict[str, np.ndarray] = field(repr=False)


class Bench:
    """What all fits share: the features, the data and the recipe.

    Args:
        folder: of the features.
        recipe: of the network.
        train: the training set.
        val: the validation set, with the classes of the training set.
        steps: of each fit.
    """

    def __init__(self, folder: Path, recipe: Recipe, train: Annotations, val: Annotations, *, steps: int) -> None:
        self.folder, self.features = folder, load(folder)
        self.recipe, self.train, self.val, self.steps = recipe, train, val, steps
        self.frequency = ClassFrequency.from_class_counts(train.frequency)
        self.category_ids = np.array([category.id for category in val.categories])

    @cached_property
    def truth(self) -> GroundTruth:
        return read_truth(self.val, masks=False, groups=get_scored_groups(self.val))

    @cached_property
    def weights(self) -> np.ndarray:
        """How often each image counts: once in the first column, then as drawn: ``[M, 1 + SAMPLES]``."""
        drawn = draw_weights(len(self.truth.image_ids), SAMPLES, np.random.default_rng(0))
        return np.concatenate([np.ones_like(drawn[:, :1]), drawn], axis=1)

    def run(self, trial: Trial) -> list[Outcome]:
        """Fits and measures.

        Args:
            trial: the candidate, the seed and the calibrations.

        Returns:
            The figures with each calibration.
        """
        return [
            Outcome(trial.candidate, trial.seed, setting, *self.measure(results))
            for setting, results in zip(trial.calibrations, self.detect(trial), strict=True)
        ]

    def detect(self, trial: Trial) -> list[Results]:
        """Fits a box head and detects on the validation images.

        Args:
            trial: the candidate, the seed and the calibrations.

        Returns:
            The detections with each calibration.
        """
        recipe = trial.candidate.change(replace(self.recipe, run=replace(self.recipe.run, seed=trial.seed)))
        torch.manual_seed(trial.seed)
        loss = build_loss(recipe.loss, self.frequency)
        model = get_model(recipe)
        head = build_head(loss, model.box, self.features)
        steps_per_epoch = ceil(self.steps / recipe.optim.epochs)
        recipe = replace(recipe, optim=shorten_warmup(recipe.optim, self.steps))
        plan = list(plan_steps(self.train, recipe, self.features.train.images, self.steps, trial.seed))
        train_head(head, self.features.train, plan, recipe, steps_per_epoch=steps_per_epoch)
        head.eval()
        losses = [self.calibrate(head, setting) for setting in trial.calibrations]
        return detect(head, self.features.val, losses, model.postprocess, self.category_ids)

    def calibrate(self, head: BoxHead, setting: Setting) -> ClassificationLoss:
        """Returns the head's loss with calibrated scores."""
        if setting.method == "none":
            return head.loss
        statistics = measure_logits(head, self.features.train) if setting.method == "LogN" else None
        return Calibrated(head.loss, Calibration(setting, statistics=statistics), self.frequency)

    def measure(self, results: Results) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Computes the figures of results, of all images and of drawn images."""
        truth = self.truth
        rows = select_best_of_each_image(results, truth, MAX_DETECTIONS[truth.protocol])
        matches = match_results(truth, results, rows, "bbox")
        values = resample(matches, self.weights).figures(truth.class_groups)
        missing = np.full(1 + SAMPLES, np.nan)
        columns = {name: values.get(name, missing) for name in FIGURES}
        return {name: float(column[0]) for name, column in columns.items()}, {
            name: column[1:].round(6) for name, column in columns.items()
        }


def shorten_warmup(optim: ScheduleConfig, steps: int) -> ScheduleConfig:
    """Returns the schedule with a warm-up of at most a fifth of the steps."""
    return replace(optim, warmup_iterations=min(optim.warmup_iterations, steps // 5))


def plan_steps(train: Annotations, recipe: Recipe, images: np.ndarray, steps: int, seed: int) -> Iterator[list[int]]:
    """Chooses the views of each step, in the order of the recipe's sampler.

    Args:
        train: the training set.
        recipe: its sampling and batch size.
        images: the image of each view; images without a view are left out.
        steps: how many.
        seed: of the choice between the views of an image.

    Yields:
        The views of a step.
    """
    sampler = build_sampler(train, recipe)
    views: dict[int, list[int]] = {}
    for view, image in enumerate(images.tolist()):
        views.setdefault(image, []).append(view)
    rng = np.random.default_rng(seed)

    def draw() -> Iterator[int]:
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            for image in sampler.order().tolist():
                if image in views:
                    yield views[image][rng.integers(len(views[image]))]
            epoch += 1

    drawn = draw()
    for _ in range(steps):
        yield [next(drawn) for _ in range(recipe.data.batch_size)]


_bench: Bench


def _start(*arguments: Any) -> None:  # noqa: ANN401 - those of Bench, and the number of the main process
    """Opens the bench in a process that fits, and that ends with the main process."""
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # reaches all processes of a terminal: the main process ends this one
    *shared, steps, parent = arguments
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    _bench = Bench(*shared, steps=steps)


def _run(trial: Trial) -> list[Outcome]:
    return _bench.run(trial)


def run_all(bench: Bench, trials: Sequence[Trial], workers: int) -> Iterator[list[Outcome]]:
    """Runs fits in several processes, each of one thread.

    Args:
        bench: what they share.
        trials: what to run.
        workers: number of processes; 1 fits in this process, on one thread as well: the figures are the same.

    Yields:
        The outcomes of each fit, as they end.
    """
    if workers <= 1 or len(trials) <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(bench.run, trials)
        finally:
            torch.set_num_threads(threads)
        return
    shared = (bench.folder, bench.recipe, bench.train, bench.val, bench.steps, os.getpid())
    others = set(active_children())
    with ProcessPoolExecutor(min(workers, len(trials)), get_context("spawn"), _start, shared) as pool:
        futures = [pool.submit(_run, trial) for trial in trials]
        try:
            for done in as_completed(futures):
                yield done.result()
        except BaseException:  # an error, or Ctrl-C: do not wait for the other fits
            for process in set(active_children()) - others:
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
