"""Pictures of detections."""

import numpy as np
import pytest
import torch
from PIL import Image

from tailseg.drawing import GROUP_COLORS, above, contact_sheet, draw
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
    drawn = np.asarray(draw(Image.fromarray(pixels), found, NAMES, GROUPS, show_scores=False))

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
    text = sv.LabelAnnotator(palette, text_scale=0.4, text_padding=3, smart_position=True)
    captions = [NAMES[label] for label in labels]
    expected = text.annotate(expected, together, labels=captions, custom_color_lookup=colors)[:, :, ::-1]
    difference = np.abs(drawn.astype(int) - expected)
    assert difference.max() <= 1, "rounding of the mixed colors"
    assert (difference > 0).mean() < 0.02


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
