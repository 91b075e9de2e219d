"""A trained detector, ready for images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, overload

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.tv_tensors import Image

from tailseg.annotations.dataset import Category
from tailseg.annotations.types import Group, Orientation
from tailseg.data.images import load_image
from tailseg.data.transforms import evaluation_transform
from tailseg.detection import recalibration
from tailseg.detection.recalibration import Calibration, Setting
from tailseg.evaluation import thresholds
from tailseg.inference.images import ImageInput, to_rgb_tensor
from tailseg.models.optimize import InferenceConfig, for_inference
from tailseg.models.precision import Precision, autocast
from tailseg.recipes.build import build_model
from tailseg.recipes.recipe import Recipe
from tailseg.recipes.saved import from_plain
from tailseg.structures import ClassFrequency, Detections, ImageInfo
from tailseg.training.checkpoint import Checkpoint, load
from tailseg.training.device import choose_device
from tailseg.training.fit import check_model
from tailseg.training.run_files import choose


class Predictor:
    """A trained detector, ready for images.

    Several threads may use one predictor at a time: nothing of it changes after it is made, and each thread gets the
    same detections as one thread alone. A checkpoint is enough to make a predictor, because it also holds the classes
    and their frequencies; the data set is not needed.

    Attributes:
        file: the checkpoint file.
        checkpoint: the content of the file.
        recipe: the run's recipe.
        model: the detector on ``device``, prepared by `tailseg.models.optimize.for_inference`.
        device: the device that it computes on.
        precision: of the model's layers.
        categories: the classes, by label.
        names: the classes' names, by label.
        frequency: of the classes in the training set.
        calibration: changes the scores by class; its method is "none" if there is no calibration.
    """

    def __init__(
        self,
        file: Path,
        *,
        device: str = "auto",
        base: Recipe | None = None,
        modules: Sequence[str] = (),
        calibration: Calibration | Path | None = None,
        config: InferenceConfig = InferenceConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Loads a checkpoint file.

        Args:
            file: a run's ``checkpoints/*.pt``, or weights that `tailseg convert` wrote.
            device: auto is cuda if present, else cpu.
            base: your own recipe, if the run was trained with one.
            modules: your own modules, by name, if the run's settings have classes of yours. A checkpoint cannot name
                code that is then run: only ``base`` and these modules are used.
            calibration: changes the scores by class: a calibration, or the file that stores one.
            config: precision and compilation. The run's precision is used if it has none.

        Raises:
            CheckpointError: the file is missing, truncated or not tailseg's.
            ValueError: this version does not know the recipe, or the calibration does not fit the model.
        """
        self.file = file
        self._thresholds_file: Path | None = None
        self.device = choose_device(device)
        self.checkpoint: Checkpoint = load(file)
        self.recipe = from_plain(self.checkpoint.recipe, base=base, modules=modules, source=str(file))
        self.categories: tuple[Category, ...] = self.checkpoint.categories
        self.names: tuple[str, ...] = tuple(category.name for category in self.categories)
        self.frequency: ClassFrequency = self.checkpoint.frequency
        self.calibration: Calibration = self._read_calibration(calibration)
        self.precision: Precision = config.precision or self.recipe.run.precision
        model = build_model(self.recipe, self.frequency, load_weights=False)
        check_model(self.checkpoint, model, file)
        model.load_state_dict(self.checkpoint.model)
        recalibration.apply_calibration(model, self.calibration, self.frequency)
        self.model = for_inference(model.to(self.device), replace(config, precision=self.precision))

    def _read_calibration(self, calibration: Calibration | Path | None) -> Calibration:
        if isinstance(calibration, Path):
            return recalibration.load(calibration, self.frequency.num_classes)
        return calibration or Calibration(Setting())

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        checkpoint: Literal["best", "last"] = "best",
        device: str = "auto",
        base: Recipe | None = None,
        modules: Sequence[str] = (),
        calibrated: bool = True,
        config: InferenceConfig = InferenceConfig(),  # noqa: B008 (frozen)
    ) -> "Predictor":
        """Loads a model from a run's folder.

        Args:
            run: the folder of the run, or one checkpoint file.
            checkpoint: the best checkpoint (the last one if the run was never evaluated), or the last one.
            device: auto is cuda if present, else cpu.
            base: your own recipe, if the run was trained with one.
            modules: your own modules, by name, if the run's settings have classes of yours. A checkpoint cannot name
                code that is then run: only ``base`` and these modules are used.
            calibrated: use the calibration that `calibrate` stored in the folder, if there is one.
            config: precision and compilation. The run's precision is used if it has none.

        Returns:
            The predictor.

        Raises:
            CheckpointError: there is no run, or its checkpoint is truncated or not tailseg's.
            ValueError: this version does not know the recipe, or the stored calibration does not fit the model.
        """
        run = Path(run)
        if run.is_file():
            return cls(run, device=device, base=base, modules=modules, config=config)
        stored = run / recalibration.FILE
        calibration = stored if calibrated and stored.is_file() else None
        file = choose(run, checkpoint)
        predictor = cls(file, device=device, base=base, modules=modules, calibration=calibration, config=config)
        predictor._thresholds_file = run / thresholds.FILE
        return predictor

    @property
    def groups(self) -> tuple[Group, ...]:
        """The frequency group of each label."""
        return self.frequency.groups

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The score threshold of each label that `tailseg thresholds` stored in the run's folder; None without.

        The predictor returns detections of all scores: ``predictor(image).above(predictor.thresholds)`` selects.

        Raises:
            ValueError: the file is not one of thresholds, or of other classes.
        """
        return self._thresholds[0]

    @property
    def thresholds_note(self) -> str:
        """Why stored thresholds are not used: their scores were calibrated in another way; empty if they are used."""
        return self._thresholds[1]

    @cached_property
    def _thresholds(self) -> tuple[tuple[float, ...] | None, str]:
        file = self._thresholds_file
        if file is None or not file.is_file():
            return None, ""
        stored = thresholds.load(file)
        again = f"Run `tailseg thresholds {file.parent}` again, or delete the file"
        values = {entry.category_id: entry.threshold for entry in stored.classes}
        if sorted(values) != sorted(category.id for category in self.categories):
            raise ValueError(f"{file} has thresholds of other classes than the model. {again}")
        if stored.source is not None and stored.source != (scores := self.describe_scores()):
            return None, (
                f"{file} is not used: its thresholds were found for {_join(stored.source)}, and these scores are "
                f"{_join(scores)}. {again}"
            )
        return tuple(values[category.id] for category in self.categories), ""

    @property
    def orientation(self) -> Orientation:
        """Whether images are turned as their EXIF data says."""
        return self.recipe.data.orientation

    @property
    def max_detections(self) -> int:
        """The most detections of an image; 300 for a detector of your own without this setting."""
        return getattr(getattr(self.recipe.model, "postprocess", None), "max_detections", 300)

    def describe_scores(self) -> dict[str, str | int]:
        """What the scores depend on: the calibration, and the training steps of the checkpoint."""
        return {"calibration": str(self.calibration.setting), "step": self.checkpoint.progress.step}

    def read(self, path: str | Path) -> UInt8[Tensor, "3 h w"]:
        """Reads an image file as RGB: as viewers show it, or as stored if ``data.orientation`` says so.

        Raises:
            ImageError: the file cannot be read.
        """
        return load_image(path, self.recipe.data.orientation)

    @overload
    def __call__(self, images: ImageInput) -> Detections: ...
    @overload
    def __call__(self, images: Sequence[ImageInput]) -> list[Detections]: ...
    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Detections | list[Detections]:
        """Detects objects in an image, or in each image of a list.

        The images of a list are detected one after the other, each in its own size. Batches are not faster on a CPU,
        need more memory, and change detections slightly because images are padded to one size.

        Args:
            images: an image in any form that `detect` takes, or a list or tuple of them, also of different forms.

        Returns:
            The detections of the image, or a list with the detections of each image.

        Raises:
            ImageError: a file cannot be read.
            TypeError: an image is of another type.
            ValueError: an image has another shape or range of values.
        """
        if isinstance(images, list | tuple):
            return [self._detect(image, f"image {index} of the list") for index, image in enumerate(images)]
        return self.detect(cast("ImageInput", images))

    def detect(self, image: ImageInput) -> Detections:
        """Detects objects in one image.

        Args:
            image: a path, a PIL image, a NumPy array ``[height, width, 3]`` in RGB, or a tensor ``[3, height, width]``;
                gray images and transparency too. `tailseg.inference.to_rgb_tensor` has the rules.

        Returns:
            The detections in pixels of the image, best first.

        Raises:
            ImageError: a file cannot be read.
            TypeError: the image is of another type.
            ValueError: the image has another shape or range of values.
        """
        return self._detect(image, "the image")

    def detect_batch(self, images: Sequence[ImageInput], *, scale: float = 1.0) -> list[Detections]:
        """Detects objects in several images at a time.

        The images are padded to one size, which changes detections slightly: those of images of one size stay the same
        but for rounding. A batch is faster on a GPU, and not on a CPU.

        Args:
            images: as `detect`; at least one.
            scale: the sides between which the model resizes images, times this.

        Returns:
            The detections of each image.

        Raises:
            ImageError: a file cannot be read.
            TypeError: an image is of another type.
            ValueError: an image has another shape or range of values, or there is none.
        """
        names = ["the image"] if len(images) == 1 else [f"image {index} of the batch" for index in range(len(images))]
        return self._detect_batch(images, names, scale)

    def _detect(self, image: ImageInput, name: str) -> Detections:
        return self._detect_batch([image], [name], 1.0)[0]

    @torch.no_grad()
    def _detect_batch(self, images: Sequence[ImageInput], names: Sequence[str], scale: float) -> list[Detections]:
        data = self.recipe.data
        transform = evaluation_transform(round(data.test_short_side * scale), round(data.max_long_side * scale))
        pixels = [
            to_rgb_tensor(image, orientation=data.orientation, name=name)
            for image, name in zip(images, names, strict=True)
        ]
        resized = [transform(Image(image)).to(self.device) for image in pixels]
        with autocast(self.device, self.precision):
            detections = self.model(resized, original_sizes=[(image.shape[1], image.shape[2]) for image in pixels])
        return [replace(each, class_names=self.names) for each in detections]

    def predict(self, paths: Iterable[str | Path]) -> Iterator[tuple[ImageInfo, Detections]]:
        """Detects objects in image files, one after the other.

        Args:
            paths: the image files.

        Yields:
            For each file its name, size and an id that counts from 1, and its detections.

        Raises:
            ImageError: a file cannot be read.
            TypeError: ``paths`` is one path, or an image instead of paths. Call the predictor itself with these.
        """
        if isinstance(paths, str | Path):
            raise TypeError(f"predict expects a list of paths, got the path {paths}: use predict([path])")
        for image_id, path in enumerate(paths, start=1):
            if not isinstance(path, str | Path):
                raise TypeError(
                    f"predict reads image files, and got an object of the type {type(path).__name__} instead of a "
                    "path: for images in memory, call the predictor itself: predictor(image)"
                )
            image = self.read(path)
            yield ImageInfo(image_id, str(path), image.shape[-2], image.shape[-1]), self.detect(image)


def _join(scores: dict[str, str | int]) -> str:
    """``NorCal 0.4 at step 400``."""
    return f"{scores.get('calibration', 'unknown')} at step {scores.get('step', 'unknown')}"
