"""Writes a trained detector as an ONNX file."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from torch.export import ExportedProgram

from tailseg.export.trace import quiet
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


def save(model: onnx.ModelProto, file: Path, settings: dict[str, Any]) -> None:
    """Writes a model with its metadata, and checks it with onnx's checker.

    Args:
        model: the model.
        file: the file to write.
        settings: what the file says about itself.

    Raises:
        ValueError: onnx's checker refuses the model.
    """
    model.producer_name = "tailseg"
    model.producer_version = settings["version"]
    onnx.helper.set_model_props(model, {METADATA: json.dumps(settings)})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ValueError(f"onnx's checker refuses the exported model: {error}") from error
    with write_atomically(file) as path:
        onnx.save(model, path)


def to_onnx(program: ExportedProgram) -> onnx.ModelProto:
    """Converts a traced detector.

    Raises:
        ValueError: torch.onnx cannot write the program.
    """
    count = len(program.graph_signature.user_outputs)
    try:
        with quiet(), torch.no_grad():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=OUTPUTS[:count],
                custom_translation_table={torch.ops.tailseg.suppress.default: write_suppression},
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(
            f"torch.onnx cannot write this model: {reason}. Take a ResNet, a Swin or a ConvNeXt"
        ) from error
    assert converted is not None
    model = converted.model_proto
    for node in model.graph.node:
        node.ClearField("metadata_props")  # the exporter's stack traces, with paths of this machine
        node.ClearField("doc_string")
    rename_sides(model)
    return model


def rename_sides(model: onnx.ModelProto) -> None:
    """Names the sides that may change: torch.export calls them s34, s30 and s18."""
    batch, height, width, _ = model.graph.input[0].type.tensor_type.shape.dim
    symbols = (batch.dim_param, height.dim_param.removeprefix("32*"), width.dim_param.removeprefix("32*"))
    names = dict(zip(symbols, ("batch", "rows", "columns"), strict=True))
    for value in chain(model.graph.input, model.graph.output, model.graph.value_info):
        for side in value.type.tensor_type.shape.dim:
            if side.dim_param:
                side.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), side.dim_param)


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
    # OpenVINO fails, or returns no images, where nothing is selected: one more flag, behind the last box, is always set
    end = op.Slice(op.Shape(scores), op.Constant(value_ints=[2]), op.Constant(value_ints=[3]))
    behind = op.Unsqueeze(op.Concat(op.Constant(value_ints=[0, 0]), end, axis=0), op.Constant(value_ints=[0]))
    selected = op.Concat(behind, selected, axis=0)
    count = op.Slice(op.Shape(selected), op.Constant(value_ints=[0]), op.Constant(value_ints=[1]))
    ones = op.Add(op.ConstantOfShape(count), op.Constant(value_float=1.0))
    room = op.ConstantOfShape(op.Add(op.Shape(scores), op.Constant(value_ints=[0, 0, 1])))
    flags = op.Slice(op.ScatterND(room, selected, ones), op.Constant(value_ints=[0]), end, op.Constant(value_ints=[2]))
    return op.Greater(flags, op.Constant(value_float=0.5))
