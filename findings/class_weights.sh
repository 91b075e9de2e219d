#!/usr/bin/env bash
# Class weights that weigh less than they say: torch's cross-entropy divides them out again within a batch, and
# ultralytics' cls_pw weighs the false alarms of a rare class as much as its objects.
#
# Versions: Python 3.11, torch 2.15.0, torchvision 0.29.2, ultralytics 8.4.190, opencv-python 5.0.0.93.
#
# Guess before the run: a weight of 10 makes an object of the rare class count ten times as much as one of the frequent
# class, in whatever batch it comes; cls_pw=1 lifts the rare class against the background too.
#
# Behavior:
# - CrossEntropyLoss(weight=...) divides the sum by the weights of the batch. A batch of the rare class alone has the
#   gradient that it has without weights: with one sample a batch (accumulated or not) the weights do nothing. For one
#   rare sample among four, the rare class's share of the gradient is 0.77 in one batch of four, 0.45 as two batches of
#   two and 0.25 as four of one.
# - cls_pw multiplies the whole channel of a class by its weight, also where the class is absent: what pushes the rare
#   class up and what pushes it down grows by the same 2.7 times, so the score at which both balance, and with it what
#   the rare class is called, stays. In images without objects 92 of 100 parts of that loss are the rare class's.
#   The mean of the weights is 1, so the frequent class (1000 objects to 10 and 1) is left with 0.003: it hardly learns.
#
# Who meets it: whoever weighs classes by inverse frequency. With torch the effect depends on the size of the batch and
# on the number of cards (each divides its own); with ultralytics it is a learning rate for each class.
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
import logging
from types import SimpleNamespace

import numpy as np
import torch
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

LOGGER.setLevel(logging.ERROR)


def rare_share(labels, size, weight):
    """Share of the rare class (1) in the gradients of all samples, with batches of `size` whose losses are added."""
    logits = torch.zeros(len(labels), 2, requires_grad=True)
    loss = torch.nn.CrossEntropyLoss(weight=weight)
    for start in range(0, len(labels), size):
        loss(logits[start : start + size], torch.tensor(labels[start : start + size])).backward()
    sizes = logits.grad.abs().sum(1)
    return float(sizes[torch.tensor(labels) == 1].sum() / sizes.sum())


print("CrossEntropyLoss, one rare sample among four, share of the rare class in the gradient")
for size in (4, 2, 1):
    shares = [rare_share([0, 0, 0, 1], size, weight) for weight in (None, torch.tensor([1.0, 10.0]))]
    print(f"  batches of {size}: {shares[0]:.2f} without weights, {shares[1]:.2f} with weights 1 and 10")

COUNTS = (1000, 10, 1)
torch.manual_seed(0)
model = DetectionModel("yolo11n.yaml", nc=3, verbose=False).train()
model.args = get_cfg()
images = torch.rand(3, 3, 64, 64)
predictions = {
    key: value.detach() if torch.is_tensor(value) else [part.detach() for part in value]
    for key, value in model(images).items()
}
box = [0.5, 0.5, 0.5, 0.5]
batches = {
    "one object of each class": {
        "batch_idx": torch.arange(3.0), "cls": torch.arange(3.0)[:, None], "bboxes": [box] * 3,
    },
    "no objects": {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)},
}


def pushes(batch):
    """What pushes each class's scores up, and what pushes them down."""
    scores = predictions["scores"].clone().requires_grad_()
    objects = batch | {"img": images, "bboxes": torch.as_tensor(batch["bboxes"])}
    model.init_criterion()(predictions | {"scores": scores}, objects)[0].sum().backward()
    gradient = scores.grad
    return -gradient.clamp(max=0).sum((0, 2)), gradient.clamp(min=0).sum((0, 2))


before = {title: pushes(batch) for title, batch in batches.items()}
trainer = DetectionTrainer.__new__(DetectionTrainer)  # as in training, without starting one
labels = [{"cls": np.full((count, 1), number)} for number, count in enumerate(COUNTS)]
trainer.train_loader = SimpleNamespace(dataset=SimpleNamespace(labels=labels))
trainer.data, trainer.model, trainer.device = {"nc": 3}, model, "cpu"
trainer.args = SimpleNamespace(cls_pw=1.0)
trainer.set_class_weights()
print(f"ultralytics, classes with {COUNTS} objects, cls_pw=1")
print("  weights:", [round(float(weight), 4) for weight in model.class_weights])
after = {title: pushes(batch) for title, batch in batches.items()}
for title in batches:
    up, down = (new / old for new, old in zip(after[title], before[title], strict=True))
    if title != "no objects":
        print(f"  {title}: up {[round(float(v), 4) for v in up]} times as strong")
    print(f"  {title}: down {[round(float(v), 4) for v in down]} times as strong")
shares = after["no objects"][1] / after["no objects"][1].sum()
print("  no objects: shares of the classes in the push down", [round(float(share), 2) for share in shares])
PYTHON

cat > expected <<'TEXT'
CrossEntropyLoss, one rare sample among four, share of the rare class in the gradient
  batches of 4: 0.25 without weights, 0.77 with weights 1 and 10
  batches of 2: 0.25 without weights, 0.45 with weights 1 and 10
  batches of 1: 0.25 without weights, 0.25 with weights 1 and 10
ultralytics, classes with (1000, 10, 1) objects, cls_pw=1
  weights: [0.0027, 0.2725, 2.7248]
  one object of each class: up [0.0027, 0.2725, 2.7248] times as strong
  one object of each class: down [0.0027, 0.2725, 2.7248] times as strong
  no objects: down [0.0027, 0.2725, 2.7248] times as strong
  no objects: shares of the classes in the push down [0.0, 0.08, 0.92]
TEXT

export YOLO_CONFIG_DIR="$folder"
venv/bin/python -c "import ultralytics" > /dev/null # writes its settings
venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
