"""Writes a trained detector as an ONNX file."""

import json
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jaxtyping
import torch
from torch import Tensor

from tailseg.export.graph import DetectorGraph
from tailseg.files import write_atomically
from tailseg.lazy import needs_extra

with needs_extra("export"):
    import onnx
    import onnxruntime  # noqa: F401 - runs the file afterwards; a missing one is an error before the work
    from onnxscript import opset18 as op

OPSET: Final = 18
"""The opset of the file: the newest whose operations OpenVINO and TensorRT have read for years."""
INPUTS: Final = ("images", "sizes", "original_sizes")
OUTPUTS: Final = ("boxes", "scores", "labels", "counts", "above", "masks")
METADATA: Final = "tailseg"
"""The key of the file's metadata; the value is JSON."""
EXAMPLE_SIZE: Final = (128, 160)
"""Height and width of the images that are traced; two different numbers, because equal ones would count as one."""


def write_onnx(graph: DetectorGraph, file: Path, settings: dict[str, Any]) -> None:
    """Writes the file, and checks it with onnx's checker.

    Args:
        graph: the detector.
        file: the file to write; weights above 2 GB are not possible.
        settings: what the file says about itself, see `tailseg.export.settings.describe_model`.

    Raises:
        ValueError: onnx's checker refuses the file.
    """
    model = to_onnx(graph)
    model.producer_name = "tailseg"
    model.producer_version = settings["version"]
    onnx.helper.set_model_props(model, {METADATA: json.dumps(settings)})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ValueError(f"onnx's checker refuses the exported model: {error}") from error
    with write_atomically(file) as path:
        onnx.save(model, path)


def to_onnx(graph: DetectorGraph) -> onnx.ModelProto:
    """Converts a detector, for images of any size and any number of them in a batch.

    Raises:
        ValueError: the exporter of torch cannot write the backbone.
    """
    names = OUTPUTS if graph.model.has_masks else OUTPUTS[:-1]
    inputs, shapes = make_example()
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval(),
                inputs,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=names,
                dynamic_shapes=shapes,
                custom_translation_table={torch.ops.tailseg.suppress.default: write_suppression},
            )
    except torch.onnx.OnnxExporterError as error:
        config = graph.model.config.backbone
        backbone = getattr(config, "name", type(config).__name__)
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(
            f"torch.onnx cannot write this model with the backbone {backbone}: {reason}. Take a ResNet or a ConvNeXt"
        ) from error
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the exporter's stack traces, with paths of this machine
        node.ClearField("doc_string")
    return model


def make_example() -> tuple[tuple[Tensor, Tensor, Tensor], tuple[dict[int, Any], ...]]:
    """Makes inputs to trace a detector with, and says which of their sides may change."""
    height, width = EXAMPLE_SIZE
    images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    sizes = torch.tensor([[height, width], [height - 28, width - 30]])
    # not the same tensor twice: torch.export takes it for one input, and ignores the second one at run time
    original_sizes = 2 * sizes
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    shapes = ({0: batch, 1: 32 * rows, 2: 32 * columns}, {0: batch}, {0: batch})
    return (images, sizes, original_sizes), shapes


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Without the exporter's warnings and log, and without checks of shapes, which would fix the symbolic ones."""
    log = logging.getLogger("torch.onnx")
    level, checked = log.level, not jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        jaxtyping.config.update("jaxtyping_disable", not checked)


def write_suppression(
    boxes: Any,  # noqa: ANN401 - a value of onnxscript, as are the others
    scores: Any,  # noqa: ANN401
    iou_threshold: float,
    score_threshold: float,
    limit: int,
) -> Any:  # noqa: ANN401
    """`tailseg.export.suppression.suppress` in ONNX: groups are its batch.

    Args:
        boxes: ``[G, N, 4]``.
        scores: ``[G, K, N]``.
        iou_threshold: IoU that two boxes may have.
        score_threshold: only boxes above it take part.
        limit: of each class.

    Returns:
        Flags ``[G, K, N]``.
    """
    selected = op.NonMaxSuppression(
        boxes,
        scores,
        op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    count = op.Slice(op.Shape(selected), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    ones = op.Add(op.ConstantOfShape(count), op.Constant(value_float=1.0))
    flags = op.ScatterND(op.ConstantOfShape(op.Shape(scores)), selected, ones)
    return op.Greater(flags, op.Constant(value_float=0.5))
