#!/usr/bin/env bash
# The module AGLU of ultralytics is not the paper's AGLU: it is its gate APA, which never exceeds 1.
#
# Versions: Python 3.11, ultralytics 8.4.190, torch 2.15.0, torchvision 0.29.2, opencv-python 5.0.0.93.
#
# Guess before the run: AGLU()(x) is the gated unit of "Adaptive Parametric Activation" (ECCV 2024),
# AGLU(x) = x (1 + lambda exp(-kappa x))^(-1 / lambda), so with lambda = kappa = 1 it is SiLU.
#
# Behavior: it is (1 + lambda exp(-kappa x))^(-1 / lambda) without the factor x, what the paper calls APA: with
# lambda = kappa = 1 the sigmoid. The authors' page says "for AGLU return p * input" below a snippet of APA.
#
# Who meets it: whoever puts ultralytics' AGLU in the place of SiLU to try the paper: all activations lie in [0, 1], and
# the gradient of large inputs vanishes.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check ultralytics==8.4.190 torch==2.15.0 torchvision==0.29.2 \
    opencv-python==5.0.0.93

cat > try.py <<'PYTHON'
import torch
from ultralytics.nn.modules.activation import AGLU

x = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0, 30.0], requires_grad=True)
layer = AGLU()
print("lambda = kappa = 1")
with torch.no_grad():
    for parameter in layer.parameters():
        parameter.fill_(1.0)
rows = {
    "x": x,
    "ultralytics' AGLU": layer(x),
    "sigmoid": torch.sigmoid(x),
    "SiLU, the paper's AGLU": torch.nn.functional.silu(x),
    "x times ultralytics'": x * layer(x),
}
for name, values in rows.items():
    print(f"{name:24}", " ".join(f"{value:7.3f}" for value in values.tolist()))
(slope,) = torch.autograd.grad(layer(x).sum(), x)
print(f"slope at 30: {slope[-1]:.1e}, the paper's 1.0e+00")
PYTHON
cat > expected <<'TEXT'
lambda = kappa = 1
x                         -4.000  -1.000   0.000   1.000   4.000  30.000
ultralytics' AGLU          0.018   0.269   0.500   0.731   0.982   1.000
sigmoid                    0.018   0.269   0.500   0.731   0.982   1.000
SiLU, the paper's AGLU    -0.072  -0.269   0.000   0.731   3.928  30.000
x times ultralytics'      -0.072  -0.269   0.000   0.731   3.928  30.000
slope at 30: 9.4e-14, the paper's 1.0e+00
TEXT

export YOLO_CONFIG_DIR="$folder" YOLO_OFFLINE=true
venv/bin/python -c "import ultralytics" > /dev/null # writes its settings
venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
