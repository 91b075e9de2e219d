"""Writes the files of an export: the model, and the program that runs it."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from tailseg.export import onnx_file, runner
from tailseg.export.graph import DetectorGraph
from tailseg.export.settings import describe_model
from tailseg.files import write_text
from tailseg.inference.predictor import Predictor

Format = Literal["onnx", "openvino"]


def export_model(predictor: Predictor, file: Path, to: Format = "onnx") -> None:
    """Writes the model of a predictor with its calibration and thresholds.

    Args:
        predictor: the model, in float32.
        file: the file to write; of OpenVINO the XML file, next to which is a .bin with the weights.
        to: the format.

    Raises:
        ValueError: the model is not a built-in detector, or the exporter of torch cannot write it.
    """
    graph = DetectorGraph(predictor.model, predictor.thresholds)
    settings = describe_model(predictor)
    if to == "onnx":
        onnx_file.write_onnx(graph, file, settings)
        return
    from tailseg.export.openvino_file import write_openvino

    with TemporaryDirectory() as folder:
        onnx_file.write_onnx(graph, Path(folder) / "model.onnx", settings)
        write_openvino(Path(folder) / "model.onnx", file)


def write_runner(file: Path) -> None:
    """Writes `tailseg.export.runner`, which runs an exported file without torch and tailseg."""
    write_text(file, Path(runner.__file__).read_text(encoding="utf-8"))
