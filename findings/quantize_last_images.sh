#!/usr/bin/env bash
# onnxruntime's CalibMaxIntermediateOutputs makes the quantizer forget all but the last images.
#
# Versions: Python 3.11, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6.
#
# Guess before the run: as the docstring says, the option "will produce the same result as all computing with None, but is
# more memory efficient".
#
# Behavior: with the option set to n, quantize_static forgets its images after every n of them, without taking their ranges.
# Of 10 images and n = 4 only the last 2 count, of 10 and n = 3 only the last one: the range is theirs, and larger values are
# cut. There is no warning. Where the number of images is a multiple of n, it stops with "No data is collected".
#
# Who meets it: whoever quantizes a detector on many large images and follows the docstring to save memory. The scales
# depend on a few images at the end of the list, and the loss of AP is blamed on int8.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

cat > run.py <<'PYTHON'
import logging

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime import quantization

logging.disable(logging.WARNING)
graph = helper.make_graph(
    [helper.make_node("Conv", ["image", "weight"], ["map"], name="layer")],
    "layer",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
    [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 4, 4])],
    [onnx.numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "weight")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "model.onnx")


class Images(quantization.CalibrationDataReader):
    """Ten images: the first one has values up to 10, each one after it 1 less."""

    def __init__(self):
        self.largest = iter(range(10, 0, -1))

    def get_next(self):
        largest = next(self.largest, None)
        return None if largest is None else {"image": np.linspace(0, largest, 16, dtype=np.float32).reshape(1, 1, 4, 4)}


for limit in (None, 20, 4, 3, 5):
    options = {} if limit is None else {"CalibMaxIntermediateOutputs": limit}
    try:
        quantization.quantize_static("model.onnx", "int8.onnx", Images(), extra_options=options)
    except ValueError as error:
        print(f"{limit}: {error}")
        continue
    scales = {
        tensor.name: float(onnx.numpy_helper.to_array(tensor))
        for tensor in onnx.load("int8.onnx").graph.initializer
        if tensor.name == "image_scale"
    }
    print(f"{limit}: the largest value of the image is {255 * scales['image_scale']:.1f}")
PYTHON

cat > expected <<'TEXT'
None: the largest value of the image is 10.0
20: the largest value of the image is 10.0
4: the largest value of the image is 2.0
3: the largest value of the image is 1.0
5: No data is collected.
TEXT

venv/bin/python run.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
