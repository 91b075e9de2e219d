"""Draws docs/assets/augmentation.png: images of tiny_tail after jitter and copy-paste, with the masks of their objects.

uv run python tools/draw_augmentation.py
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tailseg.annotations.read import read_dataset
from tailseg.data.cutouts import open_cutouts
from tailseg.data.loader import DetectionDataset
from tailseg.data.paste import CopyPaste
from tailseg.data.settings import CopyPasteConfig, JitterConfig
from tailseg.data.tiny_tail import prepare
from tailseg.data.transforms import train_transform
from tailseg.ops.masks import decode_mask, rasterize

FILE = Path(__file__).parents[1] / "docs" / "assets" / "augmentation.png"
SIDE = 192
IMAGES = (3, 8, 14, 21)
SEED = 4
OWN, PASTED = (230, 60, 50), (60, 200, 80)


def main() -> None:
    torch.set_num_threads(1)
    annotations = read_dataset(prepare("tiny_tail")[0])
    config = CopyPasteConfig(probability=1, scale=(0.5, 1.5))
    cutouts = open_cutouts(annotations, objects_per_class=config.objects_per_class, max_megabytes=config.max_megabytes)
    # other labels, so that pasted objects can be told from the image's own
    cutouts = replace(cutouts, labels=cutouts.labels + annotations.num_classes)
    paste = CopyPaste(cutouts, config, np.ones(2 * annotations.num_classes))
    transform = train_transform([SIDE], SIDE, 0.5, jitter=JitterConfig(scale=(0.5, 1.5), size=SIDE))
    sheet = Image.new("RGB", (SIDE * len(IMAGES), SIDE * 2))
    for column, index in enumerate(IMAGES):
        image, target, _ = DetectionDataset(annotations, transform, paste=paste)[index, SEED + column]
        pixels = image.permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels), (column * SIDE, 0))
        drawn = pixels // 2
        frames = target.frames or (target.frame,) * len(target)
        for mask, frame, label in zip(target.masks, frames, target.labels.tolist(), strict=True):
            bitmap = decode_mask(rasterize(mask, frame, (0, 0, SIDE, SIDE)))
            color = OWN if label < annotations.num_classes else PASTED
            drawn[bitmap] = drawn[bitmap] // 2 + np.array(color, np.uint8) // 2
        sheet.paste(Image.fromarray(drawn), (column * SIDE, SIDE))
    sheet.quantize(128).save(FILE, optimize=True)
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main()
