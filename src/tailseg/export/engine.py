"""An exported file in place of a trained run: the same calls as `tailseg.inference.Predictor`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torchvision.tv_tensors import Image

from tailseg.annotations.dataset import Category
from tailseg.annotations.types import Group, Orientation
from tailseg.data.images import load_image
from tailseg.data.transforms import evaluation_transform
from tailseg.export import runner
from tailseg.export.comparison import to_detections
from tailseg.export.formats import ExportPrecision
from tailseg.structures import Detections


class Engine:
    """An exported detector with its runtime, ready for images.

    Images are read, resized and masks are pasted as in `tailseg.inference.Predictor`: only the network is another one.

    Attributes:
        file: the exported file.
        names: the classes' names, by label.
        categories: the classes, by label.
        groups: the frequency group of each label.
        thresholds: the stored score threshold of each label, or None.
        settings: what the file says about itself.
        precision: of the file.
        orientation: whether images are turned as their EXIF data says.
        max_detections: the most detections of an image.
    """

    def __init__(self, file: Path, *, threads: int = 0) -> None:
        """Opens a file that `tailseg export` wrote.

        Args:
            file: ``model.onnx``, ``model.xml`` or ``model.pt2``.
            threads: of the computation; 0 lets the runtime choose.

        Raises:
            ValueError: there is no such file, or the runtime cannot read it.
        """
        self.file = file
        self._model = runner.open_model(file, threads)
        self.settings = self._model.settings
        classes = self.settings["classes"]
        self.categories: tuple[Category, ...] = tuple(
            Category(entry["id"], entry["name"], entry["group"]) for entry in classes
        )
        self.names: tuple[str, ...] = tuple(entry["name"] for entry in classes)
        self.groups: tuple[Group, ...] = tuple(entry["group"] for entry in classes)
        stored = self.settings["thresholds"]
        self.thresholds: tuple[float, ...] | None = None if stored is None else tuple(stored)
        self.thresholds_note = ""
        self.precision: ExportPrecision = self.settings["precision"]
        self.orientation: Orientation = self.settings["orientation"]
        self.max_detections: int = self.settings["max_detections"]

    def describe_scores(self) -> dict[str, str | int]:
        """What the scores depend on: the calibration, and the training steps of the checkpoint."""
        return {"calibration": self.settings["calibration"], "step": self.settings["step"]}

    def read(self, path: str | Path) -> UInt8[Tensor, "3 h w"]:
        """Reads an image file as RGB, see `tailseg.inference.Predictor.read`.

        Raises:
            ImageError: the file cannot be read.
        """
        return load_image(path, self.orientation)

    def detect_batch(self, images: Sequence[UInt8[Tensor, "3 h w"]], *, scale: float = 1.0) -> list[Detections]:
        """Detects objects in several images, one after the other: on a CPU, a batch is not faster.

        Args:
            images: RGB.
            scale: the sides between which images are resized, times this.

        Returns:
            The detections of each image.
        """
        return [self.detect(image, scale=scale) for image in images]

    def detect(self, image: UInt8[Tensor, "3 h w"], *, scale: float = 1.0) -> Detections:
        """Detects objects in one image.

        Args:
            image: RGB.
            scale: the sides between which the image is resized, times this.

        Returns:
            The detections in pixels of the image, best first.
        """
        sides = (max(1, round(scale * self.settings[side])) for side in ("short_side", "max_long_side"))
        resize = evaluation_transform(*sides)
        resized, plain = (np.ascontiguousarray(part.permute(1, 2, 0)) for part in (resize(Image(image)), image))
        outputs = self._model.run(runner.make_inputs([resized], [plain]))
        found = to_detections(outputs, (image.shape[1], image.shape[2]), self.settings)
        return replace(found, class_names=self.names)
