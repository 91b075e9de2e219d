"""Draws detections and ground truth with supervision: masks, boxes, class names and scores."""

import importlib.util
import io
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import ceil, sqrt
from pathlib import Path
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
OPACITY: Final = 0.45
"""Share of a mask's color in a pixel of the mask."""
_ROWS: Final = 256
"""Rows that are mixed at a time; floats take eight times the memory."""
_STANDARD_SIDE: Final = 600
"""The side of a square picture in which an outline is 2 pixels wide; lines and labels of larger pictures grow with it.
"""
_LABELS_PER_SIDE: Final = 5
"""A label takes at most this part of the shorter side of a picture."""
_FONT: Final = 13
_LABEL_HEIGHT: Final = 18
_LABEL_ROWS: Final = 6
"""A label is at most this many labels away from its object; otherwise it is left out."""
_GAP = 6
_CAPTION = 24
_CAPTION_FONT = 16

Rectangle = tuple[int, int, int, int]
"""``x1, y1, x2, y2`` in pixels; the last column and row are outside."""


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
    show_labels: bool = True,
    opacity: float = OPACITY,
    minimum_side: int = 480,
) -> Image.Image:
    """Draws detections on a copy of the image, larger objects below smaller ones.

    Lines and labels grow with the picture. Labels lie inside the picture and do not cover each other: a label without
    room next to its object has a line to it, and one without any room nearby is left out, the lowest scores first. The
    masks are decoded one after the other, each inside its box: the memory does not grow with their number.

    Args:
        image: the image; ``detections`` are in its pixels.
        detections: all of them are drawn, see `Detections.above`.
        names: the name of each class, by label.
        groups: the frequency group of each class, by label.
        color_by: what a color stands for.
        show_scores: print the score after the class's name; ground truth has no scores.
        show_labels: print names and scores.
        opacity: of the colors of the masks, in [0, 1].
        minimum_side: a smaller image is enlarged by a whole number, because its text could not be read.

    Returns:
        The picture.
    """
    zoom = max(1, ceil(minimum_side / max(image.size)))
    scene = image.convert("RGB").resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    if len(detections) == 0:
        return scene
    scale = compute_line_scale(*scene.size)
    boxes = replace(detections, masks=None).to_supervision()
    labels = detections.labels.cpu().numpy()
    boxes.xyxy = boxes.xyxy * zoom
    colors = labels if color_by == "class" else np.array(["rcf".index(groups[label]) for label in labels])
    palette = _CLASS_COLORS if color_by == "class" else sv.ColorPalette.from_hex([GROUP_COLORS[g] for g in "rcf"])
    picture = np.asarray(scene)[:, :, ::-1].copy()  # supervision draws in BGR, in place
    if detections.masks is not None:
        masks = [strips.from_run_lengths(mask) for mask in detections.masks]
        _paint_masks(picture, masks, [palette.by_idx(int(color)).as_bgr() for color in colors], zoom, opacity)
        _draw_outlines(picture, masks, palette, colors, zoom, round(2 * scale))
    picture = sv.BoxAnnotator(palette, thickness=round(scale)).annotate(picture, boxes, custom_color_lookup=colors)
    drawn = Image.fromarray(picture[:, :, ::-1])
    if not show_labels:
        return drawn
    captions = [" ".join(names[label].split()) for label in labels]
    if show_scores:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, detections.scores.tolist(), strict=True)]
    ranks = [
        (-score, "rcf".index(groups[label])) for score, label in zip(detections.scores.tolist(), labels, strict=True)
    ]
    fills = [palette.by_idx(int(color)).as_rgb() for color in colors]
    _draw_labels(drawn, boxes.xyxy, captions, fills, ranks, scale)
    return drawn


def compute_line_scale(width: int, height: int) -> float:
    """Computes how much wider lines and larger labels are than in a picture of 600 x 600 pixels; 1 or more.

    The scale grows with the square root of the picture's area, but a label is at most a fifth of the shorter side high.
    """
    largest = min(width, height) / (_LABELS_PER_SIDE * _LABEL_HEIGHT)
    return max(1.0, min(sqrt(width * height) / _STANDARD_SIDE, largest))


def _draw_labels(
    picture: Image.Image,
    boxes: np.ndarray,
    captions: Sequence[str],
    fills: Sequence[tuple[int, ...]],
    ranks: Sequence[tuple[float, int]],
    scale: float,
) -> None:
    """Writes the captions next to their boxes, in place; those of the first rank, and of small objects, first."""
    pen, font, padding = ImageDraw.Draw(picture), load_font(round(_FONT * scale)), round(4 * scale)
    captions = [shorten(caption, font, picture.width - 2 * padding) for caption in captions]
    sizes = [(ceil(font.getlength(caption)) + 2 * padding, round(_LABEL_HEIGHT * scale)) for caption in captions]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = sorted(range(len(boxes)), key=lambda i: (*ranks[i], areas[i]))
    places = place_labels(boxes, sizes, order, picture.size)
    for index, place in enumerate(places):
        if place is None:
            continue
        ends = _connect(place, boxes[index].tolist())
        if ends is not None:
            pen.line(ends, fill=fills[index], width=max(1, round(scale)))
    for caption, fill, place in zip(captions, fills, places, strict=True):
        if place is None:
            continue
        x1, y1, x2, y2 = place
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=fill)
        pen.text((x1 + padding, (y1 + y2) / 2), caption, fill=choose_ink(fill), font=font, anchor="lm")


def place_labels(
    boxes: np.ndarray, sizes: Sequence[tuple[int, int]], order: Sequence[int], frame: tuple[int, int]
) -> list[Rectangle | None]:
    """Finds a place for each label: inside the picture, near its box, and not on another label.

    Of the free places near a box, the one is taken that is the nearest and covers the least of other boxes.

    Args:
        boxes: ``[n, 4]`` xyxy, the objects.
        sizes: width and height of each label.
        order: the numbers of the labels in the order in which they choose.
        frame: width and height of the picture.

    Returns:
        The places of the n labels; None for a label without a free place.
    """
    places: list[Rectangle | None] = [None] * len(boxes)
    taken = np.zeros((len(boxes), 4))
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1.0)
    for count, index in enumerate(order):
        candidates, distances = _list_places(boxes[index], sizes[index], frame)
        around = np.concatenate([candidates[:, :2].min(axis=0), candidates[:, 2:].max(axis=0)])[None]
        near = _intersect(around, taken[:count])[0] > 0  # all of them would take minutes for 10,000 objects
        free = (_intersect(candidates, taken[:count][near]) == 0).all(axis=1)
        if not free.any():
            continue
        near = _intersect(around, boxes)[0] > 0
        covered = (_intersect(candidates, boxes[near]) / areas[near]).sum(axis=1)
        best = int(np.where(free, distances + 2 * covered, np.inf).argmin())
        x1, y1, x2, y2 = (int(side) for side in candidates[best])
        places[index] = x1, y1, x2, y2
        taken[count] = candidates[best] + [-1, -1, 1, 1]  # a gap between labels
    return places


def _list_places(box: np.ndarray, size: tuple[int, int], frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Lists places ``[k, 4]`` around and in a box, inside the picture, and the distance of each in label heights."""
    (x1, y1, x2, y2), (width, height) = box.tolist(), size
    middle = (x1 + x2 - width) / 2
    corners: list[tuple[float, float, float]] = []
    for row in range(_LABEL_ROWS):
        for x in (x1, x2 - width, middle):
            corners += [(x, y1 - (row + 1) * height, row), (x, y2 + row * height, row + 0.2)]
        for y in (y1, y2 - height):  # with a gap for the line to the box
            corners += [(x2 + row * height, y, row + 0.3), (x1 - width - row * height, y, row + 0.4)]
    corners += [(x1, y1, 0.1), (x1, y2 - height, 0.3)]
    places = np.array(corners)
    limits = np.maximum(np.array(frame) - size, 0)
    left_top = np.rint(places[:, :2]).clip(0, limits)
    moved = np.abs(left_top - places[:, :2]).sum(axis=1) / height
    return np.concatenate([left_top, left_top + size], axis=1), places[:, 2] + moved


def _intersect(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The areas ``[n, m]`` that xyxy rectangles share."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(0).prod(axis=2)


def _connect(place: Rectangle, box: Sequence[float]) -> tuple[float, float, float, float] | None:
    """The line from a label to its box; None if they touch."""
    ends = []
    for axis in (0, 1):
        low, high = max(place[axis], box[axis]), min(place[axis + 2], box[axis + 2])
        if low <= high:
            ends.append(((low + high) / 2,) * 2)
        else:
            ends.append((place[axis + 2], box[axis]) if place[axis + 2] < box[axis] else (place[axis], box[axis + 2]))
    (x1, x2), (y1, y2) = ends
    return None if abs(x1 - x2) + abs(y1 - y2) < 2 else (x1, y1, x2, y2)


def choose_ink(fill: tuple[int, ...]) -> str:
    """Black or white, whichever has the larger contrast to an RGB color (WCAG's relative luminance)."""
    red, green, blue = ((value / 255) ** 2.2 for value in fill)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cuts a text that is too wide, and ends it with an ellipsis.

    Args:
        text: one line.
        font: of `load_font`.
        width: the largest width in pixels.

    Returns:
        The text that fits.
    """
    if font.getlength(text) <= width:
        return text
    length = len(text)
    while length > 1 and font.getlength(f"{text[:length]}…") > width:
        length -= 1
    return f"{text[:length]}…"


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Loads a font of some pixels. Pillow's own font has no letters outside ASCII, as names of classes have."""
    package = importlib.util.find_spec("matplotlib")  # required by supervision; only its file is used
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _paint_masks(
    picture: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[strips.Strips],
    colors: Sequence[tuple[int, ...]],
    zoom: int,
    opacity: float,
) -> None:
    """Mixes the masks into a picture, in place; where masks overlap, the smallest one's color is taken."""
    painted = picture.copy()
    for index in np.flip(np.argsort([strips.count_pixels(mask) for mask in masks])).tolist():
        x1, y1, x2, y2 = box = strips.find_box(masks[index])
        bitmap = strips.to_bitmap(masks[index], box).repeat(zoom, axis=0).repeat(zoom, axis=1)
        painted[y1 * zoom : y2 * zoom, x1 * zoom : x2 * zoom][bitmap] = colors[index]
    for top in range(0, len(picture), _ROWS):
        rows = slice(top, top + _ROWS)
        picture[rows] = np.rint(opacity * painted[rows] + (1 - opacity) * picture[rows])


def _draw_outlines(
    picture: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[strips.Strips],
    palette: sv.ColorPalette,
    colors: Int64[np.ndarray, " D"],
    zoom: int,
    thickness: int,
) -> None:
    """Draws the outlines of the masks into a picture, in place."""
    annotator = sv.PolygonAnnotator(palette, thickness=thickness)
    margin = ceil(thickness / 2 / zoom) + 1  # the outline reaches over the mask by half its thickness
    height, width = picture.shape[0] // zoom, picture.shape[1] // zoom
    for index, mask in enumerate(masks):
        x1, y1, x2, y2 = strips.find_box(mask)
        if x1 == x2:
            continue
        x1, y1 = max(x1 - margin, 0), max(y1 - margin, 0)
        x2, y2 = min(x2 + margin, width), min(y2 + margin, height)
        box = (x1, y1, x2, y2)
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
    pen, font = ImageDraw.Draw(sheet), load_font(_CAPTION_FONT)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x = _GAP + (index % columns) * (width + _GAP)
        y = _GAP + (index // columns) * (height + _CAPTION + _GAP)
        scale = min(width / picture.width, height / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        pen.text((x, y + _CAPTION / 2), shorten(caption, font, width), fill="black", font=font, anchor="lm")
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (x, y + _CAPTION))
    return sheet
