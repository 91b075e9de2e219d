"""Draws detections and ground truth with supervision: masks, boxes, class names and scores."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import Group
from tailseg.deprecated import warn_of_old_name
from tailseg.files import DETECTIONS, make_signature
from tailseg.lazy import needs_extra
from tailseg.ops import strips
from tailseg.ops.masks import segmentation_to_rle
from tailseg.structures import Detections

with needs_extra("train"), warnings.catch_warnings():
    # Without OpenCV supervision says that it is slower; docs/install.md says when OpenCV is worth it.
    warnings.filterwarnings("ignore", message="OpenCV")
    import supervision as sv

ColorBy = Literal["class", "group"]
"""Color by class, or by frequency group: rare, common, frequent."""

GROUP_COLORS: dict[Group, str] = {"r": "#e6194b", "c": "#f59f00", "f": "#1c7ed6"}
LONGEST_SIDE: Final = 65_500
"""The longest side of a JPEG file, in pixels."""
_CLASS_COLORS = sv.ColorPalette.DEFAULT
_OPACITY: Final = 0.45
_ROWS: Final = 256
"""Rows that are mixed at a time; floats take eight times the memory."""
_GAP = 6
_CAPTION = 18


def above(detections: Detections, threshold: float) -> Detections:
    """The old name of ``detections.above(threshold)``."""
    warn_of_old_name("tailseg.drawing.above(detections, threshold)", "detections.above(threshold)")
    return detections.above(threshold)


def read_ground_truth(annotations: Annotations, index: int) -> Detections:
    """Returns the annotated objects of image ``index`` as detections of score 1, for drawing and comparison."""
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
    """Draws detections on a copy of the image, larger objects below smaller ones.

    The masks are decoded one after the other, each inside its box: the memory does not grow with their number.

    Args:
        image: the image; ``detections`` are in its pixels.
        detections: all of them are drawn, see `Detections.above`.
        names: the name of each class, by label.
        groups: the frequency group of each class, by label.
        color_by: what a color stands for.
        show_scores: print the score after the class's name; ground truth has no scores.
        minimum_side: a smaller image is enlarged by a whole number, because its text could not be read.

    Returns:
        The picture.
    """
    zoom = max(1, ceil(minimum_side / max(image.size)))
    scene = image.convert("RGB").resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    if len(detections) == 0:
        return scene
    boxes = replace(detections, masks=None).to_supervision()
    labels = detections.labels.cpu().numpy()
    boxes.xyxy = boxes.xyxy * zoom
    captions = [names[label] for label in labels]
    if show_scores:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, detections.scores.tolist(), strict=True)]
    colors = labels if color_by == "class" else np.array(["rcf".index(groups[label]) for label in labels])
    palette = _CLASS_COLORS if color_by == "class" else sv.ColorPalette.from_hex([GROUP_COLORS[g] for g in "rcf"])
    picture = np.asarray(scene)[:, :, ::-1].copy()  # supervision draws in BGR, in place
    if detections.masks is not None:
        masks = [strips.from_run_lengths(mask) for mask in detections.masks]
        _paint_masks(picture, masks, [palette.by_idx(int(color)).as_bgr() for color in colors], zoom)
        _draw_outlines(picture, masks, palette, colors, zoom)
    picture = sv.BoxAnnotator(palette, thickness=1).annotate(picture, boxes, custom_color_lookup=colors)
    text = sv.LabelAnnotator(palette, text_scale=0.4, text_padding=3, smart_position=True)
    picture = text.annotate(picture, boxes, labels=captions, custom_color_lookup=colors)
    return Image.fromarray(picture[:, :, ::-1])


def _paint_masks(
    picture: UInt8[np.ndarray, "h w 3"], masks: Sequence[strips.Strips], colors: Sequence[tuple[int, ...]], zoom: int
) -> None:
    """Mixes the masks into a picture, in place; where masks overlap, the smallest one's color is taken."""
    painted = picture.copy()
    for index in np.flip(np.argsort([strips.count_pixels(mask) for mask in masks])).tolist():
        x1, y1, x2, y2 = box = strips.find_box(masks[index])
        bitmap = strips.to_bitmap(masks[index], box).repeat(zoom, axis=0).repeat(zoom, axis=1)
        painted[y1 * zoom : y2 * zoom, x1 * zoom : x2 * zoom][bitmap] = colors[index]
    for top in range(0, len(picture), _ROWS):
        rows = slice(top, top + _ROWS)
        picture[rows] = np.rint(_OPACITY * painted[rows] + (1 - _OPACITY) * picture[rows])


def _draw_outlines(
    picture: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[strips.Strips],
    palette: sv.ColorPalette,
    colors: Int64[np.ndarray, " D"],
    zoom: int,
) -> None:
    """Draws the outlines of the masks into a picture, in place."""
    annotator = sv.PolygonAnnotator(palette, thickness=2)
    height, width = picture.shape[0] // zoom, picture.shape[1] // zoom
    for index, mask in enumerate(masks):
        x1, y1, x2, y2 = strips.find_box(mask)
        if x1 == x2:
            continue
        # the outline reaches over the mask by half its thickness
        x1, y1, x2, y2 = box = (max(x1 - 2, 0), max(y1 - 2, 0), min(x2 + 2, width), min(y2 + 2, height))
        bitmap = strips.to_bitmap(mask, box).repeat(zoom, axis=0).repeat(zoom, axis=1)
        part = picture[y1 * zoom : y2 * zoom, x1 * zoom : x2 * zoom]
        one = sv.Detections(np.array([[0, 0, x2 - x1, y2 - y1]], float) * zoom, mask=bitmap[None])
        part[:] = annotator.annotate(part.copy(), one, custom_color_lookup=colors[index : index + 1])


def to_jpeg(picture: Image.Image, *, quality: int) -> bytes:
    """Encodes the picture as a JPEG file that is marked as drawn by tailseg.

    Raises:
        ImageError: a side is longer than JPEG allows.
    """
    if max(picture.size) > LONGEST_SIDE:
        raise ImageError(
            f"a picture of {picture.width} x {picture.height} pixels cannot be written: the longest side of a JPEG "
            f"file is {LONGEST_SIDE:,} pixels. Cut the image into tiles, or scale it down"
        )
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=quality, exif=make_signature(picture, DETECTIONS))
    return file.getvalue()


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int, cell: tuple[int, int] = (480, 480)
) -> Image.Image:
    """Puts pictures into one picture, row by row, each with its caption above it.

    Args:
        pictures: at least one picture.
        captions: a caption for each picture.
        columns: cells in a row.
        cell: width and height of a cell; each picture is scaled to fit.

    Returns:
        The sheet.

    Raises:
        ValueError: no picture, not one caption for each picture, or no column.
    """
    if not pictures or len(pictures) != len(captions) or columns < 1:
        raise ValueError(
            f"a contact sheet needs at least one picture, one caption for each picture, and at least one column, "
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
