#!/usr/bin/env bash
# On a processor with bfloat16, OpenVINO computes the boxes inside a float32 model in bfloat16.
#
# Versions: Python 3.11, openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6.
#
# Guess before the run: by default OpenVINO computes products in bfloat16 there, and boxes come out on a grid of 4 pixels.
#
# Behavior: boxes that leave the model are float32. Boxes inside it are not: proposals, which are an addition of anchors
# and deltas that RoiAlign reads, are rounded to bfloat16 (steps of 4 pixels above 512, 2 above 256). A box of 3 pixels is
# pooled from a place next to it. The same boxes are exact as soon as they are an output of the model as well.
#
# Who meets it: whoever runs a two-stage detector (Faster, Mask, Cascade R-CNN) with OpenVINO on a newer server. On an older
# one the same file gives other detections, and looking at the proposals, by making them an output, removes the fault.
# INFERENCE_PRECISION_HINT f32 computes all in float32.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
if ! grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then
    echo "This processor has no bfloat16: OpenVINO computes in float32 here."
    exit 0
fi
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

cat > run.py <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

ANCHORS = np.array([[1000.3, 300.7, 1003.1, 303.2], [333.3, 17.1, 337.9, 21.9]], np.float32)
# a map whose value is the column modulo 8: what RoiAlign reads tells where it reads
RAMP = np.tile((np.arange(1216) % 8).astype(np.float32), (512, 1))[None, None]


def make_model(show_boxes):
    nodes = [
        helper.make_node("MatMul", ["hidden", "zeros"], ["deltas"]),
        helper.make_node("Add", ["deltas", "anchors"], ["boxes"]),
        helper.make_node("Conv", ["image", "one"], ["map"]),
        helper.make_node(
            "RoiAlign", ["map", "boxes", "first"], ["pooled"],
            output_height=1, output_width=2, sampling_ratio=1, spatial_scale=1.0,
        ),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "eye"], ["read"]),
    ]
    inputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [2, 8]),
        helper.make_tensor_value_info("image", TensorProto.FLOAT, RAMP.shape),
    ]
    outputs = [helper.make_tensor_value_info("read", TensorProto.FLOAT, [2, 2])]
    if show_boxes:
        outputs.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [2, 4]))
    constants = {
        "zeros": np.zeros((8, 4), np.float32), "anchors": ANCHORS, "one": np.ones((1, 1, 1, 1), np.float32),
        "first": np.zeros(2, np.int64), "eye": np.eye(2, dtype=np.float32),
    }
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "proposals", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def show(title, read, boxes=None):
    text = f"{title}: reads columns {np.asarray(read, float).round(1).tolist()} modulo 8"
    print(text + (f", boxes {np.asarray(boxes, float).round(1).tolist()}" if boxes is not None else ""))


feed = {"hidden": np.ones((2, 8), np.float32), "image": RAMP}
for shown in (False, True):
    model = make_model(shown)
    print("boxes are an output, too" if shown else "boxes are inside the model")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    show("  onnxruntime", *session.run(None, feed))
    onnx.save(model, "model.onnx")
    for title, options in (("openvino", {}), ("openvino, f32", {"INFERENCE_PRECISION_HINT": "f32"})):
        compiled = openvino.Core().compile_model("model.onnx", "CPU", options)
        found = compiled(feed)
        show(f"  {title}", *(found[place] for place in range(len(compiled.outputs))))
PYTHON

cat > expected <<'TEXT'
boxes are inside the model
  onnxruntime: reads columns [[0.5, 1.9], [5.9, 0.2]] modulo 8
  openvino: reads columns [[0.5, 2.5], [6.5, 0.5]] modulo 8
  openvino, f32: reads columns [[0.5, 1.9], [5.9, 0.2]] modulo 8
boxes are an output, too
  onnxruntime: reads columns [[0.5, 1.9], [5.9, 0.2]] modulo 8, boxes [[1000.3, 300.7, 1003.1, 303.2], [333.3, 17.1, 337.9, 21.9]]
  openvino: reads columns [[0.5, 1.9], [5.9, 0.2]] modulo 8, boxes [[1000.3, 300.7, 1003.1, 303.2], [333.3, 17.1, 337.9, 21.9]]
  openvino, f32: reads columns [[0.5, 1.9], [5.9, 0.2]] modulo 8, boxes [[1000.3, 300.7, 1003.1, 303.2], [333.3, 17.1, 337.9, 21.9]]
TEXT

venv/bin/python run.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
