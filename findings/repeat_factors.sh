#!/usr/bin/env bash
# Three packages repeat the images of rare classes "as LVIS does": one rounds up and makes the epoch longer, two draw
# with replacement, so that a third of the images is missing from an epoch. Each chooses another threshold.
#
# Versions: Python 3.11, onedl-mmdetection 3.5.1, onedl-mmengine 0.10.12, onedl-mmcv 2.3.6, libreyolo 1.6.0, dfine-seg
# 0.6.2, torch 2.15.0, torchvision 0.29.2, pycocotools 2.0.11, opencv-python-headless 4.11.0.86.
#
# Guess before the run: all three take the factor sqrt(threshold / share of the class) of the rarest class of an image,
# as the paper on LVIS does; for the same threshold an image of a rare class is shown equally often, the fraction of a
# factor is left to chance, and the epoch grows by the factors.
#
# Behavior: 100 images, of which 90 show a car (30 of them a dog too), 2 an owl, 1 a crowd region of owls, 7 nothing.
# - MMDetection's ClassBalancedDataset rounds every factor up. At threshold 1 a car has 1.05 and a dog 1.83, and both
#   are shown twice: the epoch is twice as long, and dogs and cars are as unequal as before. An owl is shown 3 times as
#   often as a car, where the rule says 6.7 times. At 0.31, just above the dog's share, the dog jumps from 1 to 2.
#   The crowd region counts as an object: its image is repeated like an owl's, although nothing in it is learned.
# - libreyolo's class_balanced has no threshold: it is the median of the classes' shares, so half of the classes and
#   everything more frequent are never repeated. The epoch keeps its length and is drawn with replacement.
# - dfine-seg's rare_class_sampling always has threshold 1, and draws with replacement as well.
# - So an epoch of the last two lacks 38 and 40 of 100 images on average. An owl is shown 4 and 7 times as often as a
#   car.
#
# Who meets it: whoever takes a threshold from a paper or from one package to another, or compares "one epoch" of two:
# the share of rare images and the length of the epoch both differ by a factor of 2.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onedl-mmdetection==3.5.1 onedl-mmengine==0.10.12 \
    onedl-mmcv==2.3.6 libreyolo==1.6.0 dfine-seg==0.6.2 torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11 \
    opencv-python-headless==4.11.0.86

cat > try.py <<'PYTHON'
import collections
import contextlib
import io
import json
import math
import pathlib
import random

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

SIDE = 64
NAMES = ("car", "dog", "owl")
SHOWN = {"car": 1, "car and dog": 61, "owl": 91, "crowd of owls": 93, "nothing": 94}  # one image of each kind

with contextlib.redirect_stdout(io.StringIO()):
    import dfine_seg
    from dfine_seg.dl.dataset import Loader
    from libreyolo.data.dataset import COCODataset, create_dataloader
    from mmdet.datasets import CocoDataset
    from mmengine.dataset import ClassBalancedDataset


def write_data():
    annotations = []

    def add(image, category, crowd=0):
        before, after = 5 * SIDE + 5, SIDE * SIDE - 24 * SIDE - 25
        counts = [before, 20, *([SIDE - 20, 20] * 19), after]
        lengths = {"size": [SIDE, SIDE], "counts": [*counts, SIDE * SIDE - sum(counts)]}
        annotations.append(
            {
                "id": len(annotations) + 1, "image_id": image, "category_id": category, "iscrowd": crowd, "area": 400,
                "bbox": [5, 5, 20, 20], "segmentation": lengths if crowd else [[5, 5, 25, 5, 25, 25, 5, 25]],
            }
        )

    for image in range(1, 94):
        if image <= 90:
            add(image, 1)
        if 61 <= image <= 90:
            add(image, 2)
        if image >= 91:
            add(image, 3, crowd=int(image == 93))
    images = [{"id": n, "width": SIDE, "height": SIDE, "file_name": f"{n:03}.png"} for n in range(1, 101)]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    for part in ("data/annotations", "data/train2017", "data/images"):
        pathlib.Path(part).mkdir(parents=True)
    for image in images:
        for part in ("train2017", "images"):
            Image.new("RGB", (SIDE, SIDE)).save(f"data/{part}/{image['file_name']}")
    truth = {"images": images, "annotations": annotations, "categories": categories}
    for path in ("annotations/instances_train2017.json", "train.json", "val.json"):
        pathlib.Path("data", path).write_text(json.dumps(truth))


def show(title, epochs):
    counts = collections.Counter(index for epoch in epochs for index in epoch)
    times = ", ".join(f"{kind} {counts[image - 1] / len(epochs):.1f}" for kind, image in SHOWN.items())
    missing = sum(len(set(range(100)) - set(epoch)) for epoch in epochs) / len(epochs)
    print(f"{title}: {sum(map(len, epochs)) / len(epochs):.0f} images an epoch, {missing:.0f} of 100 missing")
    print(f"  times shown: {times}")


def by_the_rule(threshold):
    car, dog, owl = (max(1.0, math.sqrt(threshold / share)) for share in (0.9, 0.3, 0.02))
    factors = [car] * 60 + [max(car, dog)] * 30 + [owl] * 2 + [1.0] * 8
    chance = random.Random(0)
    return [
        [i for i, factor in enumerate(factors) for _ in range(int(factor) + (chance.random() < factor % 1))]
        for _ in range(1000)
    ]


def by_mmdetection(threshold):
    with contextlib.redirect_stdout(io.StringIO()):
        data = CocoDataset(
            ann_file="data/train.json", data_prefix={"img": "data/train2017/"}, metainfo={"classes": NAMES},
            filter_cfg={"filter_empty_gt": False}, pipeline=[],
        )
    return [ClassBalancedDataset(data, oversample_thr=threshold).repeat_indices]


def by_libreyolo():
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCODataset(
            "data", json_file="instances_train2017.json", name="train2017", img_size=(SIDE, SIDE)
        )
        loader = create_dataloader(data, batch_size=4, num_workers=0, class_balanced=True)
    torch.manual_seed(0)
    return [list(loader.sampler) for _ in range(1000)]


def by_dfine():
    config = OmegaConf.load(pathlib.Path(dfine_seg.__file__).parent / "config/default.yaml")
    config.now_dir = "now"
    config.train.update(
        {
            "label_to_name": dict(enumerate(NAMES)), "coco_dataset": True, "rare_class_sampling": True,
            "data_path": "data",
        }
    )
    loader, _, _ = Loader(pathlib.Path("data"), (SIDE, SIDE), 4, 0, config).build_dataloaders()
    return [list(loader.sampler) for _ in range(1000)]


np.random.seed(0)
write_data()
show("the rule of the paper, threshold 1", by_the_rule(1))
show("MMDetection, threshold 1", by_mmdetection(1))
show("MMDetection, threshold 0.31", by_mmdetection(0.31))
show("MMDetection, threshold 0.3", by_mmdetection(0.3))
show("libreyolo, class_balanced", by_libreyolo())
show("dfine-seg, rare_class_sampling", by_dfine())
PYTHON

cat > expected <<'TEXT'
the rule of the paper, threshold 1: 140 images an epoch, 0 of 100 missing
  times shown: car 1.1, car and dog 1.8, owl 7.1, crowd of owls 1.0, nothing 1.0
MMDetection, threshold 1: 205 images an epoch, 0 of 100 missing
  times shown: car 2.0, car and dog 2.0, owl 6.0, crowd of owls 6.0, nothing 1.0
MMDetection, threshold 0.31: 139 images an epoch, 0 of 100 missing
  times shown: car 1.0, car and dog 2.0, owl 4.0, crowd of owls 4.0, nothing 1.0
MMDetection, threshold 0.3: 109 images an epoch, 0 of 100 missing
  times shown: car 1.0, car and dog 1.0, owl 4.0, crowd of owls 4.0, nothing 1.0
libreyolo, class_balanced: 100 images an epoch, 38 of 100 missing
  times shown: car 0.9, car and dog 0.9, owl 3.7, crowd of owls 1.0, nothing 1.0
dfine-seg, rare_class_sampling: 100 images an epoch, 40 of 100 missing
  times shown: car 0.7, car and dog 1.3, owl 5.0, crowd of owls 0.7, nothing 0.7
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-29, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-29."
