"""The training loop. A run's folder has these files:

recipe.json       every setting
log.jsonl         losses and evaluations, one JSON object a line
tensorboard/      the same for TensorBoard
checkpoints/      step_0001234.pt, the newest few; best.pt, the best figure in evaluation
results.json      detections of the last evaluation, as COCO-style records
metrics.json      figures of the last evaluation
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tailseg.annotations.image_files import ImageError
from tailseg.data.images import describe_orientations
from tailseg.data.workers import WorkerError
from tailseg.detection.testing import describe_unread, detect_all, measure, save_results
from tailseg.evaluation import Metrics
from tailseg.evaluation.metrics import ROW_NAMES, format_percent
from tailseg.models.precision import autocast, float32_products
from tailseg.recipes.advice import explain_no_learning
from tailseg.recipes.recipe import Recipe, run_folder
from tailseg.structures import Batch
from tailseg.training.best import check_figure, explain_stop, get_figure, record_evaluation
from tailseg.training.callbacks import Callback, Hooks, TrainingState, check_callbacks
from tailseg.training.console import TrainingConsole
from tailseg.training.device import seed_everything
from tailseg.training.distributed import (
    all_or_none,
    gather_batches,
    gather_on_all,
    is_main_process,
    joined,
    mean,
    on_main_process,
    rank,
    total,
    world_size,
)
from tailseg.training.divergence import DivergenceError as DivergenceError
from tailseg.training.divergence import watch_loss
from tailseg.training.finite import NonFiniteLossError as NonFiniteLossError
from tailseg.training.finite import compute_gradient_norm, require_finite, require_steps
from tailseg.training.interrupt import StopRequest, StopTraining, TrainingStopped
from tailseg.training.log import Log
from tailseg.training.optimizer import get_learning_rate
from tailseg.training.run import Run, describe, describe_data, is_clean_epoch, start
from tailseg.training.run_files import best_path, describe_resumption, get_latest, run_lock
from tailseg.training.trackers import Trackers, check_trackers
from tailseg.words import count_noun, count_part, verb_form


def train(
    recipe: Recipe, *, resume: bool = False, callbacks: Sequence[Callback] = (), resume_command: str | None = None
) -> Metrics:
    """Trains the recipe and evaluates the model; writes all files into the run's folder.

    Ctrl-C and SIGTERM end the run after the current step, and its state is saved; before the first step they end it at
    once. A resumed run continues as if it had not been interrupted. On the CPU its losses are equal to the bit: the
    order of the data and the random numbers of a step depend only on the seed and on the number of the step. (On a GPU,
    the gradient of RoIAlign is summed in any order.)

    Under torchrun every process calls this function, and they share the images of each step; see docs/reliability.md.

    Args:
        recipe: every setting of the run.
        resume: continue from the newest checkpoint in the run's folder, with the same settings; only ``optim.epochs``
            may be larger, which extends the run. A run without a checkpoint starts from the beginning. Processes that
            torchrun restarted always continue from the newest checkpoint.
        callbacks: called at the start, after steps and epochs, and at the end; see `Callback`.
        resume_command: the command that messages name to continue the run; None names ``tailseg resume FOLDER``.

    Returns:
        The figures of the last evaluation.

    Raises:
        ValueError: the folder has a run already and ``resume`` is False, or another training uses the folder; or the
            data, the weights of the backbone or the checkpoint cannot be used; or a metric of your own failed.
        TypeError: a callback is not a `Callback`.
        NonFiniteLossError: a loss, the gradient or the weights are not finite, or float16 makes no steps. The earlier
            checkpoints stay unchanged.
        DivergenceError: the loss is far above its start (``optim.max_loss_ratio``).
        ImageError: too many images cannot be read. The state is saved.
        WorkerError: a loader process died, and so did its replacement. The state is saved.
        TrainingStopped: a signal ended the run. The state is saved.
        ProcessLostError: another process of the training ended.
    """
    check_callbacks(callbacks)
    check_trackers(recipe.run.trackers)
    with (
        StopRequest(waits=False) as stop,  # until the first step: the feature maps that are kept take minutes
        joined(),
        run_lock(run_folder(recipe)),
        float32_products(recipe.run.precision),
    ):
        run = start(recipe, resume=resume)
        on_main_process(lambda: check_figure(run))
        folder = run.folder if is_main_process() else None
        with (
            make_console(run) as bar,
            Trackers(run.recipe, folder, resumed=run.progress.step > 0, say=bar.say) as trackers,
            Log(folder, step=run.progress.step, trackers=trackers) as log,
        ):
            for line in (describe(run), *describe_data(run), *run.notes):
                bar.say(line)
            resumption = f"continue with `{resume_command}`"
            if resume_command is None:
                resumption = describe_resumption(run.recipe, from_python=bool(callbacks))
            stop.waits = True
            try:
                return train_epochs(run, stop, log, bar, Hooks(callbacks, TrainingState(run, bar.say)))
            except (ImageError, WorkerError, TrainingStopped) as error:
                saved = run.save()
                raise type(error)(f"{error}; saved after step {run.progress.step} in {saved}: {resumption}") from None
            except FloatingPointError:  # the same step would fail again
                raise
            except Exception as error:
                if latest := get_latest(run.folder):
                    error.add_note(f"The newest checkpoint of the run is {latest}. Repair the cause, then {resumption}")
                raise


def make_console(run: Run) -> TrainingConsole:
    """Makes the progress bar and the output of a run. Only the main process of several writes."""
    epochs = run.recipe.optim.epochs
    return TrainingConsole(
        epochs=epochs,
        total_steps=epochs * run.sampler.steps_per_epoch,
        done_steps=run.progress.step,
        speed=run.speed,
        console=None if is_main_process() else Console(quiet=True, force_terminal=False),
    )


def train_epochs(run: Run, stop: StopRequest, log: Log, bar: TrainingConsole, hooks: Hooks) -> Metrics:
    """Runs the remaining epochs.

    Args:
        run: the state of the training.
        stop: may end the run between two steps.
        log: gets the losses and the figures.
        bar: shows the progress.
        hooks: the callbacks of the user.

    Returns:
        The figures of the last evaluation.

    Raises:
        TrainingStopped: a signal ended the run.
        NonFiniteLossError: a loss, the gradient or the weights are not finite.
        DivergenceError: the loss is far above its start.
    """
    metrics = None
    try:
        hooks.start()
        while run.progress.epoch < run.recipe.optim.epochs and not explain_stop(run):
            metrics = None
            train_epoch(run, stop, log, bar, hooks)
            require_steps(run.progress, run.scaler.get_scale(), ended=run.is_last_epoch)
            metrics = finish_epoch(run, stop, log, bar)
            hooks.epoch(metrics)
        if reason := explain_stop(run):
            bar.say(reason)
    except StopTraining as stopped:
        bar.say(f"step {run.progress.step}: a callback ended the training" + (f": {stopped}" if str(stopped) else ""))
        if not metrics:
            run.save()
            metrics = evaluate_run(run, stop, bar)
            record_metrics(run, metrics, log, bar)
    if run.progress.replaced:
        count = len(run.progress.replaced)
        bar.say(
            f"{count_noun(count, 'image')} could not be used and {verb_form(count, 'was', 'were')} replaced by others:"
        )
        for reason in run.progress.replaced:
            bar.say(f"  {reason}")
    metrics = metrics or evaluate_run(run, stop, bar)
    hooks.end(metrics)
    return metrics


def train_epoch(run: Run, stop: StopRequest, log: Log, bar: TrainingConsole, hooks: Hooks) -> None:
    """Runs the remaining steps of the epoch.

    Args:
        run: the state of the training.
        stop: may end the run between two steps.
        log: gets the losses.
        bar: shows the progress.
        hooks: the callbacks of the user.
    """
    progress = run.progress
    run.model.train()
    run.speed.pause()
    for batch in iterate_batches(run, stop, bar):
        record_replaced(run, batch, log, bar)
        if run.rotated is not None:
            run.rotated |= {info.image_id: info for info in batch.infos if info.exif != 1}
        losses, figures = train_step(run, batch.to(run.device))
        run.speed.step()
        progress.step += 1
        progress.step_in_epoch += 1
        for name, value in {**losses, **figures, "steps": 1.0}.items():
            progress.window[name] = progress.window.get(name, 0.0) + value
        bar.step(epoch=progress.epoch, step=progress.step, losses=losses)
        if warning := watch_loss(losses, progress, run.recipe):
            bar.say(warning)
        if progress.step % run.recipe.run.log_every == 0:
            log_window(run, log, bar)
        if progress.step % run.recipe.run.checkpoint_steps == 0:
            run.save()
        hooks.step(losses)
    with all_or_none():
        stop.check()
    report_orientations(run, bar)


def report_orientations(run: Run, bar: TrainingConsole) -> None:
    """Prints after the first epoch, when all images were read once, how many images have an EXIF orientation."""
    if run.rotated is None:
        return
    rotated = {image_id: info for infos in gather_on_all(run.rotated) for image_id, info in infos.items()}
    if line := describe_orientations(rotated.values()):
        bar.say(line)
    run.rotated = None


def iterate_batches(run: Run, stop: StopRequest, bar: TrainingConsole) -> Iterator[Batch]:
    """Iterates over the remaining batches of the epoch. All processes get a batch, or all raise the same error.

    Args:
        run: the state of the training.
        stop: may end the run before each batch.
        bar: prints a line when a loader process died and was replaced.

    Returns:
        The batches of this process.

    Raises:
        WorkerError: a loader process died, and so did its replacement.
    """
    steps, progress = run.sampler.steps_per_epoch, run.progress
    run.sampler.set_epoch(progress.epoch, start_step=progress.step_in_epoch)
    loader = run.loader.batches(
        say=lambda line: bar.say(f"step {progress.step}: {line}"),
        check=stop.check,
        clean=is_clean_epoch(run.recipe, progress.epoch),
    )
    while progress.step_in_epoch < steps:
        with all_or_none():
            stop.check()
            batch = next(loader)
        yield batch


def record_replaced(run: Run, batch: Batch, log: Log, bar: TrainingConsole) -> None:
    """Logs the images of the step that could not be used.

    Args:
        run: the state of the training; counts these images.
        batch: the batch of this process.
        log: gets a line for each of these images.
        bar: prints the same lines.

    Raises:
        ImageError: there are now more such images than ``data.max_bad_images`` allows.
    """
    replaced, data = run.progress.replaced, run.recipe.data
    if not total(len(batch.replaced))[0]:
        return
    for reason in (reason for reasons in gather_on_all(batch.replaced) for reason in reasons):
        if reason in replaced:
            continue
        if len(replaced) + 1 > data.max_bad_images * run.train_data.num_images:
            raise ImageError(
                f"{reason} ({count_part(len(replaced) + 1, run.train_data.num_images, 'image')} cannot be used; "
                f"data.max_bad_images = {data.max_bad_images:g} allows fewer)"
            )
        replaced.append(reason)
        bar.say(f"step {run.progress.step}: {reason}; another image takes its place")
        log.write(
            "image", epoch=run.progress.epoch, step=run.progress.step, values={"replaced": len(replaced)}, text=reason
        )


def train_step(run: Run, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """Makes one step of the optimizer.

    The batch is split into ``optim.accumulation_steps`` parts. A loss is the mean of the losses of the parts, and the
    gradient is the mean of their gradients. It equals the gradient of the whole batch if all parts average over equally
    many regions (see docs/recipes.md).

    Returns:
        The losses by name, and the figures of `take_step`.
    """
    optim, step, epoch = run.recipe.optim, run.progress.step, run.progress.epoch
    values: dict[str, float] = {}
    seed_everything(run.recipe.run.seed, step, rank())
    rate = get_learning_rate(run.recipe, step=step, epoch=epoch, steps_per_epoch=run.sampler.steps_per_epoch)
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
    run.optimizer.zero_grad()
    parts = batch.split(optim.accumulation_steps)
    for part in parts:
        with without_gradient_sync(run.network) if part is not parts[-1] else nullcontext():
            with all_or_none(), autocast(run.device, run.recipe.run.precision):
                losses = compute_losses(run.network, part, step)
                costs = torch.stack(list(losses.values())) / optim.accumulation_steps
                require_finite(dict(zip(losses, costs.tolist(), strict=True)), step, part)
            run.scaler.scale(costs.sum()).backward()
        for name, value in zip(losses, mean(costs).tolist(), strict=True):
            values[name] = values.get(name, 0.0) + value
    return values, take_step(run, batch)


def take_step(run: Run, batch: Batch) -> dict[str, float]:
    """Updates the weights, unless the gradient is not finite.

    In float16 the scaler leaves out a step when the gradient overflows, and lowers the scale. Only many such steps are
    an error. All processes have the same gradient, so they make the same decision.

    Returns:
        Figures for the log: the norm of the gradient if it is clipped, or ``left_out``.

    Raises:
        NonFiniteLossError: the gradient is not finite; in float16 the gradients of many steps in a row.
    """
    optim, progress = run.recipe.optim, run.progress
    run.scaler.unscale_(run.optimizer)
    norm = compute_gradient_norm(run.model.parameters())
    if optim.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(run.model.parameters(), optim.clip_norm, norm)
    figures = {"gradient_norm": norm.item()}
    if not run.scaler.is_enabled():
        require_finite(figures, progress.step, batch)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if math.isfinite(figures["gradient_norm"]):
        progress.left_out_in_a_row = 0
        run.finish_step()
        return figures if optim.clip_norm is not None else {}
    progress.left_out += 1
    progress.left_out_in_a_row += 1
    require_steps(progress, run.scaler.get_scale(), ended=False)
    return {"left_out": 1.0}


def compute_losses(network: torch.nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
    """Computes the losses of the network.

    Args:
        network: in training mode.
        batch: on the device of the network.
        step: the number of the step, for error messages.

    Returns:
        The losses by name: scalar tensors.

    Raises:
        ValueError: a target cannot be used, such as a polygon of gigabytes; names the step and the images.
    """
    try:
        return network(batch.images, batch.targets)
    except ValueError as error:
        ids = [info.image_id for info in batch.infos]
        raise ValueError(f"step {step}: {error} (on the images with ids {ids})") from error


def without_gradient_sync(network: torch.nn.Module) -> AbstractContextManager[None]:
    """Keeps the gradients in their process; only the backward pass of the last part averages over processes."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def finish_epoch(run: Run, stop: StopRequest, log: Log, bar: TrainingConsole) -> Metrics | None:
    """Evaluates the model and saves a checkpoint, each if the settings want it after this epoch.

    Args:
        run: the state of the training.
        stop: may end the run during the evaluation.
        log: gets the figures.
        bar: prints the figures.

    Returns:
        The figures of the evaluation; None without one.
    """
    settings, progress, metrics = run.recipe.run, run.progress, None
    if run.is_last_epoch or is_epoch_due(settings.eval_every, progress.epoch):
        run.save()  # an evaluation that fails must not lose the epoch
        metrics = evaluate_run(run, stop, bar, ended=run.is_last_epoch)
    save_due = run.is_last_epoch or metrics or is_epoch_due(settings.checkpoint_every, progress.epoch)
    progress.epoch += 1
    progress.step_in_epoch = 0
    if metrics:
        record_metrics(run, metrics, log, bar)
    if save_due:
        run.save()
    return metrics


def record_metrics(run: Run, metrics: Metrics, log: Log, bar: TrainingConsole) -> None:
    """Logs and prints the figures of an evaluation; saves the checkpoint as the best one if no earlier one is better.

    Args:
        run: the state of the training.
        metrics: the figures.
        log: gets the figures.
        bar: prints the figures.
    """
    progress, settings = run.progress, run.recipe.run
    if record_evaluation(progress, get_figure(metrics, settings.best_by), settings.min_gain):
        run.save(best_path(run.folder))
    log.write("val", epoch=progress.epoch, step=progress.step, values=metrics.flatten())
    bar.say(f"epoch {progress.epoch}: {describe_metrics(metrics)}")
    for line in metrics.describe_extra():
        bar.say(f"  {line}")


def is_epoch_due(every: int, epoch: int) -> bool:
    """Whether ``epoch`` (from 0) is the last of each ``every`` epochs; never with ``every`` 0."""
    return every > 0 and (epoch + 1) % every == 0


def evaluate_run(run: Run, stop: StopRequest, bar: TrainingConsole, *, ended: bool = True) -> Metrics:
    """Evaluates the model on the validation set; writes results.json and metrics.json.

    Images that cannot be used are named and count as images without detections.

    Args:
        run: the state of the training.
        stop: may end the run between two batches.
        bar: shows the progress.
        ended: whether the training is over; then a note says what to try if the model has learned nothing.

    Returns:
        The figures.
    """
    unread: list[str] = []
    run.share_statistics()

    def show_progress(done: int, total: int) -> None:
        bar.show_evaluation(done, total)
        stop.check()

    results = gather_batches(
        lambda: detect_all(
            run.evaluated,
            run.val_data,
            run.recipe.data,
            device=run.device,
            precision=run.recipe.run.precision,
            rank=rank(),
            world_size=world_size(),
            progress=show_progress,
            say=bar.say,
            unread=unread,
        )
    )
    unread = [reason for reasons in gather_on_all(unread) for reason in reasons]
    metrics = on_main_process(lambda: measure(run.evaluated, run.val_data, results, unread, own=run.recipe.metrics))
    if ended and (advice := explain_no_learning(run.recipe, metrics, run.val_data, steps=run.progress.step)):
        metrics = replace(metrics, notes=(*metrics.notes, advice))
    for line in describe_unread(unread):
        bar.say(f"evaluation: {line}")
    on_main_process(lambda: save_results(run.folder, run.val_data, results, metrics))
    return metrics


def log_window(run: Run, log: Log, bar: TrainingConsole) -> None:
    """Logs the mean losses since the last line, the learning rate and the speed.

    Args:
        run: the state of the training.
        log: gets the figures.
        bar: prints the losses from time to time.
    """
    sums, progress = run.progress.window, run.progress
    steps, left_out = sums.pop("steps"), sums.pop("left_out", 0.0)
    means = {name: value / steps for name, value in sums.items()}
    losses = {name: value for name, value in means.items() if name.startswith("loss")}
    rate = run.optimizer.param_groups[0]["lr"]
    values = {"loss": sum(losses.values()), **means, "lr": rate, "images_per_second": run.speed.images_per_second}
    if run.scaler.is_enabled():
        values |= {"scale": run.scaler.get_scale(), "steps_left_out": progress.left_out}
    if left_out:
        bar.say(
            f"step {progress.step}: {left_out:.0f} of the last {steps:.0f} steps were left out because their gradient "
            f"was too large for float16; the scale of the loss is {run.scaler.get_scale():g} now"
        )
    log.write("train", epoch=progress.epoch, step=progress.step, values=values)
    bar.log(epoch=progress.epoch, step=progress.step, losses=losses, rate=rate)
    progress.window = {}


def describe_metrics(metrics: Metrics) -> str:
    """Writes the figures as ``masks AP 19.0, APr 4.9, APc 16.8, APf 27.6; boxes AP 19.1 ...``."""
    return "; ".join(
        f"{ROW_NAMES[kind]} "
        + ", ".join(f"{name} {format_percent(scores[name])}" for name in ("AP", "APr", "APc", "APf"))
        for kind, scores in reversed(metrics.scores.items())
    )
