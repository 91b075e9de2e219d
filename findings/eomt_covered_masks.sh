#!/usr/bin/env bash
# What post_process_instance_segmentation of EoMT in transformers does with overlapping masks: the later query wins.
#
# Versions: Python 3.11, transformers 5.24.0, torch 2.15.0, torchvision 0.29.2.
#
# Guess before the run: the masks are drawn into one map in the order of the queries, whatever their scores are. With a
# low threshold, which AP needs, a mask of score 0.02 takes the pixels of one of score 0.97 that comes before it.
#
# Behavior: as guessed. An object that is found exactly has IoU 0.00 with its segment at threshold 0, because the last
# query, with score 0.01, covers the image. It has IoU 0.50 at the default threshold of 0.8 if a second confident query
# lies on its right half, and 1.00 if the same two queries come in the other order. A segment without a pixel stays in
# segments_info, with its score. The processor has no return_binary_maps; that of Mask2Former has, and gives each mask.
#
# Who meets it: whoever computes AP of EoMT from this processor, as for the other models of transformers, or shows
# overlapping objects: the lower the threshold, the lower the AP.
#
# Output seen on 2026-11-30: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.15.0 torchvision==0.29.2

cat > try.py <<'PYTHON'
from importlib.metadata import version
from types import SimpleNamespace

import torch
from transformers import EomtImageProcessor, Mask2FormerImageProcessor

SIDE = 384
WHOLE = torch.ones(SIDE, SIDE, dtype=torch.bool)
OBJECT = torch.zeros(SIDE, SIDE, dtype=torch.bool)
OBJECT[96:192, 96:288] = True
RIGHT = OBJECT.clone()
RIGHT[:, :192] = False


def make(*queries):
    """The outputs of a model with one class, given score and mask of each query."""
    scores = torch.tensor([score for score, _ in queries])
    masks = torch.stack([torch.where(mask, 9.0, -9.0) for _, mask in queries])
    classes = torch.stack([scores, 1 - scores], -1).log()
    return SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])


def show(title, outputs, threshold):
    processor = EomtImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE})
    (eomt,) = processor.post_process_instance_segmentation(outputs, [(SIDE, SIDE)], threshold=threshold)
    (other,) = Mask2FormerImageProcessor().post_process_instance_segmentation(
        outputs, threshold=threshold, target_sizes=[(SIDE, SIDE)], return_binary_maps=True
    )
    print(f"{title}, threshold {threshold}")
    for name, masks, segments in (
        ("EoMT", [eomt["segmentation"] == one["id"] for one in eomt["segments_info"]], eomt["segments_info"]),
        ("Mask2Former", other["segmentation"] > 0, other["segments_info"]),
    ):
        found = sorted(zip([round(one["score"], 2) for one in segments], masks), key=lambda each: -each[0])
        ious = [f"{score:.2f}: IoU {(mask & OBJECT).sum() / (mask | OBJECT).sum():.2f}" for score, mask in found]
        print(f"  {name}: {', '.join(ious)}")


print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "torchvision")))
queries = (0.97, OBJECT), (0.3, RIGHT), (0.01, WHOLE)
show("an object found exactly, and two weak queries after it", make(*queries), 0.0)
show("the same", make(*queries), 0.2)
show("the same", make(*queries), 0.8)
show("the right half again, confident", make((0.97, OBJECT), (0.9, RIGHT)), 0.8)
show("the same, the half first", make((0.9, RIGHT), (0.97, OBJECT)), 0.8)
PYTHON

cat > expected <<'TEXT'
transformers 5.24.0 torch 2.15.0 torchvision 0.29.2
an object found exactly, and two weak queries after it, threshold 0.0
  EoMT: 0.97: IoU 0.00, 0.30: IoU 0.00, 0.01: IoU 0.12
  Mask2Former: 0.97: IoU 1.00, 0.30: IoU 0.50, 0.01: IoU 0.12
the same, threshold 0.2
  EoMT: 0.97: IoU 0.50, 0.30: IoU 0.50
  Mask2Former: 0.97: IoU 1.00, 0.30: IoU 0.50
the same, threshold 0.8
  EoMT: 0.97: IoU 1.00
  Mask2Former: 0.97: IoU 1.00
the right half again, confident, threshold 0.8
  EoMT: 0.97: IoU 0.50, 0.90: IoU 0.50
  Mask2Former: 0.97: IoU 1.00, 0.90: IoU 0.50
the same, the half first, threshold 0.8
  EoMT: 0.97: IoU 1.00, 0.90: IoU 0.00
  Mask2Former: 0.97: IoU 1.00, 0.90: IoU 0.50
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-30, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-30."
