"""An exported file in place of a trained run: the same calls as `tailseg.inference.Predictor`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torchvision.tv_tensors import Image

from tailseg.annotations.dataset import Category
from tailseg.annotations.types import Group
from tailseg.data.images import load_image
from tailseg.data.transforms import evaluation_transform
from tailseg.export import runner
from tailseg.export.comparison import to_detections
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

    def read(self, path: str | Path) -> UInt8[Tensor, "3 h w"]:
        """Reads an image file as RGB, see `tailseg.inference.Predictor.read`.

        Raises:
            ImageError: the file cannot be read.
        """
        return load_image(path, self.settings["orientation"])

    def detect(self, image: UInt8[Tensor, "3 h w"]) -> Detections:
        """Detects objects in one image.

        Args:
            image: RGB.

        Returns:
            The detections in pixels of the image, best first.
        """
        resize = evaluation_transform(self.settings["short_side"], self.settings["max_long_side"])
        resized, plain = (np.ascontiguousarray(part.permute(1, 2, 0)) for part in (resize(Image(image)), image))
        outputs = self._model.run(runner.make_inputs([resized], [plain]))
        found = to_detections(outputs, (image.shape[1], image.shape[2]), self.settings)
        return replace(found, class_names=self.names)
