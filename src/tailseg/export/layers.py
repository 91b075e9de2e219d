"""Finds the large layers of an exported ONNX model, and computes them in half precision.

Chosen are convolutions and linear layers with constant weights, and between them additions, ReLU, pooling and resizing.
In float32 stay the last layer of each head, whose outputs are scores and boxes, and everything without weights:
proposals, boxes, RoI pooling, scores, NMS, masks.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from tailseg.lazy import needs_extra

with needs_extra("export"):
    import ml_dtypes
    import numpy as np
    import onnx
    import onnxruntime

LAYERS: Final = ("Conv", "Gemm", "MatMul")
"""Operations with weights. The built-in detectors compute their deconvolution as a convolution."""
BETWEEN: Final = ("Add", "Relu", "Clip", "MaxPool", "Resize")
"""Operations that are chosen when all that they read comes from chosen ones."""
FLOAT_LAYERS: Final = ("objectness", "box_deltas", "classifier", "regressor", "shared_regressor")
"""Modules whose outputs are scores and boxes. In bfloat16 a score has 3 digits, in int8 256 values."""


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Computes the constants of a model, and makes its batch norms part of their convolutions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with TemporaryDirectory() as folder:
        file = Path(folder) / "simple.onnx"
        options.optimized_model_filepath = str(file)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        simple = onnx.load(file)
    own = [opset for opset in simple.opset_import if opset.domain == ""]
    del simple.opset_import[:]
    simple.opset_import.extend(own)  # onnxruntime names all domains that it knows
    return simple


def find_layers(model: onnx.ModelProto) -> list[str]:
    """Finds the nodes that are quantized: layers with constant weights, and what lies between them."""
    weights = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1}
    constants = {tensor.name for tensor in model.graph.initializer}
    names: list[str] = []
    quantized: set[str] = set()
    for node in model.graph.node:
        if node.op_type in LAYERS:
            is_chosen = len(node.input) > 1 and node.input[1] in weights and not is_last_layer(node.input[1])
        else:
            inputs = node.input[:1] if node.op_type == "Resize" else node.input  # the others are sizes
            variable = [value for value in inputs if value and value not in constants]
            is_chosen = node.op_type in BETWEEN and bool(variable) and quantized.issuperset(variable)
        if is_chosen:
            names.append(node.name)
            quantized.update(node.output)
    return names


def is_last_layer(weight: str) -> bool:
    """Whether a weight, by its name in the model, is that of a last layer."""
    return any(part in FLOAT_LAYERS for part in weight.split("."))


def lower_precision(model: onnx.ModelProto, precision: Literal["bfloat16", "float16"]) -> onnx.ModelProto:
    """Computes the layers of `find_layers` in half precision, with casts where they meet the others.

    Args:
        model: a simple model in float32, see `simplify`; it is changed.
        precision: of the layers and their weights.

    Returns:
        The same model. With bfloat16 it has the opset 22, the first whose convolutions take this type.
    """
    chosen = set(find_layers(model))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    half = onnx.TensorProto.BFLOAT16 if precision == "bfloat16" else onnx.TensorProto.FLOAT16
    nodes: list[Any] = []
    lowered: dict[str, str] = {}

    def lower(value: str) -> str:
        if value in lowered or not value:
            return lowered.get(value, value)
        name = lowered[value] = f"{value}_{precision}"
        if value in constants:
            values = onnx.numpy_helper.to_array(constants[value])
            if values.dtype != np.float32:
                return lowered.setdefault(value, value)
            rounded = values.astype(ml_dtypes.bfloat16 if precision == "bfloat16" else np.float16)
            model.graph.initializer.append(onnx.numpy_helper.from_array(rounded, name))
        else:
            nodes.append(onnx.helper.make_node("Cast", [value], [name], name=f"to_{name}", to=half))
        return name

    read_in_float = {value.name for value in model.graph.output}
    read_in_float.update(
        value
        for node in model.graph.node
        for place, value in enumerate(node.input)
        if node.name not in chosen or (node.op_type == "Resize" and place > 0)
    )
    for node in model.graph.node:
        if node.name in chosen:
            count = 1 if node.op_type == "Resize" else len(node.input)
            node.input[:count] = [lower(value) for value in node.input[:count]]
            (output,) = node.output
            lowered[output] = node.output[0] = f"{output}_{precision}"
            nodes.append(node)
            if output in read_in_float:
                cast = onnx.helper.make_node(
                    "Cast", [lowered[output]], [output], name=f"from_{lowered[output]}", to=onnx.TensorProto.FLOAT
                )
                nodes.append(cast)
        else:
            nodes.append(node)
    del model.graph.value_info[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {value for node in nodes for value in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    if precision == "bfloat16":
        model.opset_import[0].version = 22
    return model
