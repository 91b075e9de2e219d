"""Writes the files of an export: the model, and the program that runs it."""

from pathlib import Path

from tailseg.export import onnx_file, runner
from tailseg.export.graph import DetectorGraph
from tailseg.export.settings import describe_model
from tailseg.files import write_text
from tailseg.inference.predictor import Predictor


def export_model(predictor: Predictor, file: Path) -> None:
    """Writes the model of a predictor with its calibration and thresholds as an ONNX file.

    Raises:
        ValueError: the model is not a built-in detector, or is not in float32.
    """
    graph = DetectorGraph(predictor.model, predictor.thresholds)
    onnx_file.write_onnx(graph, file, describe_model(predictor))


def write_runner(file: Path) -> None:
    """Writes `tailseg.export.runner`, which runs an exported file without torch and tailseg."""
    write_text(file, Path(runner.__file__).read_text(encoding="utf-8"))
