"""Computes the feature maps of a frozen backbone once, before a training (``data.keep_maps``)."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.data.kept_maps import KeptMaps, MapWriter, write_kept_maps
from tailseg.data.loader import DetectionDataset, Loader
from tailseg.data.transforms import evaluation_transform
from tailseg.files import get_cache_folder
from tailseg.models.backbones import get_out_channels
from tailseg.models.detector import Detector, TwoStageDetector
from tailseg.models.precision import autocast
from tailseg.recipes.recipe import DataConfig, Recipe
from tailseg.structures import ImageMaps
from tailseg.training.console import track_progress

FREE_SHARE: Final = 0.9
"""The largest share of the free disk that the maps may fill."""


def prepare_kept_maps(
    model: Detector, annotations: Annotations, images: np.ndarray, recipe: Recipe, device: torch.device
) -> KeptMaps:
    """Finds the kept maps of the training images, or computes them and keeps them in the cache folder.

    The maps of a run with the same backbone, weights, image files and sizes are found.

    Args:
        model: a two-stage detector whose backbone is frozen, on ``device``.
        annotations: the training set.
        images: positions of the images that are trained.
        recipe: the sizes of the images, the flip, the precision, and the number of loader processes.
        device: of the model.

    Returns:
        The maps.

    Raises:
        ValueError: the detector has no frozen backbone, the maps do not fit into float16, or the disk has no room.
        ImageError: the first image is not there.
    """
    if not isinstance(model, TwoStageDetector):
        raise ValueError(
            f"data.keep_maps needs a detector of tailseg with a frozen backbone, got a {type(model).__name__}: leave "
            "--data.keep-maps out"
        )
    if trained := [name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]:
        raise ValueError(
            f"data.keep_maps keeps the maps of a backbone that is not trained, but {len(trained)} of its parameters "
            f"are trained ({trained[0]} ..): set --model.backbone.frozen-stages 4, or leave --data.keep-maps out"
        )
    folder = get_cache_folder() / "maps" / compute_key(model, annotations, images, recipe)
    with suppress(OSError):
        return KeptMaps(folder)
    _require_space(folder, annotations, images, recipe.data, get_out_channels(model.backbone))
    training = model.training
    model.eval()
    with write_kept_maps(folder, get_out_channels(model.backbone)) as writer:
        for short_side in recipe.data.short_sides:
            _compute_maps(model, annotations, images, recipe, device, short_side, writer)
    model.train(training)
    return KeptMaps(folder)


def compute_key(model: TwoStageDetector, annotations: Annotations, images: np.ndarray, recipe: Recipe) -> str:
    """Computes the name of the folder: a hash of all that the maps depend on.

    This is the backbone with its weights and its normalization, the sizes of the images, and the names, sizes and
    times of the image files.

    Args:
        model: has the backbone.
        annotations: the training set.
        images: positions of the images that are trained.
        recipe: the sizes of the images, the flip and the precision.

    Returns:
        32 hexadecimal digits.
    """
    data, digest = recipe.data, hashlib.sha256()
    settings = (model.config.backbone, data.short_sides, data.max_long_side, data.flip > 0, recipe.run.precision)
    digest.update(repr(settings).encode())
    for name, value in [*model.backbone.state_dict().items(), *model.batcher.named_buffers()]:
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for image in images.tolist():
        digest.update(json.dumps([image, *_describe_file(annotations, image)]).encode())
    return digest.hexdigest()[:32]


def _describe_file(annotations: Annotations, image: int) -> tuple[object, ...]:
    try:
        info = annotations.get_info(image)
        state = Path(info.file).stat()
    except (ImageError, OSError) as error:
        return (str(error),)
    return info.file, info.height, info.width, info.orientation, state.st_size, state.st_mtime_ns


def _require_space(
    folder: Path, annotations: Annotations, images: np.ndarray, data: DataConfig, channels: Sequence[int]
) -> None:
    """Refuses maps that would fill the disk."""
    needed = 0
    for height, width in annotations.sizes[images].tolist():
        for short_side in data.short_sides:
            scale = min(short_side / min(height, width), data.max_long_side / max(height, width))
            size = int(height * scale + 0.5), int(width * scale + 0.5)
            needed += 2 * ImageMaps.count_values(size, channels) * (2 if data.flip > 0 else 1)
    place = next(place for place in folder.parents if place.is_dir())
    free = shutil.disk_usage(place).free
    if needed > FREE_SHARE * free:
        raise ValueError(
            f"data.keep_maps: the maps of {len(images):,} images need {needed / 1e9:.1f} GB, and {place} has "
            f"{free / 1e9:.1f} GB free: set TAILSEG_HOME to a folder with more space, lower --data.short-sides, or "
            "leave --data.keep-maps out"
        )


@torch.no_grad()
def _compute_maps(
    model: TwoStageDetector,
    annotations: Annotations,
    images: np.ndarray,
    recipe: Recipe,
    device: torch.device,
    short_side: int,
    writer: MapWriter,
) -> None:
    """Computes the maps of all images at one size, and those of the mirrored images."""
    data = recipe.data
    dataset = DetectionDataset(annotations, evaluation_transform(short_side, data.max_long_side))
    samples = [(image, 0) for image in images.tolist()]
    loader = Loader(dataset, samples, 1, data.workers, leave_out=True)
    batches = track_progress(loader, f"feature maps of the backbone, short side {short_side}", len(samples))
    for (image, _), batch in zip(samples, batches, strict=True):
        if batch.replaced:
            writer.index.errors[str(image)] = batch.replaced[0]
            continue
        pixels = batch.images[0]
        assert isinstance(pixels, Tensor)
        views = [pixels.to(device)]
        if data.flip > 0:
            views.append(views[0].flip(2))
        with autocast(device, recipe.run.precision):
            maps, sizes = model.compute_features(views)
        if batch.infos[0].exif != 1:
            writer.index.exif[str(image)] = batch.infos[0].exif
        for view in range(len(views)):
            kept = ImageMaps.from_maps([level[view].float() for level in maps], sizes[view])
            writer.add(image, kept.to("cpu"), mirrored=view == 1)
