"""Draws what two runs detect in the same validation images: docs/assets/detections.png.

    uv run python benchmarks/tiny_tail.py --losses softmax gumbel --seeds 0
    uv run python tools/draw_detections.py softmax=runs/tiny_tail/softmax_0 Gumbel=runs/tiny_tail/gumbel_0

The rows are the ground truth and the runs. A detection is right (green) if it has the class of an object that no better
detection has taken, and a mask IoU of 0.5 or more with it; otherwise it is wrong (red). The picture shows the images in
which the last run is furthest ahead of the first: in right detections minus wrong ones, and rare objects count double.
The report of a run shows all images.
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco

from tailseg.data.tiny_tail import prepare

PICTURE = Path(__file__).resolve().parents[1] / "docs/assets/detections.png"
MIN_SCORE, MIN_IOU = 0.3, 0.5
NUM_IMAGES, SIDE, GAP, CAPTION = 4, 288, 8, 44
RIGHT, WRONG, ANNOTATED = (46, 160, 67), (218, 54, 51), (255, 255, 255)


@dataclass(frozen=True)
class Outline:
    """An object or a detection as it is drawn."""

    mask: dict
    name: str
    color: tuple[int, int, int]


def get_mask(segmentation: list | dict, image: dict) -> dict:
    """Returns run lengths of polygons or run lengths."""
    if isinstance(segmentation, dict):
        return segmentation
    return coco.merge(coco.frPyObjects(segmentation, image["height"], image["width"]))


def judge(objects: list[dict], detections: list[dict], image: dict) -> list[bool]:
    """Returns for each detection, best first, whether it is right."""
    if not objects or not detections:
        return [False] * len(detections)
    masks = [[get_mask(item["segmentation"], image) for item in items] for items in (detections, objects)]
    overlaps = coco.iou(*masks, [0] * len(objects))
    free = np.ones(len(objects), dtype=bool)
    verdicts = []
    for detection, row in zip(detections, overlaps, strict=True):
        same = np.array([item["category_id"] == detection["category_id"] for item in objects])
        candidates = np.where(same & free, row, 0)
        best = int(candidates.argmax())
        verdicts.append(bool(candidates[best] >= MIN_IOU))
        free[best] &= not verdicts[-1]
    return verdicts


def draw_image(folder: Path, image: dict, outlines: list[Outline]) -> Image.Image:
    """Draws outlines and class names on the enlarged image."""
    scale = SIDE / max(image["width"], image["height"])
    size = round(image["width"] * scale), round(image["height"] * scale)
    picture = np.asarray(Image.open(folder / image["file_name"]).convert("RGB").resize(size, Image.Resampling.BICUBIC))
    picture = picture.copy()
    places = []
    for outline in outlines:
        inside = Image.fromarray(coco.decode(outline.mask) * np.uint8(255)).resize(size, Image.Resampling.BICUBIC)
        inside = np.asarray(inside) > 127
        edge = np.zeros_like(inside)
        for axis in (0, 1):
            for shift in (-2, -1, 1, 2):
                edge |= inside & ~np.roll(inside, shift, axis)
        picture[inside] = (0.75 * picture[inside] + 0.25 * np.array(outline.color)).astype(np.uint8)
        picture[edge] = outline.color
        rows, columns = np.nonzero(inside)
        places.append((int(columns.min()), int(rows.min())) if len(rows) else (0, 0))
    cell = Image.new("RGB", (SIDE, SIDE), "white")
    cell.paste(Image.fromarray(picture))
    pen, font = ImageDraw.Draw(cell), ImageFont.load_default(15)
    for outline, (x, y) in zip(outlines, places, strict=True):
        left, _, right, bottom = pen.textbbox((0, 0), outline.name, font=font)
        x, y = max(0, min(x, SIDE - right - 6)), max(0, y - bottom - 3)
        pen.rectangle((x, y, x + right - left + 6, y + bottom + 2), fill=outline.color)
        dark = outline.color == ANNOTATED
        pen.text((x + 3, y), outline.name, fill="black" if dark else "white", font=font)
    return cell


@dataclass(frozen=True)
class Run:
    """The detections of a run by image, best first, and whether each is right."""

    name: str
    detections: dict[int, list[dict]]
    verdicts: dict[int, list[bool]]

    def rate(self, image: int, rare: set[int]) -> int:
        """Returns the right detections of an image minus the wrong ones; rare objects count double."""
        pairs = zip(self.detections[image], self.verdicts[image], strict=True)
        return sum((2 if item["category_id"] in rare else 1) if right else -1 for item, right in pairs)

    def count(self, images: list[int]) -> tuple[int, int]:
        """Returns the numbers of right and of wrong detections in the images."""
        verdicts = [right for image in images for right in self.verdicts[image]]
        return sum(verdicts), len(verdicts) - sum(verdicts)


def read_run(name: str, folder: Path, images: list[dict], objects: dict[int, list[dict]]) -> Run:
    """Reads the results of a run and judges each detection."""
    detections = defaultdict(list)
    for item in sorted(json.loads((folder / "results.json").read_text()), key=lambda item: -item["score"]):
        if item["score"] >= MIN_SCORE:
            detections[item["image_id"]].append(item)
    verdicts = {image["id"]: judge(objects[image["id"]], detections[image["id"]], image) for image in images}
    return Run(name, detections, verdicts)


def main(arguments: list[str]) -> None:
    folders = dict(argument.split("=", 1) for argument in arguments)
    if len(folders) < 2:
        raise SystemExit(__doc__)
    file = prepare("tiny_tail", progress=True)[1]
    truth = json.loads(file.read_text())
    names = {category["id"]: category["name"] for category in truth["categories"]}
    rare = {category["id"] for category in truth["categories"] if category["frequency"] == "r"}
    objects = defaultdict(list)
    for item in truth["annotations"]:
        objects[item["image_id"]].append(item)
    runs = [read_run(name, Path(folder), truth["images"], objects) for name, folder in folders.items()]
    first, last = runs[0], runs[-1]
    lead = {image["id"]: last.rate(image["id"], rare) - first.rate(image["id"], rare) for image in truth["images"]}
    images = sorted(truth["images"], key=lambda image: -lead[image["id"]])[:NUM_IMAGES]
    numbers = [image["id"] for image in images]

    total = sum(len(objects[number]) for number in numbers)
    rows = [("ground truth", {number: [(item, ANNOTATED) for item in objects[number]] for number in numbers})]
    for run in runs:
        right, wrong = run.count(numbers)
        colored = {
            number: [
                (item, RIGHT if is_right else WRONG)
                for item, is_right in zip(run.detections[number], run.verdicts[number], strict=True)
            ]
            for number in numbers
        }
        rows.append((f"{run.name}: {right} of {total} objects found, {wrong} wrong", colored))
    width = NUM_IMAGES * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + CAPTION + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(30)
    for i, (caption, items) in enumerate(rows):
        y = GAP + i * (SIDE + CAPTION + GAP)
        pen.text((GAP, y + 2), caption, fill="black", font=font)
        for j, image in enumerate(images):
            outlines = [
                Outline(get_mask(item["segmentation"], image), names[item["category_id"]], color)
                for item, color in reversed(items[image["id"]])
            ]
            sheet.paste(draw_image(file.parent, image, outlines), (GAP + j * (SIDE + GAP), y + CAPTION))
        print(caption)
    sheet.quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main(sys.argv[1:])
