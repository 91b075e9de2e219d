#!/usr/bin/env bash
# The evaluation loss of RF-DETR and LW-DETR in transformers: a perfect detector costs 20.3, one that reports every object
# 13 times costs 0.0.
#
# Versions: Python 3.11, transformers 5.24.0, torch 2.15.0, torchvision 0.29.2, scipy 1.17.1.
#
# Guess before the run, from the code: in training these models have 13 groups of 300 queries, and the loss matches each
# object in each group. In evaluation the model computes one group of 300. Each call of the loss builds a criterion,
# and a new module is always in training mode, so that it still splits the queries into 13 groups: each object would be
# matched to 13 queries of the one group, and a perfect detector would not have a loss near 0.
#
# Behavior: as guessed. 300 queries become 13 groups of 23, and the last query is in none. Two objects that two queries
# find exactly cost 20.3 in evaluation, because 24 other queries should have found them, too. The loss is 0.0 for a
# detector with a copy of each box in each group, whose detections are false alarms but for two. With group_detr = 1 in
# the config it is the other way round: 0.0 and 191.9. The training is right: there the 13 groups exist.
#
# Who meets it: whoever chooses a checkpoint of RF-DETR or LW-DETR by eval_loss (the Trainer's default for
# load_best_model_at_end), stops early by it, or compares it with the training loss: it prefers duplicates. An image with
# more than 23 objects of 300 queries also has objects that no group can match. AP is not affected. Before an evaluation,
# model.config.group_detr = 1 gives the right loss.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.15.0 torchvision==0.29.2 \
    scipy==1.17.1

cat > try.py <<'PYTHON'
from importlib.metadata import version

import torch
import transformers
from transformers import RfDetrConfig, RfDetrForObjectDetection
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

transformers.logging.set_verbosity_error()
backbone = RfDetrDinov2Config(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=128, patch_size=4, num_windows=2,
    out_features=["stage1", "stage2"],
)
config = RfDetrConfig(
    backbone_config=backbone, num_labels=2, d_model=16, decoder_layers=2, decoder_self_attention_heads=2,
    decoder_cross_attention_heads=2, decoder_ffn_dim=16, intermediate_size=16, auxiliary_loss=False,
)
model = RfDetrForObjectDetection(config)
objects = {
    "class_labels": torch.tensor([0, 1]),
    "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]]),
}


def detect(starts):
    """Both objects exactly, from each of these queries on; the other queries find nothing."""
    boxes = torch.tensor([0.5, 0.5, 0.9, 0.9]).repeat(1, 300, 1)
    logits = torch.full((1, 300, 2), -8.0)
    for start in starts:
        boxes[0, start : start + 2] = objects["boxes"]
        logits[0, start, 0] = logits[0, start + 1, 1] = 8.0
    return logits, boxes


def compute_loss(logits, boxes):
    loss, parts, _ = model.loss_function(
        logits, [objects], "cpu", boxes, config, enc_outputs_class=logits, enc_outputs_coord=boxes
    )
    return f"{loss.item():.1f} (classes {parts['loss_ce']:.2f}, boxes {parts['loss_bbox']:.2f})"


print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
pixels = torch.rand(1, 3, 128, 128)
for mode in (True, False):
    queries = model.train(mode)(pixels).logits.shape[1]
    print(f"{'training' if mode else 'evaluation'}: {queries} queries, group_detr {config.group_detr}")
for groups in (13, 1):
    config.group_detr = groups
    print(f"loss of 300 queries, group_detr {groups}")
    print(f"  both objects found once:     {compute_loss(*detect([0]))}")
    print(f"  both objects found 13 times: {compute_loss(*detect(range(0, 299, 23)))}")
PYTHON

cat > expected <<'TEXT'
transformers 5.24.0 torch 2.15.0
training: 3900 queries, group_detr 13
evaluation: 300 queries, group_detr 13
loss of 300 queries, group_detr 13
  both objects found once:     20.3 (classes 0.11, boxes 1.66)
  both objects found 13 times: 0.0 (classes 0.00, boxes 0.00)
loss of 300 queries, group_detr 1
  both objects found once:     0.0 (classes 0.00, boxes 0.00)
  both objects found 13 times: 191.9 (classes 95.94, boxes 0.00)
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
