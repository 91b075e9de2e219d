"""Training and testing, from top to bottom.

A run's folder:

    recipe.json       every setting
    log.jsonl         losses and evaluations, one JSON object a line
    tensorboard/      the same for TensorBoard
    checkpoints/      step_0001234.pt, the newest few; best.pt, the best AP in evaluation
    results.json      detections of the last evaluation, as COCO-style records
    metrics.json      its figures
"""

import math
from collections.abc import Iterator, Mapping

import torch

from tailseg.data.images import ImageError
from tailseg.evaluation import Metrics
from tailseg.evaluation.metrics import ROW_NAMES, percent
from tailseg.recipes.recipe import Recipe
from tailseg.structures import Batch
from tailseg.training import checkpoint
from tailseg.training.console import TrainingConsole
from tailseg.training.device import autocast, seed_everything
from tailseg.training.interrupt import StopRequest, TrainingStopped
from tailseg.training.log import Log
from tailseg.training.optimiser import learning_rate
from tailseg.training.run import Run, describe, start
from tailseg.training.testing import build_test_loader, save_results, test


class NonFiniteLossError(FloatingPointError):
    """A loss or the gradient is NaN or infinite; the optimiser has not taken the step."""


def train(recipe: Recipe, *, resume: bool = False) -> Metrics:
    """Trains the recipe and evaluates it; everything is in the run's folder.

    Ctrl-C and SIGTERM end the run after the step at hand with its state saved. A resumed run goes on as if it had not
    been interrupted: on the CPU its losses are the same to the bit, because the order of the data and the randomness of
    a step depend on the seed and on the step's number alone. (On a GPU, RoIAlign's gradient is summed in any order.)

    Args:
        recipe: the run.
        resume: go on from the newest checkpoint in the run's folder, with the same settings; a run without one starts
            from the beginning.

    Returns:
        Figures of the last evaluation.

    Raises:
        ValueError: the folder holds a run already and ``resume`` is False; the data, the backbone's weights or the
            checkpoint cannot be used.
        NonFiniteLossError: a loss is not finite.
        ImageError: an image cannot be read. The state is saved.
        TrainingStopped: by a signal. The state is saved.
    """
    run = start(recipe, resume=resume)
    progress, metrics = run.progress, None
    bar = TrainingConsole(
        epochs=recipe.optim.epochs,
        total_steps=recipe.optim.epochs * run.sampler.steps_per_epoch,
        done_steps=progress.step,
        speed=run.speed,
    )
    with StopRequest() as stop, Log(run.folder, step=progress.step) as log, bar:
        bar.say(describe(run))
        try:
            while progress.epoch < recipe.optim.epochs:
                train_epoch(run, stop, log, bar)
                metrics = finish_epoch(run, stop, log, bar)
            return metrics or evaluate_run(run, stop, bar)
        except (ImageError, TrainingStopped) as error:
            raise type(error)(
                f"{error}; saved after step {progress.step} in {run.save()}: go on with --resume"
            ) from None


def train_epoch(run: Run, stop: StopRequest, log: Log, bar: TrainingConsole) -> None:
    """The steps of the epoch that are still to do."""
    progress = run.progress
    run.model.train()
    run.speed.pause()
    for batch in batches(run, stop):
        losses, measured = train_step(run, batch.to(run.device))
        run.speed.step()
        progress.step += 1
        progress.step_in_epoch += 1
        for name, value in {**losses, **measured, "steps": 1.0}.items():
            progress.window[name] = progress.window.get(name, 0.0) + value
        bar.step(epoch=progress.epoch, step=progress.step, losses=losses)
        if progress.step % run.recipe.run.log_every == 0:
            log_window(run, log, bar)
        stop.check()


def batches(run: Run, stop: StopRequest) -> Iterator[Batch]:
    """The batches that the epoch still has; loader processes killed by the signal that asks for a stop are no error."""
    run.sampler.set_epoch(run.progress.epoch, start_step=run.progress.step_in_epoch)
    try:
        yield from run.loader
    except RuntimeError:
        stop.check()
        raise


def train_step(run: Run, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """One step of the optimiser; returns the losses by name, and the gradient's norm where it is clipped.

    The batch is taken in ``optim.accumulate`` parts. A loss is the mean of the parts' losses, and so is the gradient:
    that of the whole batch as far as every part has as many regions to average over (see docs/recipes.md).
    """
    optim, step = run.recipe.optim, run.progress.step
    measured: dict[str, float] = {}
    values: dict[str, float] = {}
    seed_everything(run.recipe.run.seed, step)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(optim, step=step, epoch=run.progress.epoch, batch_size=run.recipe.data.batch_size)
    run.optimizer.zero_grad()
    for part in batch.split(optim.accumulate):
        with autocast(run.device, run.recipe.run.precision):
            losses = run.model(part.images, part.targets)
        costs = torch.stack(list(losses.values())) / optim.accumulate
        of_part: dict[str, float] = dict(zip(losses, costs.tolist(), strict=True))
        require_finite(of_part, step, part)
        costs.sum().backward()
        values = {name: values.get(name, 0.0) + value for name, value in of_part.items()}
    if optim.clip_norm is not None:
        norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), optim.clip_norm)
        measured = {"gradient_norm": norm.item()}
        require_finite(measured, step, batch)
    run.optimizer.step()
    return values, measured


def require_finite(values: Mapping[str, float], step: int, batch: Batch) -> None:
    """Raises NonFiniteLossError with the step, the names and the batch's image ids if a value is NaN or infinite."""
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if bad:
        raise NonFiniteLossError(
            f"step {step}: {', '.join(f'{name} is {value}' for name, value in bad.items())} on the images with ids "
            f"{[info.image_id for info in batch.infos]}; the optimiser has not taken this step. Lower optim.lr, "
            "lengthen optim.warmup_iterations, set optim.clip_norm, or look at these images' annotations"
        )


def finish_epoch(run: Run, stop: StopRequest, log: Log, bar: TrainingConsole) -> Metrics | None:
    """Evaluates, if it is time for it, and saves."""
    settings, progress, metrics = run.recipe.run, run.progress, None
    if run.is_last_epoch or (settings.eval_every and (progress.epoch + 1) % settings.eval_every == 0):
        run.save()  # the epoch's steps outlive an evaluation that fails
        metrics = evaluate_run(run, stop, bar)
    save_due = run.is_last_epoch or metrics or (progress.epoch + 1) % settings.checkpoint_every == 0
    progress.epoch += 1
    progress.step_in_epoch = 0
    if metrics:
        figure = main_figure(metrics)
        if progress.best is None or figure > progress.best:
            progress.best = figure
            run.save(checkpoint.best_path(run.folder))
        log.write("val", epoch=progress.epoch, step=progress.step, values=flatten(metrics))
        bar.say(f"epoch {progress.epoch}: {describe_metrics(metrics)}")
    if save_due:
        run.save()
    return metrics


def evaluate_run(run: Run, stop: StopRequest, bar: TrainingConsole) -> Metrics:
    """Tests the model on the validation set; writes results.json and metrics.json."""

    def each_batch(done: int, total: int) -> None:
        bar.evaluating(done, total)
        stop.check()

    loader = build_test_loader(run.val_data, run.recipe.data)
    results, metrics = test(
        run.model,
        run.val_data,
        loader,
        device=run.device,
        precision=run.recipe.run.precision,
        progress=each_batch,
    )
    save_results(run.folder, results, metrics)
    return metrics


def log_window(run: Run, log: Log, bar: TrainingConsole) -> None:
    """Logs the means since the last line, and the rate."""
    sums, progress = run.progress.window, run.progress
    steps = sums.pop("steps")
    means = {name: value / steps for name, value in sums.items()}
    losses = {name: value for name, value in means.items() if name.startswith("loss")}
    rate = run.optimizer.param_groups[0]["lr"]
    values = {"loss": sum(losses.values()), **means, "lr": rate, "images_per_second": run.speed.images_per_second}
    log.write("train", epoch=progress.epoch, step=progress.step, values=values)
    bar.log(epoch=progress.epoch, step=progress.step, losses=losses, rate=rate)
    progress.window = {}


def main_figure(metrics: Metrics) -> float:
    """AP of the masks, or of the boxes where there are no masks: the figure that the best checkpoint is chosen by."""
    return metrics["segm" if "segm" in metrics else "bbox"]["AP"] or 0.0


def flatten(metrics: Metrics) -> dict[str, float]:
    """``segm/AP`` and so on, without the figures that the data set does not define."""
    return {
        f"{kind}/{name}": value
        for kind, scores in metrics.scores.items()
        for name, value in scores.items()
        if value is not None
    }


def describe_metrics(metrics: Metrics) -> str:
    """``masks AP 19.0, APr 4.9, APc 16.8, APf 27.6; boxes AP 19.1 ...``."""
    return "; ".join(
        f"{ROW_NAMES[kind]} " + ", ".join(f"{name} {percent(scores[name])}" for name in ("AP", "APr", "APc", "APf"))
        for kind, scores in reversed(metrics.scores.items())
    )
