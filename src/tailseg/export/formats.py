"""The formats and precisions of exported files; without torch."""

from typing import Final, Literal

Format = Literal["onnx", "openvino", "torch"]
ExportPrecision = Literal["float32", "bfloat16", "float16", "int8"]
"""Of convolutions and linear layers; the rest is float32."""
MaskForm = Literal["box", "image"]
"""Probabilities inside the box, or pixels of the original file."""

FILES: Final[dict[Format, str]] = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
"""The name of the file of each format."""
MISSING: Final[dict[tuple[Format, ExportPrecision], str]] = {
    (
        "onnx",
        "bfloat16",
    ): "onnxruntime has no convolutions in bfloat16 for CPUs. Take float16 or int8, or --to openvino",
    ("torch", "int8"): "torch has no static int8 for exported programs. Take bfloat16, or --to onnx or openvino",
}
"""Why a format does not have a precision, and what the user can do."""
