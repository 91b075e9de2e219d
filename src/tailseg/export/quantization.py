"""Quantizes an exported ONNX model: the products of large layers in int8, the rest in float32.

Static: the ranges of the feature maps are measured on images beforehand. Weights have a scale for each output channel;
feature maps are unsigned, with a zero point. The file has the standard nodes QuantizeLinear and DequantizeLinear.

Quantized are the layers of `tailseg.export.layers.find_layers`.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tailseg.export.layers import BETWEEN, LAYERS, find_layers
from tailseg.lazy import needs_extra

with needs_extra("export"):
    import onnx
    from onnxruntime import quantization


class Samples(quantization.CalibrationDataReader):
    """The inputs on which ranges are measured, one after the other."""

    def __init__(self, samples: Iterable[Mapping[str, np.ndarray]]) -> None:
        self.samples: Iterator[Mapping[str, np.ndarray]] = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        """The next inputs; None at the end."""
        sample = next(self.samples, None)
        return None if sample is None else dict(sample)


def quantize(model: onnx.ModelProto, samples: Iterable[Mapping[str, np.ndarray]]) -> onnx.ModelProto:
    """Quantizes a model.

    Args:
        model: in float32, see `tailseg.export.layers.simplify`.
        samples: inputs of the model.

    Returns:
        The quantized model.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises to simplify
        try:
            quantization.quantize_static(
                model,
                file,
                Samples(samples),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=[*LAYERS, *BETWEEN],
                nodes_to_quantize=find_layers(model),
            )
        finally:
            root.setLevel(level)
        return onnx.load(file)
