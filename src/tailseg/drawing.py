"""Pictures of detections and of ground truth, drawn with supervision: masks, boxes, class names and scores."""

import io
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Final, Literal

import numpy as np
import supervision as sv
import torch
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import Group
from tailseg.files import DETECTIONS, make_signature
from tailseg.ops.masks import decode_mask, segmentation_to_rle
from tailseg.structures import Detections

ColorBy = Literal["class", "group"]
"""Color by class, or by frequency group: rare, common, frequent."""

GROUP_COLORS: dict[Group, str] = {"r": "#e6194b", "c": "#f59f00", "f": "#1c7ed6"}
LONGEST_SIDE: Final = 65_500
"""Pixels of a JPEG file's side."""
_CLASS_COLORS = sv.ColorPalette.DEFAULT
_GAP = 6
_CAPTION = 18


def select(detections: Detections, chosen: Bool[Tensor, " D"]) -> Detections:
    """The detections that are chosen."""
    kept = chosen.nonzero().flatten()
    return replace(
        detections,
        boxes=detections.boxes[kept],
        scores=detections.scores[kept],
        labels=detections.labels[kept],
        masks=None if detections.masks is None else tuple(detections.masks[i] for i in kept.tolist()),
    )


def above(detections: Detections, threshold: float) -> Detections:
    """The detections that score at least ``threshold``."""
    return select(detections, detections.scores >= threshold)


def ground_truth(annotations: Annotations, index: int) -> Detections:
    """The annotated objects of image ``index`` as detections of score 1, to be drawn or compared."""
    record = annotations.get_record(index)
    height, width = (int(side) for side in annotations.sizes[index])
    return Detections(
        boxes=torch.from_numpy(record.boxes),
        scores=torch.ones(len(record)),
        labels=torch.from_numpy(record.labels),
        masks=tuple(segmentation_to_rle(segmentation, height, width) for segmentation in record.segmentations),
        height=height,
        width=width,
    )


def draw(
    image: Image.Image,
    detections: Detections,
    names: Sequence[str],
    groups: Sequence[Group],
    *,
    color_by: ColorBy = "class",
    show_scores: bool = True,
    minimum_side: int = 480,
) -> Image.Image:
    """The image with its detections drawn in, larger objects below smaller ones.

    Args:
        image: as in the file; ``detections`` are in its pixels.
        detections: what to draw, all of it (see `above`).
        names: of the classes, by label.
        groups: frequency groups of the classes, by label.
        color_by: what a color stands for.
        show_scores: print the score behind the class's name; ground truth has none.
        minimum_side: a smaller picture is enlarged (whole numbers only), so that the text can be read.
    """
    zoom = max(1, ceil(minimum_side / max(image.size)))
    scene = image.convert("RGB").resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    if len(detections) == 0:
        return scene
    labels = detections.labels.cpu().numpy()
    masks = None
    if detections.masks is not None:
        masks = np.stack([decode_mask(mask) for mask in detections.masks]).astype(bool)
        masks = masks.repeat(zoom, axis=1).repeat(zoom, axis=2)
    found = sv.Detections(
        xyxy=detections.boxes.cpu().numpy().astype(np.float32) * zoom,
        mask=masks,
        confidence=detections.scores.cpu().float().numpy(),
        class_id=labels,
    )
    captions = [names[label] for label in labels]
    if show_scores:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, detections.scores.tolist(), strict=True)]
    colors = np.asarray(labels) if color_by == "class" else np.array(["rcf".index(groups[label]) for label in labels])
    palette = _CLASS_COLORS if color_by == "class" else sv.ColorPalette.from_hex([GROUP_COLORS[g] for g in "rcf"])
    picture = np.asarray(scene)[:, :, ::-1].copy()  # supervision draws in BGR, in place
    if masks is not None:
        picture = sv.MaskAnnotator(palette, opacity=0.45).annotate(picture, found, custom_color_lookup=colors)
        picture = sv.PolygonAnnotator(palette, thickness=2).annotate(picture, found, custom_color_lookup=colors)
    picture = sv.BoxAnnotator(palette, thickness=1).annotate(picture, found, custom_color_lookup=colors)
    text = sv.LabelAnnotator(palette, text_scale=0.4, text_padding=3, smart_position=True)
    picture = text.annotate(picture, found, labels=captions, custom_color_lookup=colors)
    return Image.fromarray(picture[:, :, ::-1])


def to_jpeg(picture: Image.Image, *, quality: int) -> bytes:
    """The picture as a JPEG file, marked as drawn by tailseg.

    Raises:
        ImageError: a side is longer than JPEG allows.
    """
    if max(picture.size) > LONGEST_SIDE:
        raise ImageError(
            f"a picture of {picture.width} x {picture.height} pixels cannot be drawn: the sides of a JPEG file end at "
            f"{LONGEST_SIDE:,} pixels. Cut the image into tiles, or scale it down"
        )
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=quality, exif=make_signature(picture, DETECTIONS))
    return file.getvalue()


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int, cell: tuple[int, int] = (480, 480)
) -> Image.Image:
    """One picture of many: each fitted into a cell (width, height), its caption above it, row by row."""
    if not pictures or len(pictures) != len(captions) or columns < 1:
        raise ValueError(
            f"a contact sheet needs pictures with one caption each and at least one column, "
            f"got {len(pictures)} pictures, {len(captions)} captions, {columns} columns"
        )
    width, height = cell
    rows = ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _CAPTION + _GAP) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = _GAP + (index % columns) * (width + _GAP)
        y = _GAP + (index // columns) * (height + _CAPTION + _GAP)
        scale = min(width / picture.width, height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        pen.text((x, y), caption, fill="black", font=font)
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (x, y + _CAPTION))
    return sheet
