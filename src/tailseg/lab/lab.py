"""The lab: which loss, classifier, sampling and calibration suit a data set, without a full training of each."""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from tailseg.annotations.dataset import Annotations, get_scored_groups
from tailseg.annotations.fingerprint import compute_fingerprint
from tailseg.detection.recalibration import Setting
from tailseg.evaluation import evaluate
from tailseg.files import write_text
from tailseg.inference import Predictor
from tailseg.lab.features import Collector, Step, collect, save
from tailseg.lab.ranking import Entry, Figure, best_candidates, rank
from tailseg.lab.trials import (
    CALIBRATIONS,
    FIGURES,
    SAMPLINGS,
    Bench,
    Candidate,
    Outcome,
    SamplingName,
    Trial,
    get_model,
    run_all,
)
from tailseg.losses import LOSSES
from tailseg.models.config import ModelConfig
from tailseg.models.detector import TwoStageDetector
from tailseg.recipes.build import build_data, held_out_note
from tailseg.recipes.places import locate_data
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import save_recipe, to_plain
from tailseg.training.console import describe_seconds
from tailseg.training.fit import check_classes
from tailseg.training.run import build_sampler
from tailseg.words import count_noun

TRIALS: Final = "trials.jsonl"
KEY: Final = "key.json"
WINNER: Final = "winner.json"
FIGURES_FILE: Final = "lab.json"
PAGE_FILE: Final = "lab.html"
MAX_STEPS: Final = 1000
"""The largest number of steps of a fit, if the user names none."""
OWN_LOSS: Final = "the recipe's loss"


@dataclass(frozen=True)
class LabSettings:
    """What the lab tries.

    Attributes:
        losses: names in `LOSSES`.
        samplings: names in `SAMPLINGS`, tried on the best candidates.
        seeds: fits of each candidate.
        steps: of each fit; None is half the steps of the network's training, at most `MAX_STEPS`.
        best: candidates that samplings and calibrations are tried on.
        by: the figure that decides.
        views: augmentations of each training image that are kept.
        directions: values that are kept of each region.
        images: the largest number of training images.
        workers: processes that fit.
    """

    losses: tuple[str, ...] = tuple(LOSSES)
    samplings: tuple[SamplingName, ...] = tuple(SAMPLINGS)
    seeds: int = 3
    steps: int | None = None
    best: int = 3
    by: Figure = "AP"
    views: int = 1
    directions: int = 512
    images: int = 10_000
    workers: int = 2


@dataclass(frozen=True, eq=False)
class LabResult:
    """What the lab found.

    Attributes:
        entries: the ranking, best first.
        baseline: the candidate that has the settings of the network's own recipe.
        by: the figure that decided.
        recipe: the recipe with the winner's settings.
        command: trains this recipe.
        seconds: of the fits, by the clock.
    """

    entries: list[Entry]
    baseline: Candidate
    by: Figure
    recipe: Recipe
    command: str
    seconds: float

    @property
    def winner(self) -> Entry:
        return self.entries[0]


def run_lab(
    run: Path,
    folder: Path,
    settings: LabSettings,
    *,
    device: str = "auto",
    base: Recipe | None = None,
    modules: Sequence[str] = (),
    full: Recipe | None = None,
    say: Callable[[str], None] = lambda _line: None,
    step: Step = lambda *_: None,
) -> LabResult:
    """Compares losses, classifiers, samplings and calibrations on the features of a trained network.

    Args:
        run: the folder of the network's run.
        folder: gets the features, the figures, the page and the winner's recipe. Fits that it holds already are not
            repeated.
        settings: what is tried.
        device: that the network runs on; the fits run on the CPU.
        base: your own recipe, if the run was trained with one.
        modules: your own modules, by name, if the run's settings have classes of yours.
        full: the recipe that gets the settings of the winner, with the schedule of a full training; None is the run's.
        say: called with a line for each thing that the user should know.
        step: called with the progress.

    Returns:
        The ranking and the winner.

    Raises:
        ValueError: the run's detector is not a Faster R-CNN or Mask R-CNN, or its data is not there.
    """
    bench = open_bench(run, folder, settings, device=device, base=base, modules=modules, say=say, step=step)
    recipe, baseline, seeds = bench.recipe, find_baseline(bench.recipe), range(settings.seeds)
    store = Store(folder / TRIALS, bench.steps)
    began = time.monotonic()

    def measure(trials: list[Trial], title: str) -> list[Entry]:
        outcomes = store.measure(bench, trials, settings.workers, lambda done, total: step(title, done, total))
        return rank(outcomes, baseline, settings.by)

    first = list(dict.fromkeys([baseline, *list_candidates(settings.losses)]))
    trials = [Trial(candidate, seed) for candidate in first for seed in seeds]
    say(f"{count_noun(len(trials), 'fit')} of {count_noun(bench.steps, 'step')}, then those of the best candidates")
    entries = measure(trials, "losses and classifiers")
    samplings = list_samplings(recipe, settings.samplings)
    second = [
        replace(candidate, sampling=name) for candidate in best_candidates(entries, settings.best) for name in samplings
    ]
    settings_tried = (Setting(), *CALIBRATIONS)
    trials += [Trial(candidate, seed, settings_tried) for candidate in second for seed in seeds]
    entries = measure(trials, "samplings and calibrations")
    winner = entries[0]
    result = LabResult(
        entries,
        baseline,
        settings.by,
        name_recipe(winner.candidate.change(full or recipe)),
        shlex.join(["tailseg", "train", str(folder / WINNER)]),
        time.monotonic() - began,
    )
    write_result(result, folder)
    return result


def open_bench(
    run: Path,
    folder: Path,
    settings: LabSettings,
    *,
    device: str = "auto",
    base: Recipe | None = None,
    modules: Sequence[str] = (),
    say: Callable[[str], None] = lambda _line: None,
    step: Step = lambda *_: None,
) -> Bench:
    """Opens the features of a network's run, or collects them if the folder does not hold them.

    Args:
        run: the folder of the network's run.
        folder: of the lab.
        settings: what is kept, and the steps of a fit.
        device: that the network runs on.
        base: your own recipe, if the run was trained with one.
        modules: your own modules, by name, if the run's settings have classes of yours.
        say: called with a line for the user.
        step: called with the progress.

    Returns:
        What the fits share.

    Raises:
        ValueError: as `run_lab`.
    """
    predictor = Predictor.from_run(run, device=device, base=base, modules=modules, calibrated=False)
    recipe = require_one_stage(locate_data(predictor.recipe, predictor.checkpoint.recipe, run), run)
    train, val = build_data(recipe, trained=True)
    check_classes(predictor.checkpoint, train.categories, predictor.file)
    if note := held_out_note(recipe):
        say(f"note: {note}")
    require_figure(val, settings.by)
    features = folder / "features"
    keep_or_collect(predictor, recipe, train, val, features, settings, say, step)
    return Bench(features, recipe, train, val, steps=settings.steps or count_steps(train, recipe))


def require_one_stage(recipe: Recipe, run: Path) -> Recipe:
    """Checks that the network has one box head.

    Raises:
        ValueError: it is a cascade or a detector of the user's own.
    """
    if not isinstance(recipe.model, ModelConfig) or recipe.model.cascade is not None:
        raise ValueError(
            f"{run} holds a cascade or a detector of your own. The lab needs one box head: name a run of Faster R-CNN "
            "or Mask R-CNN, such as one of custom_small"
        )
    return recipe


def require_figure(val: Annotations, by: Figure) -> None:
    """Checks that the validation set defines the figure that decides: without it, the ranking would have no order.

    Raises:
        ValueError: no class of the frequency group has an object in the validation set.
    """
    figures = evaluate(val, [], iou_types=("bbox",), groups=get_scored_groups(val)).flatten()
    defined = [name for name in FIGURES if f"bbox/{name}" in figures]
    if by not in defined:
        raise ValueError(
            f"{by} cannot decide: {val.path} has no object of a class of this frequency group. Choose another figure "
            f"(--by): {', '.join(defined) or 'AP'}"
        )


def count_steps(train: Annotations, recipe: Recipe) -> int:
    """Half the steps of a whole training, at most `MAX_STEPS`.

    The features of a fit are trained already. With half the steps, AP and its differences are closest to those of whole
    trainings (benchmarks/lab.py).
    """
    return min(MAX_STEPS, max(10, build_sampler(train, recipe).steps_per_epoch * recipe.optim.epochs // 2))


def find_baseline(recipe: Recipe) -> Candidate:
    """The candidate with the settings of a recipe."""
    name = next((name for name, config in LOSSES.items() if config == recipe.loss), OWN_LOSS)
    return Candidate(name, normalized=get_model(recipe).box.normalized is not None)


def list_candidates(losses: Sequence[str]) -> list[Candidate]:
    """Every loss with a plain classifier, then every loss with a normalized one."""
    return [Candidate(loss, normalized) for normalized in (False, True) for loss in losses]


def list_samplings(recipe: Recipe, names: Sequence[SamplingName]) -> list[SamplingName]:
    """The recipe's own sampling, then those that differ from it."""
    others = [name for name in names if replace(recipe.data, **SAMPLINGS[name]) != recipe.data]
    return ["as the recipe", *others]


def keep_or_collect(
    predictor: Predictor,
    recipe: Recipe,
    train: Annotations,
    val: Annotations,
    folder: Path,
    settings: LabSettings,
    say: Callable[[str], None],
    step: Step,
) -> None:
    """Collects the features, unless the folder holds those of this network and these settings.

    Args:
        predictor: the network.
        recipe: of its run.
        train: the training set.
        val: the validation set.
        folder: of the features; fits next to it are removed if they are of other features.
        settings: what is kept.
        say: called with a line for the user.
        step: called with the progress.
    """
    key = describe_features(predictor, recipe, train, val, settings)
    if (folder / KEY).is_file() and (folder / KEY).read_text() == key:
        return
    (folder / KEY).unlink(missing_ok=True)  # an interruption must not leave the key of features that are gone
    shutil.rmtree(folder, ignore_errors=True)
    (folder.parent / TRIALS).unlink(missing_ok=True)
    folder.mkdir(parents=True)
    collector = Collector(cast("TwoStageDetector", predictor.model), recipe, predictor.device, predictor.precision)
    began = time.monotonic()
    features = collect(
        collector,
        train,
        val,
        folder,
        views=settings.views,
        directions=settings.directions,
        images=settings.images,
        step=step,
    )
    save(features, folder)
    write_text(folder / KEY, key)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
    say(
        f"features of {count_noun(len(features.train.images), 'training image')} and "
        f"{count_noun(len(features.val.image_ids), 'validation image')}: {features.train.x.shape[1]} values a region, "
        f"{features.kept:.1%} of the squared length, {size:.2f} GB in {folder}, "
        f"{describe_seconds(time.monotonic() - began)}"
    )
    if (missing := len(np.unique(train.objects.images[train.objects.trainable])) - settings.images) > 0:
        say(f"note: {count_noun(missing, 'training image')} left out, drawn at random; --images takes more")


def describe_features(
    predictor: Predictor, recipe: Recipe, train: Annotations, val: Annotations, settings: LabSettings
) -> str:
    """Describes everything that the features and the figures of the fits depend on.

    Args:
        predictor: the network.
        recipe: of its run.
        train: the training set.
        val: the validation set.
        settings: what is kept.

    Returns:
        JSON, to compare.
    """
    file = predictor.file.resolve()
    return json.dumps(
        {
            "checkpoint": [str(file), file.stat().st_size, file.stat().st_mtime],
            "recipe": to_plain(recipe)["resolved"],
            "data": [compute_fingerprint(train), compute_fingerprint(val)],
            "views": settings.views,
            "directions": settings.directions,
            "images": settings.images,
        }
    )


class Store:
    """The outcomes on disk, one JSON object a line, so that an interrupted lab continues.

    Args:
        file: of the outcomes.
        steps: of each fit; outcomes with another number of steps are not used.
    """

    def __init__(self, file: Path, steps: int) -> None:
        self.file, self.steps = file, steps
        self.outcomes: dict[tuple[Candidate, int, Setting], Outcome] = {}
        text = file.read_text() if file.is_file() else ""
        self._is_torn = not text.endswith("\n") and text != ""
        for line in text.splitlines():
            try:
                content = json.loads(line)
            except ValueError:  # the lab was interrupted within a line
                continue
            if content["steps"] == steps:
                self._keep(from_plain_outcome(content))

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes[outcome.candidate, outcome.seed, outcome.calibration] = outcome

    def measure(
        self, bench: Bench, trials: Sequence[Trial], workers: int, progress: Callable[[int, int], None]
    ) -> list[Outcome]:
        """Runs the fits that are missing.

        Args:
            bench: what they share.
            trials: the fits.
            workers: number of processes.
            progress: called with the number of fits that are done, and all that were missing.

        Returns:
            The outcomes of all of them.
        """
        keys = [(trial.candidate, trial.seed, setting) for trial in trials for setting in trial.calibrations]
        missing = [
            trial
            for trial in trials
            if any((trial.candidate, trial.seed, setting) not in self.outcomes for setting in trial.calibrations)
        ]
        for done, outcomes in enumerate(run_all(bench, missing, workers), start=1):
            with self.file.open("a") as file:
                if self._is_torn:  # the rest of an interrupted line would swallow the next one
                    file.write("\n")
                    self._is_torn = False
                for outcome in outcomes:
                    self._keep(outcome)
                    file.write(json.dumps({"steps": self.steps, **to_plain_outcome(outcome)}) + "\n")
            progress(done, len(missing))
        return [self.outcomes[key] for key in dict.fromkeys(keys)]


def to_plain_outcome(outcome: Outcome) -> dict[str, Any]:
    """Converts an outcome to JSON's types; NaN becomes None."""
    return {
        "candidate": asdict(outcome.candidate),
        "seed": outcome.seed,
        "calibration": asdict(outcome.calibration),
        "figures": {name: _from_float(value) for name, value in outcome.figures.items()},
        "samples": {
            name: [_from_float(value) for value in values.tolist()] for name, values in outcome.samples.items()
        },
    }


def from_plain_outcome(content: dict[str, Any]) -> Outcome:
    """Reads what `to_plain_outcome` returned."""
    return Outcome(
        Candidate(**content["candidate"]),
        content["seed"],
        Setting(**content["calibration"]),
        {name: _to_float(value) for name, value in content["figures"].items()},
        {name: np.array(list(map(_to_float, values))) for name, values in content["samples"].items()},
    )


def _from_float(value: float) -> float | None:
    return value if value == value else None


def _to_float(value: float | None) -> float:
    return float("nan") if value is None else value


def name_recipe(recipe: Recipe) -> Recipe:
    """The recipe with a folder of its own."""
    return replace(recipe, run=replace(recipe.run, out="runs/{name}_lab"))


def write_result(result: LabResult, folder: Path) -> None:
    """Writes the figures, the page and the winner's recipe."""
    from tailseg.lab.page import render

    entries = [
        {
            "name": entry.name,
            "candidate": asdict(entry.candidate),
            "calibration": asdict(entry.calibration),
            "seeds": entry.seeds,
            "figures": {name: _from_float(value) for name, value in entry.figures.items()},
            "gains": {
                name: {part: _from_float(value) for part, value in asdict(gain).items()}
                for name, gain in entry.gains.items()
            },
        }
        for entry in result.entries
    ]
    write_text(folder / FIGURES_FILE, json.dumps({"baseline": str(result.baseline), "lab": entries}, indent=1) + "\n")
    save_recipe(result.recipe, folder / WINNER)
    write_text(folder / PAGE_FILE, render(result))
