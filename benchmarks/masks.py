"""From 28 x 28 mask probabilities to COCO run lengths, and from polygons to mask targets: tailseg and torchvision.

    uv run python benchmarks/masks.py

Test: masks of an 800 x 1216 image, sides from 12 to 400 pixels. torchvision pastes bitmaps of the image's size, which
pycocotools encodes. tailseg's bytes are those that pycocotools encodes from tailseg's bitmaps. torchvision's pasting
differs by design (it widens boxes to whole pixels). The column of detectron2 appears if it is installed.

Training: the targets of 128 RoIs of 20 objects with one polygon each. torchvision needs bitmaps of the objects, which
its data sets draw from polygons, and pools them.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import torch
from measure import device, in_own_process, peak_memory, seconds, table, write
from peers import detectron2_installed, star
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from tailseg.ops.masks import encode_mask, mask_targets, paste_bitmaps, paste_masks
from tailseg.structures import Frame

HEIGHT, WIDTH = 800, 1216
THREADS = 1
DEVICE = device()
"""Where the network's masks and boxes lie."""


def masks_and_boxes(number: int) -> tuple[Tensor, Tensor]:
    """Blobs with a few holes, as a mask head makes them."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(number, 1, 36, 36, generator=generator)
    probabilities = (8 * F.avg_pool2d(noise, 9, stride=1)[:, 0] + 0.5).sigmoid()
    side = torch.exp(torch.rand(number, 2, generator=generator) * 3.5 + 2.5)
    center = torch.rand(number, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([center - side / 2, center + side / 2], dim=1)
    limits = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return probabilities.to(DEVICE), boxes.clamp(min=0).minimum(limits).to(DEVICE)


def pasting(number: int) -> dict[str, Callable[[], object]]:
    probabilities, boxes = masks_and_boxes(number)

    def torchvision() -> list[dict]:
        pasted = paste_masks_in_image(probabilities[:, None], boxes, (HEIGHT, WIDTH))
        return [coco.encode(np.asfortranarray(mask[0].cpu().numpy().astype(np.uint8))) for mask in pasted >= 0.5]

    def detectron2() -> list[dict]:
        from detectron2.layers.mask_ops import paste_masks_in_image as paste

        pasted = paste(probabilities, boxes, (HEIGHT, WIDTH), threshold=0.5)
        return [coco.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8))) for mask in pasted]

    ways = {"tailseg": lambda: paste_masks(probabilities, boxes, HEIGHT, WIDTH), "torchvision": torchvision}
    return {**ways, "detectron2": detectron2} if detectron2_installed() else ways


def check(number: int) -> None:
    """tailseg's bytes are those that pycocotools makes of whole bitmaps."""
    probabilities, boxes = masks_and_boxes(number)
    bitmaps = paste_bitmaps(probabilities, boxes, HEIGHT, WIDTH).numpy()
    if paste_masks(probabilities, boxes, HEIGHT, WIDTH) != [encode_mask(bitmap) for bitmap in bitmaps]:
        raise SystemExit("run lengths differ from pycocotools'")


def targets(number: int) -> dict[str, Callable[[], object]]:
    generator = np.random.default_rng(0)
    polygons = [
        star(generator.uniform([100, 100], [WIDTH - 100, HEIGHT - 100]), generator.uniform(20, 150), generator)
        for _ in range(20)
    ]
    owner = np.arange(number) % 20
    around = np.array([[*polygon.min(0), *polygon.max(0)] for polygon in polygons])
    boxes = torch.from_numpy(around[owner] + generator.uniform(-8, 8, (number, 4))).float().to(DEVICE)

    def torchvision() -> Tensor:
        rles = [coco.merge(coco.frPyObjects([polygon.ravel()], HEIGHT, WIDTH)) for polygon in polygons]
        bitmaps = torch.from_numpy(np.ascontiguousarray(coco.decode(rles).transpose(2, 0, 1))).to(DEVICE)
        return project_masks_on_boxes(bitmaps, boxes, torch.from_numpy(owner).to(DEVICE), 28)

    return {
        "tailseg": lambda: mask_targets([(polygons[k],) for k in owner], Frame(), boxes),
        "torchvision": torchvision,
    }


CASES = {
    **{f"{n} masks to run lengths": (lambda n=n: pasting(n)) for n in (100, 300)},
    "targets of 128 RoIs": lambda: targets(128),
}


def main() -> None:
    torch.set_num_threads(THREADS)
    if sys.argv[1:]:
        print(json.dumps({name: peak_memory(run) for name, run in CASES[sys.argv[1]]().items()}))
        return
    check(300)
    rows = []
    for case, make in CASES.items():
        ways = make()
        times = seconds(ways, rounds=3)
        on_gpu = DEVICE.type == "cuda"
        held = {n: peak_memory(run) for n, run in ways.items()} if on_gpu else in_own_process(__file__, case)
        for name, took in times.items():
            ratios = f"{times['torchvision'] / took:.1f} | {held['torchvision'] / max(held[name], 1):.1f}".split(" | ")
            rows.append([case, name, f"{1e3 * took:.1f}", f"{held[name] / 1e6:.0f}", *ratios])
    head = ["", "", "ms", "MB above start", "torchvision / this, time", "memory"]
    write("masks", "Masks to run lengths, polygons to targets", table(head, rows), threads=THREADS)


if __name__ == "__main__":
    main()
