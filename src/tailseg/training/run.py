"""What training works on, made from a recipe."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import Optimizer

from tailseg.data.annotations import Annotations
from tailseg.data.loader import DetectionDataset, Loader, train_loader
from tailseg.data.sampler import TrainSampler
from tailseg.data.transforms import train_transform
from tailseg.models.detector import Detector
from tailseg.recipes.build import build_data, build_model, run_folder
from tailseg.recipes.recipe import DataConfig, Recipe
from tailseg.recipes.saved import save_recipe, to_plain
from tailseg.training import checkpoint
from tailseg.training.checkpoint import Checkpoint, Progress
from tailseg.training.console import Speed
from tailseg.training.device import choose_device, seed_everything
from tailseg.training.optimiser import PUBLISHED_BATCH_SIZE, build_optimizer


@dataclass
class Run:
    """What training works on; only the model, the optimiser and the progress change."""

    recipe: Recipe
    folder: Path
    device: torch.device
    train_data: Annotations
    val_data: Annotations
    sampler: TrainSampler
    loader: Loader
    model: Detector
    optimizer: Optimizer
    progress: Progress
    speed: Speed

    @property
    def is_last_epoch(self) -> bool:
        return self.progress.epoch == self.recipe.optim.epochs - 1

    def save(self, path: Path | None = None) -> Path:
        """Writes a checkpoint, and removes those that are too old; returns its path."""
        path = path or checkpoint.step_path(self.folder, self.progress.step)
        content = Checkpoint(
            recipe=to_plain(self.recipe),
            categories=self.train_data.categories,
            frequency=self.train_data.frequency,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            progress=self.progress,
        )
        checkpoint.save(content, path)
        checkpoint.keep_newest(self.folder, self.recipe.run.keep_checkpoints)
        return path


def start(recipe: Recipe, *, resume: bool) -> Run:
    """The data, the model and the optimiser, new or as the newest checkpoint left them."""
    folder = run_folder(recipe)
    newest = checkpoint.latest(folder)
    if newest and not resume:
        raise ValueError(f"{folder} holds a run already: go on with it (--resume), or name another folder (--run.out)")
    saved = checkpoint.load(newest) if newest else None
    if saved and newest:
        checkpoint.check_recipe(saved, recipe, newest)
    folder.mkdir(parents=True, exist_ok=True)
    device = choose_device(recipe.run.device)
    train_data, val_data = build_data(recipe)
    if recipe.model.mask is not None and not train_data.has_masks:
        raise ValueError(
            f"{train_data.path} has objects without a segmentation, and this model learns masks: add them, or train "
            "boxes only (model.mask None)"
        )
    save_recipe(recipe, folder / "recipe.json")
    seed_everything(recipe.run.seed)
    first = Path(recipe.run.start_from) if recipe.run.start_from and not saved else None
    model = build_model(recipe, train_data.frequency, load_weights=not (saved or first)).to(device)
    if first:
        start_from(first, model, train_data)
    optimizer = build_optimizer(model, recipe.optim)
    if saved and newest:
        checkpoint.check_classes(saved, train_data.categories, newest)
        model.load_state_dict(saved.model)
        optimizer.load_state_dict(saved.optimizer)
    sampler = build_sampler(train_data, recipe)
    return Run(
        recipe=recipe,
        folder=folder,
        device=device,
        train_data=train_data,
        val_data=val_data,
        sampler=sampler,
        loader=build_train_loader(train_data, sampler, recipe.data),
        model=model,
        optimizer=optimizer,
        progress=saved.progress if saved else Progress(),
        speed=Speed(recipe.data.batch_size),
    )


def start_from(file: Path, model: Detector, data: Annotations) -> None:
    """Gives a model that is to be trained the weights of another run, or converted ones.

    Raises:
        CheckpointError: the file cannot be read, or is of other classes or another network.
    """
    saved = checkpoint.load(file)
    checkpoint.check_classes(saved, data.categories, file)
    checkpoint.check_model(saved, model, file)
    model.load_state_dict(saved.model)


def build_sampler(annotations: Annotations, recipe: Recipe) -> TrainSampler:
    """The order of the training images."""
    return TrainSampler(
        annotations,
        batch_size=recipe.data.batch_size,
        repeat_threshold=recipe.data.repeat_threshold,
        rounding=recipe.data.repeat_rounding,
        seed=recipe.run.seed,
        filter_empty=recipe.data.filter_empty,
    )


def build_train_loader(annotations: Annotations, sampler: TrainSampler, data: DataConfig) -> Loader:
    """Batches of the epoch that the sampler is set to."""
    transform = train_transform(data.short_sides, data.max_long_side, data.flip, crop=data.crop)
    dataset = DetectionDataset(annotations, transform)
    return train_loader(dataset, sampler, data.batch_size, data.workers)


def describe(run: Run) -> str:
    """What is trained, on what, where to; for the console."""
    recipe, progress = run.recipe, run.progress
    start = f"going on after step {progress.step}" if progress.step else f"{recipe.optim.epochs} epochs"
    rate = recipe.optim.lr * recipe.data.batch_size / PUBLISHED_BATCH_SIZE
    parts = f" in {recipe.optim.accumulate} parts" if recipe.optim.accumulate > 1 else ""
    return (
        f"{recipe.name}: {run.train_data.num_images:,} images, {len(run.train_data.categories):,} classes, {start}, "
        f"{recipe.data.batch_size} images a step{parts}, lr {rate:.3g} "
        f"({recipe.optim.lr:g} for {PUBLISHED_BATCH_SIZE} images), on {run.device}, into {run.folder}"
    )
