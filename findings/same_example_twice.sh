#!/usr/bin/env bash
# torch.export and torch.onnx take an example tensor that is passed for two inputs for one input.
#
# Versions: Python 3.11, torch 2.15.0, onnx 1.23.2, onnxscript 0.7.2, onnxruntime 1.32.0.
#
# Guess before the run: two arguments stay two inputs, whatever tensors the example has; the program keeps both.
#
# Behavior: with the same tensor object as the example of both arguments, the program reads the last one for both, and
# the scale is always 1. Both inputs are still there, and the program and the ONNX file accept other values for each.
# There is no warning. With an equal tensor of its own (clone) both inputs are read.
#
# Who meets it: whoever exports a detector that takes the size of the image and the size of the original file, and gives
# `size` for both in the example. All boxes are then in pixels of the resized image: right as long as no image is
# resized, and so in a test with images of the model's own size.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.15.0 onnx==1.23.2 onnxscript==0.7.2 \
    onnxruntime==1.32.0

cat > twice.py <<'PYTHON'
import warnings

import numpy as np
import onnxruntime
import torch


class Scale(torch.nn.Module):
    """Boxes of a resized image in pixels of the original one."""

    def forward(self, boxes, size, original_size):
        return boxes * (original_size / size)


boxes, size, original = torch.tensor([[10.0, 20.0]]), torch.tensor([100.0, 200.0]), torch.tensor([400.0, 800.0])
print("plain torch:", Scale()(boxes, size, original).tolist())
for title, example in (("same tensor", (boxes, size, size)), ("equal tensor", (boxes, size, size.clone()))):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        program = torch.export.export(Scale().eval(), example)
        found = program.module()(boxes, size, original)
        file = torch.onnx.export(program, (), dynamo=True, verbose=False)
    about = [str(warning.message) for warning in caught if "same" in str(warning.message) or "alias" in str(warning.message)]
    session = onnxruntime.InferenceSession(file.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    values = dict(zip(names, (part.numpy() for part in (boxes, size, original))))
    print(f"{title}: torch.export {found.tolist()}")
    print(f"  ONNX {np.asarray(session.run(None, values)[0]).tolist()}, inputs {names}, warnings {about}")
PYTHON

cat > expected <<'TEXT'
plain torch: [[40.0, 80.0]]
same tensor: torch.export [[10.0, 20.0]]
  ONNX [[10.0, 20.0]], inputs ['boxes', 'size', 'original_size'], warnings []
equal tensor: torch.export [[40.0, 80.0]]
  ONNX [[40.0, 80.0]], inputs ['boxes', 'size', 'original_size'], warnings []
TEXT

venv/bin/python twice.py > seen
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
