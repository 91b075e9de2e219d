#!/usr/bin/env bash
# A query that is right with 99.9 % makes the loss of RF-DETR infinite or NaN in transformers, and not in rfdetr.
#
# Versions: Python 3.11, transformers 5.24.0, rfdetr 1.11.2, torch 2.15.0, torchvision 0.29.2, scipy 1.17.1.
#
# Guess before the run, from the code: both packages compute the same IoU-aware cross entropy. rfdetr takes log(sigmoid)
# in one step; transformers takes the sigmoid first, then log(p) and log(1 - p), also in bfloat16, which is the type of
# the logits under autocast. As p rounds to 1 for a logit above 6 in bfloat16 and above 17 in float32, log(1 - p) would
# be -inf there, and the loss infinite.
#
# Behavior: as guessed, but NaN where the target rounds to 1: the weight of log(1 - p) is then 0, and 0 * inf is NaN.
# float16 begins at 9. The gradient is NaN in each case, so that one step of the optimizer makes every weight NaN.
# rfdetr's loss is finite for every logit, and close to that of transformers where that is finite. The models start at a
# logit of -4.6; 7 is p = 0.999. The same loss function serves LW-DETR.
#
# Who meets it: whoever fine-tunes RF-DETR or LW-DETR with bf16=True, and best of all those whose detector is confident:
# easy data, few classes, the last epochs. Gradient clipping does not help, and the log only shows a loss of inf or nan.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.24.0 rfdetr==1.11.2 torch==2.15.0 \
    torchvision==0.29.2 scipy==1.17.1

cat > try.py <<'PYTHON'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")

import torch
import transformers
from rfdetr.models.criterion import SetCriterion
from rfdetr.models.matcher import HungarianMatcher
from transformers import RfDetrConfig
from transformers.loss.loss_lw_detr import LwDetrForObjectDetectionLoss

transformers.logging.set_verbosity_error()
LABELS, BOXES = torch.tensor([0, 1]), torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]])
config = RfDetrConfig(num_labels=2, group_detr=1, auxiliary_loss=False)
criterion = SetCriterion(
    2, HungarianMatcher(2, 5, 2), {}, focal_alpha=config.focal_alpha, losses=["labels"], ia_bce_loss=True
)


def compute_transformers(logits, boxes):
    _, parts, _ = LwDetrForObjectDetectionLoss(
        logits, [{"class_labels": LABELS, "boxes": BOXES}], "cpu", boxes, config,
        enc_outputs_class=logits, enc_outputs_coord=boxes,
    )
    return parts["loss_ce"]


def compute_rfdetr(logits, boxes):
    parts = criterion({"pred_logits": logits, "pred_boxes": boxes}, [{"labels": LABELS, "boxes": BOXES}])
    return parts["loss_ce"]


print(*(f"{name} {version(name)}" for name in ("transformers", "rfdetr", "torch")))
print("class loss of two objects that are found exactly, with this logit; 300 queries")
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for logit in (4.0, 7.0, 9.0, 17.0):
        boxes = torch.tensor([0.5, 0.5, 0.9, 0.9]).repeat(1, 300, 1)
        boxes[0, :2] = BOXES
        row = []
        for compute in (compute_transformers, compute_rfdetr):
            logits = torch.full((1, 300, 2), -8.0, dtype=dtype)
            logits[0, 0, 0] = logits[0, 1, 1] = logit
            logits.requires_grad_()
            loss = compute(logits, boxes)
            loss.backward()
            gradient = "finite" if logits.grad.isfinite().all() else "NaN"
            row.append(f"{compute.__name__.removeprefix('compute_')} {loss.item():.4f}, gradient {gradient}")
        print(f"  {str(dtype).removeprefix('torch.')} {logit:2.0f}: {'; '.join(row)}")
PYTHON

cat > expected <<'TEXT'
transformers 5.24.0 rfdetr 1.11.2 torch 2.15.0
class loss of two objects that are found exactly, with this logit; 300 queries
  float32  4: transformers 0.0363, gradient finite; rfdetr 0.0363, gradient finite
  float32  7: transformers 0.0025, gradient finite; rfdetr 0.0025, gradient finite
  float32  9: transformers 0.0004, gradient finite; rfdetr 0.0004, gradient finite
  float32 17: transformers nan, gradient NaN; rfdetr 0.0000, gradient finite
  bfloat16  4: transformers 0.0352, gradient finite; rfdetr 0.0337, gradient finite
  bfloat16  7: transformers nan, gradient NaN; rfdetr 0.0009, gradient finite
  bfloat16  9: transformers nan, gradient NaN; rfdetr 0.0001, gradient finite
  bfloat16 17: transformers nan, gradient NaN; rfdetr 0.0000, gradient finite
  float16  4: transformers 0.0358, gradient finite; rfdetr 0.0357, gradient finite
  float16  7: transformers 0.0044, gradient finite; rfdetr 0.0043, gradient finite
  float16  9: transformers inf, gradient NaN; rfdetr 0.0001, gradient finite
  float16 17: transformers inf, gradient NaN; rfdetr 0.0000, gradient finite
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
