#!/usr/bin/env bash
# OpenVINO's save_model rounds the anchors of a detector to float16.
#
# Versions: Python 3.11, openvino 2026.4.1, onnx 1.23.2, numpy 2.4.6.
#
# Guess before the run: save_model writes the weights of layers in float16, as its documentation says of weights; tables of
# coordinates stay as they are, or at least a warning names them.
#
# Behavior: the table is rounded to float16, and stays rounded when the file is read and run in float32
# (INFERENCE_PRECISION_HINT f32). RetinaNet's anchors move by up to 0.25 pixel in an image of 800 pixels, 0.49 in one of
# 1,333 and 0.69 in one of 2,400. In one of 5,000 pixels the whole table stays exact: some error is 1 pixel there, and
# OpenVINO then does not round the table. Before it is saved the model is exact. There is no warning.
# compress_to_fp16=False keeps the numbers.
#
# Who meets it: whoever converts RetinaNet, SSD, FCOS or a YOLO whose anchors or locations are a table in the file. Boxes of
# small objects move (IoU 0.94 to 0.98 with the right ones), and a test before save_model sees nothing.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6

cat > run.py <<'PYTHON'
import warnings

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper

def make_anchors(side):
    """The anchors of RetinaNet's finest level in an image of side x 800."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(0, side, 8), np.arange(0, 800, 8)))
    sizes = [(32 * 2 ** (step / 3), ratio) for step in range(3) for ratio in (0.5, 1, 2)]
    halves = [(size / ratio**0.5 / 2, size * ratio**0.5 / 2) for size, ratio in sizes]
    return np.concatenate([np.stack([x - w, y - h, x + w, y + h], 1) for w, h in halves]).astype(np.float32)


def compute_iou(one, other):
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = np.prod(high - low, 1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], 1) for boxes in (one, other)]
    return shared / (areas[0] + areas[1] - shared)


def describe(model, anchors):
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    boxes = compiled(np.zeros_like(anchors))[0]
    return f"largest error {np.abs(boxes - anchors).max():.2f} pixels, least IoU {compute_iou(boxes, anchors).min():.3f}"


for side in (800, 1333, 2400, 5000):
    anchors = make_anchors(side)
    graph = helper.make_graph(
        [helper.make_node("Add", ["deltas", "anchors"], ["boxes"])],
        "decode",
        [helper.make_tensor_value_info("deltas", TensorProto.FLOAT, anchors.shape)],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, anchors.shape)],
        [onnx.numpy_helper.from_array(anchors, "anchors")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    converted = openvino.convert_model("model.onnx")
    print(f"image of {side} pixels")
    print("  converted:", describe(converted, anchors))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        openvino.save_model(converted, f"{side}.xml")
        openvino.save_model(openvino.convert_model("model.onnx"), f"plain{side}.xml", compress_to_fp16=False)
    print("  saved and read again:", describe(f"{side}.xml", anchors))
    print("  compress_to_fp16=False:", describe(f"plain{side}.xml", anchors))
    print("  warnings:", [str(warning.message) for warning in caught])
PYTHON

cat > expected <<'TEXT'
image of 800 pixels
  converted: largest error 0.00 pixels, least IoU 1.000
  saved and read again: largest error 0.25 pixels, least IoU 0.978
  compress_to_fp16=False: largest error 0.00 pixels, least IoU 1.000
  warnings: []
image of 1333 pixels
  converted: largest error 0.00 pixels, least IoU 1.000
  saved and read again: largest error 0.49 pixels, least IoU 0.966
  compress_to_fp16=False: largest error 0.00 pixels, least IoU 1.000
  warnings: []
image of 2400 pixels
  converted: largest error 0.00 pixels, least IoU 1.000
  saved and read again: largest error 0.69 pixels, least IoU 0.938
  compress_to_fp16=False: largest error 0.00 pixels, least IoU 1.000
  warnings: []
image of 5000 pixels
  converted: largest error 0.00 pixels, least IoU 1.000
  saved and read again: largest error 0.00 pixels, least IoU 1.000
  compress_to_fp16=False: largest error 0.00 pixels, least IoU 1.000
  warnings: []
TEXT

venv/bin/python run.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
