"""Images on which the ranges of an int8 model are measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.data.images import load_image, read_annotated
from tailseg.export import runner
from tailseg.inference.predictor import Predictor


def read_samples(
    predictor: Predictor, source: Annotations | Sequence[Path], count: int
) -> Iterator[dict[str, np.ndarray]]:
    """Reads images at equal distances in a data set or a list, resized as for the model.

    Args:
        predictor: the model.
        source: the data set, or image files.
        count: the largest number of images.

    Yields:
        The inputs of the exported model for each image, see `tailseg.export.runner.make_inputs`.

    Raises:
        ImageError: an image cannot be read.
    """
    data = predictor.recipe.data
    total = source.num_images if isinstance(source, Annotations) else len(source)
    for index in np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist():
        if isinstance(source, Annotations):
            pixels = read_annotated(source, source.get_info(index))[0]
        else:
            pixels = load_image(source[index], data.orientation)
        image = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        yield runner.make_inputs([runner.resize(image, data.test_short_side, data.max_long_side)], [image])
