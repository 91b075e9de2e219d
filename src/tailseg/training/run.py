"""The state of a training run, and how it is built from a recipe."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tailseg.annotations.dataset import Annotations, find_untrained_classes
from tailseg.annotations.hold_out import read_remarks
from tailseg.data.cutouts import open_cutouts
from tailseg.data.epoch_plan import (
    compute_class_factors,
    compute_class_shares,
    list_sampling_notes,
    resolve_threshold,
)
from tailseg.data.kept_maps import KeptMaps
from tailseg.data.loader import DetectionDataset, Loader, train_loader
from tailseg.data.paste import CopyPaste
from tailseg.data.sampler import TrainSampler
from tailseg.data.source import open_source, write_source
from tailseg.data.transforms import Transform, color_transform, train_transform
from tailseg.data.verified import describe_verified
from tailseg.losses import ClassificationLoss
from tailseg.models.detector import Detector
from tailseg.models.optimizers import was_saved_with_more_decay
from tailseg.recipes.build import build_data, build_model, run_folder
from tailseg.recipes.recipe import PUBLISHED_BATCH_SIZE, AdamWConfig, DataConfig, Recipe
from tailseg.recipes.saved import save_recipe, to_saved
from tailseg.structures import ClassFrequency, ImageInfo
from tailseg.training import checkpoint
from tailseg.training.checkpoint import Checkpoint, Progress
from tailseg.training.console import Speed, track_progress
from tailseg.training.device import choose_device, seed_everything
from tailseg.training.distributed import (
    distribute,
    is_main_process,
    main_process_first,
    on_main_process,
    rank,
    world_size,
)
from tailseg.training.finite import require_finite_weights
from tailseg.training.first_weights import load_initial_weights
from tailseg.training.fit import (
    check_classes,
    check_data,
    check_shares,
    get_common_fingerprint,
    get_saved_epochs,
    list_size_notes,
)
from tailseg.training.kept_maps import prepare_kept_maps
from tailseg.training.norms import average_over_processes, list_running_statistics, update_average
from tailseg.training.optimizer import compute_decay, describe_extension, list_schedule_notes
from tailseg.training.resolved_settings import resolve_settings
from tailseg.training.run_files import keep_newest, open_folder, step_path
from tailseg.words import count_noun, verb_form


@dataclass
class Run:
    """The state of a training run.

    Attributes:
        model: the detector that the optimizer trains.
        network: the same detector, wrapped so that its gradients are the mean over all processes.
        scaler: scales float16's loss; does nothing for other precisions.
        average: the moving average of the model's weights (``optim.ema_decay``), or None.
        statistics: names of the batch norms' running means and variances that training updates.
        fingerprint: of the training set.
        notes: lines for the user before the first step.
        rotated: images read so far with an EXIF orientation other than 1, by id; None after they were reported.
    """

    recipe: Recipe
    folder: Path
    device: torch.device
    train_data: Annotations
    val_data: Annotations
    sampler: TrainSampler
    loader: Loader
    model: Detector
    network: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    statistics: tuple[str, ...]
    progress: Progress
    fingerprint: str
    speed: Speed
    notes: list[str] = field(default_factory=list)
    rotated: dict[int, ImageInfo] | None = field(default_factory=dict)

    @property
    def is_last_epoch(self) -> bool:
        return self.progress.epoch == self.recipe.optim.epochs - 1

    @property
    def evaluated(self) -> Detector:
        """The model that is evaluated: the average of the weights if the run has one, else the trained model."""
        return cast(Detector, self.average.module) if self.average else self.model

    def share_statistics(self) -> None:
        """Averages the running statistics of batch norms over all processes, before an evaluation or a checkpoint."""
        for model in [self.model, *([self.evaluated] if self.average else [])]:
            average_over_processes(model, self.statistics)

    def finish_step(self) -> None:
        """Informs the losses, since some count the steps, and updates the average of the weights."""
        for module in self.model.modules():
            if isinstance(module, ClassificationLoss):
                module.step_taken()
        if self.average and self.recipe.optim.ema_decay:
            decay = compute_decay(self.recipe.optim.ema_decay, int(self.average.n_averaged))
            self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)
            update_average(self.average, self.model, self.statistics)

    def save(self, path: Path | None = None) -> Path:
        """Writes a checkpoint in the main process, removes those that are too old, and returns its path.

        Raises:
            NonFiniteLossError: weights are NaN or infinite; the checkpoints stay unchanged.
        """
        self.share_statistics()
        path = path or step_path(self.folder, self.progress.step)

        def write() -> None:
            content = Checkpoint(
                recipe=to_saved(self.recipe),
                categories=self.train_data.categories,
                frequency=ClassFrequency.from_class_counts(self.train_data.frequency),
                model=self.evaluated.state_dict(),
                optimizer=self.optimizer.state_dict(),
                progress=self.progress,
                trained=self.model.state_dict() if self.average else {},
                scaler=self.scaler.state_dict(),
                data=self.fingerprint,
            )
            require_finite_weights((content.model, content.trained), self.progress.step)
            checkpoint.save(content, path)
            keep_newest(self.folder, self.recipe.run.keep_checkpoints)

        on_main_process(write)
        return path

    def restore(self, saved: Checkpoint) -> None:
        """Restores the weights, the optimizer, the progress and the average from a checkpoint."""
        self.model.load_state_dict(saved.trained or saved.model)
        optim = self.recipe.optim
        if isinstance(optim, AdamWConfig) and was_saved_with_more_decay(self.optimizer, saved.optimizer):
            self.optimizer = optim.build(self.model, spare_timm=False)
        self.optimizer.load_state_dict(saved.optimizer)
        self.scaler.load_state_dict(saved.scaler)
        self.progress = saved.progress
        if self.average:
            self.average.module.load_state_dict(saved.model)
            self.average.n_averaged.fill_(saved.progress.step - saved.progress.left_out)


def start(recipe: Recipe, *, resume: bool) -> Run:
    """Builds the data, the model and the optimizer of a run; a resumed run loads its newest readable checkpoint.

    Args:
        recipe: every setting of the run.
        resume: continue from the newest checkpoint in the run's folder.

    Returns:
        The state of the run before its next step.

    Raises:
        ValueError: the folder, the data, the weights of the backbone or the checkpoint cannot be used.
    """
    folder = run_folder(recipe)
    check_shares(recipe, world_size())
    recipe = on_main_process(lambda: resolve_settings(recipe, folder))
    newest = on_main_process(lambda: open_folder(recipe, folder, resume=resume))
    device = choose_device(recipe.run.device)
    with main_process_first():  # the other processes find what the main process writes and downloads
        if recipe.data.source is not None:
            written = bool(newest) or not is_main_process()
            source, workers = open_source(recipe.data.source), recipe.data.workers
            write_source(source, folder, workers=workers, track=track_progress, again=not written)
        train_data, val_data = build_data(recipe, trained=bool(newest))
        seed_everything(recipe.run.seed)
        first = Path(recipe.run.init_from) if recipe.run.init_from and not newest else None
        frequency = ClassFrequency.from_class_counts(train_data.frequency)
        model = build_model(recipe, frequency, load_weights=not (newest or first)).to(device)
        first_notes = load_initial_weights(first, model, train_data.categories) if first else []
        sampler = build_sampler(train_data, recipe)
        loader = build_train_loader(train_data, sampler, recipe.data)
    if recipe.run.compile:
        model.compile_parts()
    run = Run(
        recipe=recipe,
        folder=folder,
        device=device,
        train_data=train_data,
        val_data=val_data,
        sampler=sampler,
        loader=loader,
        model=model,
        network=model,
        optimizer=build_optimizer(model, recipe),
        scaler=torch.amp.GradScaler(device.type, enabled=recipe.run.precision == "float16"),
        average=None if recipe.optim.ema_decay is None else AveragedModel(model),
        statistics=list_running_statistics(model.train()),
        progress=Progress(),
        fingerprint=get_common_fingerprint(train_data),
        speed=Speed(recipe.data.batch_size),
        notes=first_notes
        + (
            list_size_notes(recipe.data, train_data.sizes)
            if not (recipe.data.augmentation or recipe.data.jitter)
            else []
        )
        + ([] if newest else list_schedule_notes(recipe, sampler.steps_per_epoch))
        + list_sampling_notes(train_data, sampler.plan)
        + ([describe_verified(train_data)] if recipe.data.only_verified else [])
        + [
            f"{data.path}: {note}"
            for data in ({train_data.path: train_data, val_data.path: val_data}).values()
            # Remarks say what training makes of a file; nothing is trained on the validation set.
            for note in (*data.notes, *(data.remarks if data is train_data else ()))
        ],
    )
    if newest:
        saved, file, damages = newest
        run.notes = [*run.notes, *damages]
        check_classes(saved, train_data.categories, file)
        check_data(saved, train_data, run.fingerprint, file, recipe)
        extended = recipe.optim.epochs > get_saved_epochs(saved)
        if extended:
            run.notes.append(describe_extension(recipe, saved, sampler.steps_per_epoch))
        run.restore(saved)
        if extended:  # a run that ended early goes on
            run.progress.evaluations_without_gain = 0
    if recipe.data.keep_maps:  # after all weights are loaded
        with main_process_first():
            maps = prepare_kept_maps(run.model, train_data, sampler.images, recipe, device)
        run.loader = build_train_loader(train_data, sampler, recipe.data, maps)
        run.notes.append(f"kept maps: {maps.num_bytes / 1e6:,.0f} MB in {maps.file.parent}, which you may delete")
    if resume:  # a refused command must not change the settings of the run
        on_main_process(lambda: save_recipe(recipe, folder / "recipe.json"))
    run.network = distribute(model, device)
    return run


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Builds the optimizer of the recipe.

    Raises:
        ValueError: the model has no trainable parameter, or ``recipe.optim.build`` does not return an optimizer.
    """
    optimizer = recipe.optim.build(model)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"optim: {type(recipe.optim).__name__}.build returned a {type(optimizer).__name__}, expected a "
            "torch.optim.Optimizer"
        )
    return optimizer


def build_sampler(annotations: Annotations, recipe: Recipe) -> TrainSampler:
    """Builds the sampler, which decides the order of the training images."""
    return TrainSampler(
        annotations,
        batch_size=recipe.data.batch_size,
        sampling=recipe.data.sampling,
        repeat_threshold=recipe.data.repeat_threshold,
        repeat_exponent=recipe.data.repeat_exponent,
        rounding=recipe.data.repeat_rounding,
        seed=recipe.run.seed,
        filter_empty=recipe.data.filter_empty,
        rank=rank(),
        world_size=world_size(),
    )


def build_train_loader(
    annotations: Annotations, sampler: TrainSampler, data: DataConfig, maps: KeptMaps | None = None
) -> Loader:
    """Builds the loader of the training batches.

    Args:
        annotations: the training set.
        sampler: decides the order of the images and this process's share of them.
        data: the augmentation, the batch size over all processes, and the number of loader processes.
        maps: read instead of the images, if they are kept.

    Returns:
        The loader of this process's part of each batch, for the epoch that the sampler is set to.
    """
    clean = None
    if data.clean_epochs:
        clean = DetectionDataset(
            annotations, build_augmentation(replace(data, jitter=None)), only_verified=data.only_verified, maps=maps
        )
    dataset = build_train_dataset(annotations, data, maps)
    return train_loader(dataset, sampler, data.batch_size // sampler.world_size, data.workers, clean=clean)


def build_train_dataset(annotations: Annotations, data: DataConfig, maps: KeptMaps | None = None) -> DetectionDataset:
    """Builds the training images and their targets, with the whole augmentation.

    Args:
        annotations: the training set.
        data: the augmentation.
        maps: read instead of the images, if they are kept.

    Returns:
        The images and targets.
    """
    return DetectionDataset(
        annotations,
        build_augmentation(data),
        paste=None if data.paste is None else build_paste(annotations, data),
        color=None if data.color is None else color_transform(data.color),
        only_verified=data.only_verified,
        tight_boxes=data.jitter is not None,  # as in the published recipes with large-scale jitter
        maps=maps,
    )


def build_paste(annotations: Annotations, data: DataConfig) -> CopyPaste:
    """Builds copy-paste for a training set. The cut-outs are made if there are none from an earlier run.

    Args:
        annotations: the training set.
        data: has the settings, ``data.paste``.

    Returns:
        What pastes objects into the training images.

    Raises:
        ValueError: the training set has no object to paste.
    """
    config = data.paste
    assert config is not None
    cutouts = open_cutouts(
        annotations,
        objects_per_class=config.objects_per_class,
        max_megabytes=config.max_megabytes,
        workers=data.workers,
        track=track_progress,
    )
    threshold = data.repeat_threshold if config.repeat_threshold is None else config.repeat_threshold
    shares = compute_class_shares(annotations, instances=False)
    return CopyPaste(cutouts, config, compute_class_factors(shares, resolve_threshold(shares, threshold), 0.5))


def is_clean_epoch(recipe: Recipe, epoch: int) -> bool:
    """Whether ``epoch`` (from 0) is one of the last epochs, which have no jitter, color and paste."""
    return epoch >= recipe.optim.epochs - recipe.data.clean_epochs


def build_augmentation(data: DataConfig) -> Transform:
    """Builds the transform of the training images.

    Raises:
        ValueError: ``data.augmentation.build`` does not return a function.
    """
    if data.augmentation is None:
        return train_transform(data.short_sides, data.max_long_side, data.flip, crop=data.crop, jitter=data.jitter)
    transform = cast("Any", data.augmentation).build(data)
    if not callable(transform):
        raise ValueError(
            f"data.augmentation: {type(data.augmentation).__name__}.build(data) returned a {type(transform).__name__}, "
            "expected a transform: (image, target) -> (image, target)"
        )
    return transform


def describe(run: Run) -> str:
    """Describes a run in one line: the recipe, the data, the length, the device and the folder."""
    recipe, progress = run.recipe, run.progress
    length = f"continued after step {progress.step}" if progress.step else count_noun(recipe.optim.epochs, "epoch")
    rate = recipe.optim.lr * recipe.data.batch_size / PUBLISHED_BATCH_SIZE
    parts = f" in {recipe.optim.accumulation_steps} parts" if recipe.optim.accumulation_steps > 1 else ""
    processes = f" of {world_size()} processes" if world_size() > 1 else ""
    return (
        f"{recipe.name}: {_count(len(run.sampler.images), int(run.train_data.objects.trainable.sum()))} to train on, "
        f"{count_noun(len(run.train_data.categories), 'class')}, {length}, "
        f"{count_noun(recipe.data.batch_size, 'image')} a step{parts}{processes}, lr {rate:.3g} "
        f"({recipe.optim.lr:g} for {PUBLISHED_BATCH_SIZE} images), on {run.device}, into {run.folder}"
    )


def describe_data(run: Run) -> list[str]:
    """Describes the data of a run: the validation set, what is left out of the training, and why."""
    data, objects, val = run.train_data, run.train_data.objects, run.val_data
    held_out = run.recipe.data.val is None
    lines = [
        f"{'held out' if held_out else 'validation set'}: {_count(val.num_images, val.num_objects)} ({val.path})",
        *(read_remarks(val.path.parent) if held_out else ()),
    ]
    empty = data.num_images - len(run.sampler.images)
    ignored, small = int(objects.ignored.sum()), int((~objects.ignored & ~objects.trainable).sum())
    reasons = {
        f"{count_noun(empty, 'image')} without an object to learn from (--data.no-filter-empty takes them)": empty,
        count_noun(ignored, "crowd or ignore region"): ignored,
        f"{count_noun(small, 'object')} below one pixel": small,
    }
    if any(reasons.values()):
        lines.append(f"left out: {', '.join(text for text, count in reasons.items() if count)}")
    if unseen := find_untrained_classes(data, val):
        names = f"{', '.join(unseen[:5])}{' ..' * (len(unseen) > 5)}"
        lines.append(
            f"{count_noun(len(unseen), 'class')} with objects in {val.path} {verb_form(len(unseen), 'has', 'have')} "
            f"no objects in the training set ({names}): {verb_form(len(unseen), 'it counts', 'they count')} in AP, and "
            f"{verb_form(len(unseen), 'is', 'are')} in no frequency group unless the file states one"
        )
    return lines


def _count(images: int, objects: int) -> str:
    return f"{count_noun(images, 'image')} with {count_noun(objects, 'object')}"
