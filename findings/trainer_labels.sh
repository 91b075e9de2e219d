#!/usr/bin/env bash
# What compute_metrics of the transformers Trainer gets of a detector: ten predictions, two labels, and in the last batch
# fewer objects than there are.
#
# Versions: Python 3.11, transformers 5.24.0, accelerate 1.15.0, torch 2.15.0.
#
# Guess before the run: with the Trainer's defaults the labels of a detector, a list of dicts for each batch, are put
# together by position, so that the dicts of several images become one, and a smaller last batch cuts the rest off.
#
# Behavior: as guessed, and more than that. The predictions of all images are concatenated, [10, ...]. The labels are
# joined dict by dict: with 10 images in batches of 4 the last batch has 2, so that 2 dicts are left; the first has the
# objects of the images 0, 4 and 8. zip(predictions, label_ids) raises nothing: it scores 2 of 10 images, each with the
# objects of three. A detector that finds every object exactly finds 1 of 5 and 2 of 6 there. With
# eval_do_concat_batches=False everything comes batch by batch, in lists. But in both cases accelerate cuts each tensor
# of the last batch to as many rows as the batch has images, also the boxes of one image: of the last 2 images no more
# than 2 objects each are left (image 8 has 3), and the others count as false alarms if they are found.
#
# Who meets it: whoever fine-tunes DETR, RT-DETR, D-FINE or RF-DETR with the Trainer and a compute_metrics of their own.
# Where the batch divides the number of images nothing is cut off, but the first batch of images has all objects.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.24.0 accelerate==1.15.0 torch==2.15.0

cat > try.py <<'PYTHON'
from importlib.metadata import version

import torch
import transformers
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

transformers.logging.set_verbosity_error()


def make_boxes(image):
    """One to three objects, each at another place: x1, y1, x2, y2."""
    count = 1 + image % 3
    return torch.tensor([[20.0 * image, 30.0 * k, 20.0 * image + 15, 30.0 * k + 25] for k in range(3)]), count


class Images(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, image):
        boxes, count = make_boxes(image)
        labels = {"image_id": torch.tensor([image]), "boxes": boxes[:count], "class_labels": torch.zeros(count).long()}
        return {"pixel_values": torch.full((3, 2, 2), float(image)), "labels": labels}


class Detector(nn.Module):
    """Finds every object of an image exactly."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values, labels=None):
        found = [make_boxes(int(image[0, 0, 0])) for image in pixel_values]
        boxes = torch.stack([boxes for boxes, _ in found])
        scores = torch.stack([(torch.arange(3) < count).float() for _, count in found])
        return {"loss": self.weight.sum(), "logits": scores, "pred_boxes": boxes}


def collate(samples):
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
    }


def count_found(boxes, label):
    """How many objects of a label dict are among the boxes of a prediction."""
    return sum(any(torch.equal(torch.as_tensor(box), one) for one in boxes) for box in label["boxes"])


given = {}


def compute_metrics(evaluation):
    given["evaluation"] = evaluation
    return {}


print(*(f"{name} {version(name)}" for name in ("transformers", "accelerate", "torch")))
for concatenate in (True, False):
    arguments = TrainingArguments(
        "out", per_device_eval_batch_size=4, remove_unused_columns=False, report_to="none", use_cpu=True,
        eval_do_concat_batches=concatenate,
    )
    trainer = Trainer(
        Detector(), arguments, eval_dataset=Images(), data_collator=collate, compute_metrics=compute_metrics
    )
    trainer.remove_callback(PrinterCallback)
    trainer.evaluate()
    predictions, labels = given["evaluation"].predictions, given["evaluation"].label_ids
    print(f"eval_do_concat_batches={concatenate}" + " (the default)" * concatenate)
    if concatenate:
        print(f"  predictions of {len(predictions[0])} images, {len(labels)} label dicts")
        pairs = list(zip(predictions[1], labels))
    else:
        print(f"  batches of {[len(batch) for batch in labels]} label dicts")
        pairs = [pair for (_, boxes), batch in zip(predictions, labels) for pair in zip(boxes, batch)]
    for boxes, label in pairs:
        found = count_found(list(torch.as_tensor(boxes)), label)
        images = label["image_id"].tolist()
        there = sum(make_boxes(image)[1] for image in images)
        print(f"  image_id {images}: {found} of {len(label['boxes'])} objects found, the images have {there}")
PYTHON

cat > expected <<'TEXT'
transformers 5.24.0 accelerate 1.15.0 torch 2.15.0
eval_do_concat_batches=True (the default)
  predictions of 10 images, 2 label dicts
  image_id [0, 4, 8]: 1 of 5 objects found, the images have 6
  image_id [1, 5, 9]: 2 of 6 objects found, the images have 6
eval_do_concat_batches=False
  batches of [4, 4, 2] label dicts
  image_id [0]: 1 of 1 objects found, the images have 1
  image_id [1]: 2 of 2 objects found, the images have 2
  image_id [2]: 3 of 3 objects found, the images have 3
  image_id [3]: 1 of 1 objects found, the images have 1
  image_id [4]: 2 of 2 objects found, the images have 2
  image_id [5]: 3 of 3 objects found, the images have 3
  image_id [6]: 1 of 1 objects found, the images have 1
  image_id [7]: 2 of 2 objects found, the images have 2
  image_id [8]: 2 of 2 objects found, the images have 3
  image_id [9]: 1 of 1 objects found, the images have 1
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
