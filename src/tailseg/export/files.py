"""Writes the files of an export: the model, and the program that runs it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tailseg.export import runner
from tailseg.export.formats import MISSING, ExportPrecision, Format, MaskForm
from tailseg.export.settings import describe_model
from tailseg.export.trace import trace
from tailseg.files import write_text
from tailseg.inference.predictor import Predictor


def export_model(
    predictor: Predictor,
    file: Path,
    to: Format = "onnx",
    *,
    precision: ExportPrecision = "float32",
    masks: MaskForm = "box",
    samples: Iterable[Mapping[str, np.ndarray]] = (),
) -> None:
    """Writes the model of a predictor with its calibration and thresholds.

    Args:
        predictor: the model, in float32.
        file: the file to write; of OpenVINO the XML file, next to which is a .bin with the weights.
        to: the format.
        precision: of convolutions and linear layers.
        masks: inside the box, or of the whole image.
        samples: inputs on which the ranges of int8 are measured, see `tailseg.export.runner.make_inputs`.

    Raises:
        ValueError: the model is not a built-in detector, the exporter of torch cannot write it, or the format does not
            have the precision.
    """
    if reason := MISSING.get((to, precision)):
        raise ValueError(f"{to} in {precision} is not possible: {reason}")
    settings = describe_model(predictor, precision=precision, masks=masks)
    program = trace(
        predictor.model,
        predictor.thresholds,
        precision=precision if to == "torch" and precision != "int8" else "float32",
        whole_masks=masks == "image",
    )
    if to == "torch":
        from tailseg.export.torch_file import write_torch

        write_torch(program, file, settings)
        return
    from tailseg.export import onnx_file
    from tailseg.export.layers import lower_precision, simplify

    model = onnx_file.to_onnx(program)
    if precision == "int8":
        from tailseg.export.quantization import quantize

        model = quantize(simplify(model), samples)
    elif precision != "float32":
        model = lower_precision(simplify(model), precision)
    if to == "onnx":
        onnx_file.save(model, file, settings)
        return
    from tailseg.export.openvino_file import write_openvino

    with TemporaryDirectory() as folder:
        onnx_file.save(model, Path(folder) / "model.onnx", settings)
        write_openvino(Path(folder) / "model.onnx", file)


def write_runner(file: Path) -> None:
    """Writes `tailseg.export.runner`, which runs an exported file without torch and tailseg."""
    write_text(file, Path(runner.__file__).read_text(encoding="utf-8"))
