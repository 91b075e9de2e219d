"""Pictures of detections."""

import numpy as np
import pytest
import torch
from PIL import Image

from tailseg.drawing import (
    GROUP_COLORS,
    above,
    choose_ink,
    compute_line_scale,
    contact_sheet,
    draw,
    load_font,
    place_labels,
    shorten,
)
from tailseg.ops.masks import encode_mask
from tailseg.structures import Detections, RunLengths

NAMES, GROUPS = ("cat", "dog"), ("f", "r")


def detections(*, masks: bool = True) -> Detections:
    """A dog at (100, 100) .. (300, 300) with a mask on its left half, a cat elsewhere with a low score."""
    bitmap = np.zeros((480, 480), dtype=bool)
    bitmap[100:300, 100:200] = True
    runs: tuple[RunLengths, ...] = (encode_mask(bitmap), encode_mask(np.zeros_like(bitmap)))
    return Detections(
        boxes=torch.tensor([[100.0, 100.0, 300.0, 300.0], [350.0, 350.0, 400.0, 400.0]]),
        scores=torch.tensor([0.9, 0.1]),
        labels=torch.tensor([1, 0]),
        masks=runs if masks else None,
        height=480,
        width=480,
    )


def test_above_keeps_boxes_labels_and_masks_together() -> None:
    kept = detections().above(0.5)
    assert len(kept) == 1
    assert kept.labels.tolist() == [1]
    assert kept.masks == detections().masks[:1]  # ty: ignore[not-subscriptable]
    assert detections(masks=False).above(0.5).masks is None
    assert len(detections().above(0.95)) == 0


def test_color_stands_for_the_group() -> None:
    white = Image.new("RGB", (480, 480), "white")
    drawn = np.asarray(draw(white, detections().above(0.5), NAMES, GROUPS, color_by="group")).astype(int)
    red = np.array([int(GROUP_COLORS["r"][i : i + 2], 16) for i in (1, 3, 5)])
    inside_mask, beside_mask, outside = drawn[200, 150], drawn[200, 250], drawn[50, 450]
    assert np.abs(inside_mask - (0.45 * red + 0.55 * 255)).max() <= 1  # mixed with the group's color
    assert beside_mask.tolist() == [255, 255, 255]
    assert outside.tolist() == [255, 255, 255]
    assert np.abs(drawn[200, 300] - red).max() <= 1  # the box's right side


@pytest.mark.parametrize("size", [(200, 150), (640, 500)])
def test_masks_drawn_one_by_one_are_those_drawn_together(size: tuple[int, int]) -> None:
    """supervision takes the bitmaps of all masks at a time, in the size of the picture."""
    import supervision as sv

    draws = np.random.default_rng(0)
    width, height = size
    pixels = draws.integers(0, 256, (height, width, 3), dtype=np.uint8)
    bitmaps = np.zeros((6, height, width), bool)
    for bitmap in bitmaps[:5]:  # one stays empty; the areas differ, since equal ones have no order
        (x, y), (w, h) = draws.integers(-10, (width, height)), draws.integers(3, 100, 2)
        bitmap[max(y, 0) : y + h, max(x, 0) : x + w] = True
        bitmap[::7, ::5] = False
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    boxes = torch.tensor([[5.0 * i, 4.0 * i, 5.0 * i + 30, 4.0 * i + 20] for i in range(6)])
    runs = tuple(map(encode_mask, bitmaps))
    found = Detections(boxes, torch.ones(6), labels, runs, height, width)
    drawn = np.asarray(draw(Image.fromarray(pixels), found, NAMES, GROUPS, show_labels=False))

    zoom = max(1, -(-480 // max(size)))
    scene = np.asarray(Image.fromarray(pixels).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC))
    expected = scene[:, :, ::-1].copy()
    together = found.to_supervision()
    together.xyxy, colors = together.xyxy * zoom, labels.numpy()
    together.mask = bitmaps.repeat(zoom, axis=1).repeat(zoom, axis=2)
    palette = sv.ColorPalette.DEFAULT
    for annotator in (sv.MaskAnnotator(palette, opacity=0.45), sv.PolygonAnnotator(palette, thickness=2)):
        expected = annotator.annotate(expected, together, custom_color_lookup=colors)
    expected = sv.BoxAnnotator(palette, thickness=1).annotate(expected, together, custom_color_lookup=colors)
    expected = expected[:, :, ::-1]
    difference = np.abs(drawn.astype(int) - expected)
    assert difference.max() <= 1, "rounding of the mixed colors"
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("frame", [(512, 512), (640, 480), (4000, 3000), (6000, 200), (480, 16)])
def test_labels_stay_inside_the_picture_and_apart(frame: tuple[int, int]) -> None:
    """Sixty small objects in a corner, and large ones."""
    draws = np.random.default_rng(0)
    scale = compute_line_scale(*frame)
    corners = draws.uniform(0, 0.15, (60, 2)) * frame
    boxes = np.concatenate([corners, corners + draws.uniform(2, 20 * scale, (60, 2))], axis=1)
    boxes = np.concatenate([boxes, [[0, 0, *frame], [0, 0, frame[0] / 2, frame[1] - 1]]])
    size = (round(70 * scale), round(18 * scale))
    places = place_labels(boxes, [size] * len(boxes), range(len(boxes)), frame)
    rectangles = [place for place in places if place is not None]
    assert places[0] is not None
    assert len(rectangles) >= min(15, frame[1] // 18)
    for number, (x1, y1, x2, y2) in enumerate(rectangles):
        assert (x2 - x1, y2 - y1) == size
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= frame[0]
        assert y2 <= max(frame[1], size[1]), "only a picture lower than a label has labels that are cut off"
        for a1, b1, a2, b2 in rectangles[:number]:
            assert x2 <= a1 or a2 <= x1 or y2 <= b1 or b2 <= y1


def test_lines_and_labels_grow_with_the_picture() -> None:
    assert [compute_line_scale(*size) for size in ((512, 512), (640, 480), (20, 4))] == [1, 1, 1]
    assert compute_line_scale(4000, 3000) == pytest.approx(12e6**0.5 / 600)
    assert 1 < compute_line_scale(6000, 200) <= 200 / 5 / 18
    one = detections(masks=False).above(0.5)
    white = Image.new("RGB", (2400, 2400), "white")
    drawn = np.asarray(draw(white, one, NAMES, GROUPS, color_by="group", show_labels=False))
    assert (drawn[200, 250:350] != 255).any(axis=1).sum() in (4, 5), "OpenCV draws lines of 4 pixels with 5"
    with_label = np.asarray(draw(white, one, NAMES, GROUPS, color_by="group"))
    rows = np.flatnonzero((with_label != drawn).any(axis=(1, 2)))
    assert 60 <= rows[-1] - rows[0] + 1 <= 76, "a label is 72 pixels high"


def test_text_on_a_color_and_texts_that_are_too_long() -> None:
    assert [choose_ink(color) for color in ((245, 159, 0), (28, 110, 196), (255, 255, 255))] == [
        "black",
        "white",
        "black",
    ]
    font = load_font(13)
    assert shorten("käfer", font, 100) == "käfer"
    short = shorten("a very long name of a class", font, 100)
    assert short.endswith("…")
    assert font.getlength(short) <= 100
    assert font.getmask("ä").getbbox() != font.getmask("\uffff").getbbox(), "a letter outside ASCII has a glyph"


def test_drawing_leaves_the_picture_as_it_was() -> None:
    gray = Image.new("L", (480, 480), 128)
    draw(gray, detections(), NAMES, GROUPS)
    assert gray.getextrema() == (128, 128)


def test_nothing_found_is_just_the_picture() -> None:
    picture = Image.new("RGB", (640, 480), "green")
    assert draw(picture, detections().above(0.95), NAMES, GROUPS).tobytes() == picture.tobytes()


@pytest.mark.parametrize(("size", "drawn"), [((160, 120), (480, 360)), ((700, 500), (700, 500)), ((1, 1), (480, 480))])
def test_small_pictures_are_enlarged(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert draw(Image.new("RGB", size), detections().above(2.0), NAMES, GROUPS).size == drawn


def test_a_contact_sheet_holds_all_pictures_row_by_row() -> None:
    pictures = [Image.new("RGB", (20, 10), color) for color in ("red", "green", "blue")]
    sheet = np.asarray(contact_sheet(pictures, ["a", "b", "c"], columns=2, cell=(40, 40)))
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 255)} <= colors
    rows = [np.argwhere((sheet == color).all(axis=2))[:, 0].min() for color in ((255, 0, 0), (0, 128, 0), (0, 0, 255))]
    assert rows[0] == rows[1] < rows[2]


def test_a_contact_sheet_needs_pictures() -> None:
    with pytest.raises(ValueError, match="got 0 pictures"):
        contact_sheet([], [], columns=2)


def test_the_old_name_of_a_filter_warns() -> None:
    with pytest.warns(FutureWarning, match=r"drawing\.above\(detections, threshold\) is now detections\.above"):
        assert above(detections(), 0.5).labels.tolist() == [1]
