"""A trained model on images.

    predictor = Predictor.from_run("runs/tiny_gumbel")
    for info, detections in predictor.predict(["photo.jpg"]):
        print(info.file, [predictor.names[label] for label in detections.labels])

A checkpoint holds all that is needed, its classes and their frequencies too: the data set need not be there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.tv_tensors import Image

from tailseg.annotations.dataset import Category
from tailseg.data.images import load_image
from tailseg.data.transforms import evaluation_transform
from tailseg.detection import recalibration
from tailseg.detection.recalibration import Calibration, Setting
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

    Attributes:
        file: the checkpoint that it came from.
        checkpoint: what the file holds.
        recipe: the run's recipe.
        model: made ready for detection, on ``device``, see `tailseg.models.optimize.for_inference`.
        precision: of its layers.
        categories: the classes, by label.
        frequency: of the classes in the training set.
        calibration: how scores are moved by class; not at all unless `from_run` found a calibration.
    """

    def __init__(
        self,
        file: Path,
        *,
        device: str = "auto",
        base: Recipe | None = None,
        config: InferenceConfig = InferenceConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Loads a checkpoint file.

        Args:
            file: a run's ``checkpoints/*.pt``, or weights that `tailseg convert` wrote.
            device: auto takes cuda when present, else cpu.
            base: your own recipe, if the run was trained with one: only then is code of yours called.
            config: half precision, compilation; unless it says otherwise the run's precision is taken.

        Raises:
            CheckpointError: the file is missing, truncated or not tailseg's.
            ValueError: its recipe is not one that this version knows.
        """
        self.file = file
        self.device = choose_device(device)
        self.checkpoint: Checkpoint = load(file)
        self.recipe = from_plain(self.checkpoint.recipe, base=base, source=str(file))
        self.categories: tuple[Category, ...] = self.checkpoint.categories
        self.frequency: ClassFrequency = self.checkpoint.frequency
        model = build_model(self.recipe, self.frequency, load_weights=False)
        check_model(self.checkpoint, model, file)
        model.load_state_dict(self.checkpoint.model)
        self.calibration = Calibration(Setting())
        self._calibrated: recalibration.Replaced = []
        self.precision: Precision = config.precision or self.recipe.run.precision
        self.model = for_inference(model.to(self.device), replace(config, precision=self.precision))

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        *,
        checkpoint: Literal["best", "last"] = "best",
        device: str = "auto",
        base: Recipe | None = None,
        calibrated: bool = True,
        config: InferenceConfig = InferenceConfig(),  # noqa: B008 (frozen)
    ) -> "Predictor":
        """The model of a run's folder: its best checkpoint (the last, if it was never evaluated) or its last one.

        ``run`` may name one checkpoint file instead. See the constructor for the other arguments and errors.
        ``calibrated`` moves the scores as `tailseg calibrate` stored it in the folder, if it did.
        """
        run = Path(run)
        if run.is_file():
            return cls(run, device=device, base=base, config=config)
        predictor = cls(choose(run, checkpoint), device=device, base=base, config=config)
        stored = run / recalibration.FILE
        if calibrated and stored.is_file():
            predictor.calibration = recalibration.load(stored, predictor.frequency.num_classes)
            predictor._calibrated = recalibration.replacements(
                predictor.model, predictor.calibration, predictor.frequency
            )
        return predictor

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, by label."""
        return tuple(category.name for category in self.categories)

    def read(self, path: str | Path) -> UInt8[Tensor, "3 h w"]:
        """An image file as RGB, as viewers show it; as stored if the run was trained so (``data.orientation``).

        Raises:
            ImageError: it cannot be read.
        """
        return load_image(path, self.recipe.data.orientation)

    @torch.no_grad()
    def detect(self, image: UInt8[Tensor, "3 h w"]) -> Detections:
        """What the model finds in an RGB image of any size, best first, in its pixels."""
        height, width = image.shape[-2:]
        data = self.recipe.data
        resized = evaluation_transform(data.test_short_side, data.max_long_side)(Image(image)).to(self.device)
        with recalibration.in_place(self._calibrated), autocast(self.device, self.precision):
            return self.model([resized], original_sizes=[(height, width)])[0]

    def predict(self, paths: Iterable[str | Path]) -> Iterator[tuple[ImageInfo, Detections]]:
        """Detections of each image file, one after the other; image ids count from 1.

        Raises:
            ImageError: a file cannot be read.
        """
        for image_id, path in enumerate(paths, start=1):
            image = self.read(path)
            yield ImageInfo(image_id, str(path), image.shape[-2], image.shape[-1]), self.detect(image)
