"""A picture with examples of each frequency group: objects of some classes, in their surroundings."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from PIL import Image

from tailseg.data.images import read_annotated
from tailseg.drawing import contact_sheet, draw, read_ground_truth
from tailseg.ops import strips
from tailseg.ops.masks import encode_mask
from tailseg.report.page import GROUPS
from tailseg.report.thumbnails import Crop, crop_around, limit_aspect
from tailseg.structures import Detections
from tailseg.words import count_noun

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations
    from tailseg.annotations.summary import Summary

COLUMNS: Final = 4
"""Classes of each group."""
CELL: Final = 360
"""The longest side of an example in pixels."""
OPACITY: Final = 0.2
"""Of the colors of the masks: the object must be seen through it."""


def draw_example_sheet(annotations: "Annotations", content: "Summary") -> Image.Image:
    """Draws examples of frequent, common and rare classes, one row for each group that has objects.

    A row goes from the most to the least frequent class of its group. Each class shows its largest object with what
    surrounds it: the object fills the example, whatever the size of the image.

    Args:
        annotations: the data set.
        content: its summary.

    Returns:
        The picture.

    Raises:
        ValueError: the data set has no objects.
        ImageError: an image is missing or cannot be read.
    """
    largest = find_largest_objects(annotations)
    labels = {category.id: label for label, category in enumerate(annotations.categories)}
    pictures, captions = [], []
    for group, name in reversed(GROUPS.items()):
        counts = [count for count in content.counts if count.category.group == group and count.objects]
        steps = np.linspace(0, len(counts) - 1, min(COLUMNS, len(counts))).round().astype(int)
        for count in (counts[step] for step in steps):
            pictures.append(draw_object(annotations, largest[labels[count.category.id]]))
            captions.append(f"{name}, {count_noun(count.images, 'image')}: {' '.join(count.category.name.split())}")
        if len(steps) and len(pictures) % COLUMNS:  # the next group begins a row
            missing = -len(pictures) % COLUMNS
            pictures += [Image.new("RGB", (1, 1), "white")] * missing
            captions += [""] * missing
    if not pictures:
        raise ValueError(f"{annotations.path} has no objects to draw")
    return contact_sheet(pictures, captions, columns=COLUMNS, cell=(CELL, CELL))


def find_largest_objects(annotations: "Annotations") -> dict[int, int]:
    """Finds the row of the largest object of each class that has one, by label."""
    objects = annotations.objects
    areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)
    rows = areas.argsort(kind="stable")
    rows = rows[~objects.ignored[rows]]
    return dict(zip(objects.labels[rows].tolist(), rows.tolist(), strict=True))


def draw_object(annotations: "Annotations", row: int) -> Image.Image:
    """Draws an object and those of its class around it, in the color of the frequency group.

    Args:
        annotations: the data set.
        row: the object.

    Returns:
        The picture; its longest side has `CELL` pixels.
    """
    objects = annotations.objects
    index = int(np.searchsorted(objects.offsets, row, side="right")) - 1
    label = int(objects.labels[row])
    height, width = annotations.sizes[index].tolist()
    box = objects.boxes[row].tolist()
    crop = limit_aspect(crop_around(box, height=height, width=width), box)
    pixels = read_annotated(annotations, annotations.get_info(index))[0].permute(1, 2, 0).numpy()
    scale = CELL / max(crop[2] - crop[0], crop[3] - crop[1])
    size = max(1, round((crop[2] - crop[0]) * scale)), max(1, round((crop[3] - crop[1]) * scale))
    picture = Image.fromarray(pixels[crop[1] : crop[3], crop[0] : crop[2]]).resize(size, Image.Resampling.LANCZOS)
    truth = read_ground_truth(annotations, index)
    part = cut_detections(truth.select(truth.labels == label), crop, size)
    names = [category.name for category in annotations.categories]
    groups = [category.group for category in annotations.categories]
    return draw(picture, part, names, groups, color_by="group", show_labels=False, opacity=OPACITY, minimum_side=1)


def cut_detections(detections: Detections, crop: Crop, size: tuple[int, int]) -> Detections:
    """Returns the detections in a part of their image that is scaled to a new size.

    Args:
        detections: of the image.
        crop: x1, y1, x2, y2 in pixels of the image.
        size: new width and height of the part.

    Returns:
        The detections that reach into the part.
    """
    offset = torch.tensor([crop[0], crop[1]] * 2)
    factors = torch.tensor([size[0] / (crop[2] - crop[0]), size[1] / (crop[3] - crop[1])] * 2)
    boxes = torch.minimum(((detections.boxes - offset) * factors).clamp(min=0), torch.tensor(size * 2))
    inside = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    part = detections.select(inside)
    masks = part.masks and tuple(
        encode_mask(
            np.asarray(
                Image.fromarray(strips.to_bitmap(strips.from_run_lengths(mask), crop)).resize(
                    size, Image.Resampling.NEAREST
                )
            )
        )
        for mask in part.masks
    )
    return replace(part, boxes=boxes[inside], masks=masks, height=size[1], width=size[0])
