import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from tailseg.ops import masks
from tailseg.ops.masks import (
    MAX_COORDINATE,
    _compressed,
    _encode,
    decode_mask,
    encode_mask,
    find_extents,
    mask_area,
    mask_box,
    mask_targets,
    paste_bitmaps,
    paste_masks,
    polygons_to_rle,
    rasterize,
    segmentation_to_rle,
)
from tailseg.structures import Frame

SQUARE = np.array([[2.0, 3.0], [10.0, 3.0], [10.0, 7.0], [2.0, 7.0]])
bitmaps = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(bitmaps)
@settings(deadline=None)
def test_run_lengths_round_trip(bitmap):
    rle = encode_mask(bitmap)
    assert rle["size"] == list(bitmap.shape)
    assert isinstance(rle["counts"], str)
    again = json.loads(json.dumps(rle))
    assert np.array_equal(decode_mask(again), bitmap)
    assert mask_area(again) == bitmap.sum()


def test_box_of_a_mask():
    bitmap = np.zeros((9, 12), dtype=bool)
    assert mask_box(encode_mask(bitmap)) == (0, 0, 0, 0)
    bitmap[2:5, 3:10] = True
    assert mask_box(encode_mask(bitmap)) == (3, 2, 10, 5)


def test_run_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="run lengths must have the 4 x 5 pixels"):
        decode_mask({"size": [4, 5], "counts": "zzz"})


@given(bitmaps, st.data())
@settings(max_examples=200, deadline=None)
def test_a_crop_has_the_run_lengths_of_the_whole_image(pixels, data):
    """Byte for byte pycocotools', wherever the crop touches the image's borders."""
    margins = st.integers(0, 2)
    top, left = data.draw(margins), data.draw(margins)
    height = top + pixels.shape[0] + data.draw(margins)
    width = left + pixels.shape[1] + data.draw(margins)
    image = np.zeros((height, width), dtype=bool)
    image[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    laid_out = np.pad(pixels.T, [(0, 0), (0, 1)]).ravel()  # down the columns, an empty pixel below each
    region = [left, top, left + pixels.shape[1], top + pixels.shape[0]]
    twice = _encode(np.tile(laid_out, 2), np.array([region, region]), height, width)  # two masks, end to end
    assert twice == [encode_mask(image)] * 2


@given(st.lists(st.lists(st.integers(0, 2**33), min_size=1, max_size=9), min_size=1, max_size=4))
def test_text_of_run_lengths_is_pycocotools(runs):
    counts = np.array([count for mask in runs for count in mask])
    starts = np.cumsum([0, *(len(mask) for mask in runs[:-1])])
    for mask, text in zip(runs, _compressed(counts, starts), strict=True):
        assert np.array_equal(read_text(text), mask)


def read_text(text):
    """The reverse of `rleToString`, number by number, as COCO defines it."""
    counts, characters = [], iter(text.encode())
    for character in characters:
        value, shift = 0, 0
        while True:
            value |= ((character - 48) & 31) << shift
            shift += 5
            if not (character - 48) & 32:
                break
            character = next(characters)
        if (character - 48) & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def test_masks_are_pasted_alike_alone_and_in_company(monkeypatch):
    probabilities, boxes = smooth_probabilities(6), torch.tensor([[1.0, 2, 30, 20]]) + torch.arange(6)[:, None]
    together = paste_masks(probabilities, boxes, 37, 45)
    monkeypatch.setattr(masks, "PIXELS_AT_A_TIME", 900)
    assert paste_masks(probabilities, boxes, 37, 45) == together
    assert [paste_masks(p[None], b[None], 37, 45)[0] for p, b in zip(probabilities, boxes, strict=True)] == together


def test_polygons_become_their_union():
    rle = polygons_to_rle((SQUARE, SQUARE + [4, 2]), 20, 30)
    expected = np.zeros((20, 30), dtype=bool)
    expected[3:7, 2:10] = True
    expected[5:9, 6:14] = True
    assert np.array_equal(decode_mask(rle), expected)
    assert isinstance(rle["counts"], str)


def test_a_polygon_beyond_the_image_is_cut():
    assert mask_area(polygons_to_rle((SQUARE - [6, 0],), 20, 30)) == 4 * 4
    assert mask_area(polygons_to_rle((SQUARE + [100, 0],), 20, 30)) == 0
    assert mask_area(polygons_to_rle((SQUARE * MAX_COORDINATE / 10,), 20, 30)) == 0


BAD_POLYGONS = [
    ((), "at least one polygon"),
    ((SQUARE[:2],), "at least three points, got one of 2"),
    ((SQUARE, SQUARE[:0]), "at least three points, got one of 0"),
    ((np.where(SQUARE == 3, np.nan, SQUARE),), "must be finite .* got nan"),
    ((SQUARE, np.where(SQUARE == 3, -np.inf, SQUARE)), "must be finite .* got -inf"),
    ((np.where(SQUARE == 3, 1e300, SQUARE),), r"at most 100000 pixels, got 1e\+300"),
]


@pytest.mark.parametrize(("polygons", "message"), BAD_POLYGONS)
def test_bad_polygons_are_refused_before_pycocotools_crashes(polygons, message):
    with pytest.raises(ValueError, match=message):
        polygons_to_rle(polygons, 20, 30)
    with pytest.raises(ValueError, match=message):
        mask_targets([polygons], Frame(), torch.tensor([[0.0, 0.0, 20.0, 20.0]]))


def test_any_segmentation_becomes_run_lengths():
    rle = polygons_to_rle((SQUARE,), 20, 30)
    assert segmentation_to_rle((SQUARE,), 20, 30) == rle
    assert segmentation_to_rle(rle, 20, 30) == rle
    assert segmentation_to_rle({"size": [20, 30], "counts": rle["counts"].encode()}, 20, 30) == rle
    with pytest.raises(ValueError, match=r"expected \[height, width\] = \[30, 20\], got \[20, 30\]"):
        segmentation_to_rle(rle, 30, 20)


def test_target_of_a_polygon_by_hand():
    # the box's left half is covered: the left 14 columns
    box = torch.tensor([[2.0, 3.0, 18.0, 7.0]])
    target = mask_targets([(SQUARE,)], Frame(), box)
    expected = torch.zeros(1, 28, 28)
    expected[:, :, :14] = 1
    assert torch.equal(target, expected)


FRAMES = {
    "as annotated": Frame(),
    "doubled": Frame(scale_x=2.0, scale_y=2.0),
    "mirrored": Frame(scale_x=-1.0, shift_x=40.0),
    "resized, cropped, mirrored": Frame(scale_x=-1.5, scale_y=0.5, shift_x=61.0, shift_y=-1.0),
    "upside down": Frame(scale_y=-1.0, shift_y=30.0),
}


def move(boxes, frame):
    scale = torch.tensor([frame.scale_x, frame.scale_y] * 2)
    moved = boxes * scale + torch.tensor([frame.shift_x, frame.shift_y] * 2)
    low, high = torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])
    return torch.cat([low, high], dim=1)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
@pytest.mark.parametrize("kind", ["polygons", "run lengths"])
def test_targets_follow_the_frame(frame, kind):
    """An L: 12 x 12 pixels without its upper right quarter, seen through the frame; mirrored when the frame mirrors."""
    corner = np.array([[4.0, 6.0], [10.0, 6.0], [10.0, 12.0], [16.0, 12.0], [16.0, 18.0], [4.0, 18.0]])
    mask = (corner,) if kind == "polygons" else polygons_to_rle((corner,), 30, 40)
    target = mask_targets([mask], frame, move(torch.tensor([[4.0, 6.0, 16.0, 18.0]]), frame))[0]
    expected = torch.ones(28, 28)
    expected[:14, 14:] = 0
    if frame.scale_x < 0:
        expected = expected.flip(1)
    if frame.scale_y < 0:
        expected = expected.flip(0)
    # A mirrored edge falls on pixel centers, which the rasterizer rounds up: a row or a column of 14 may differ.
    assert (target != expected).sum() <= (2 * 28 if kind == "polygons" and min(frame.scale_x, frame.scale_y) < 0 else 0)


def test_targets_keep_the_order_of_mixed_masks():
    left = (SQUARE,)
    right = (SQUARE + [8, 0],)
    box = torch.tensor([2.0, 3.0, 18.0, 7.0])
    half = torch.zeros(28, 28)
    half[:, :14] = 1
    both = (*left, *right)
    masks = [left, polygons_to_rle(right, 20, 30), both, polygons_to_rle(left, 20, 30), right, left]
    targets = mask_targets(masks, Frame(), box.expand(6, 4))
    expected = torch.stack([half, half.flip(1), torch.ones(28, 28), half, half.flip(1), half])
    # RoIAlign takes the four corners off a rectangle: 0.57 of a row times 0.79 of a column is below half
    assert (targets != expected).flatten(1).sum(1).tolist() == [0, 4, 0, 4, 0, 0]


def test_targets_of_nothing_and_of_odd_boxes():
    assert mask_targets([], Frame(), torch.zeros(0, 4)).shape == (0, 28, 28)
    assert mask_targets([(SQUARE,)], Frame(), torch.tensor([[5.0, 5.0, 9.0, 6.0]]), size=14).shape == (1, 14, 14)
    rle = polygons_to_rle((SQUARE,), 20, 30)
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0], [-50.0, -50.0, -40.0, -40.0], [4.0, 4.0, 8.0, 6.0]])
    for mask in ((SQUARE,), rle):  # without area; outside; wholly covered
        targets = mask_targets([mask] * 3, Frame(), boxes)
        assert not targets[1].any()
        assert targets[2].all()
    with pytest.raises(ValueError, match="one mask a box, got 2 masks and 3 boxes"):
        mask_targets([rle] * 2, Frame(), boxes)


def test_a_target_of_a_tiny_box_in_a_huge_polygon_is_quick():
    # pycocotools' memory grows with the edge: the limit on coordinates bounds it even after the scale of 28
    far = float(MAX_COORDINATE)
    big = np.array([[-far, -far], [far, -far], [far, far], [-far, far]])
    assert mask_targets([(big,)], Frame(), torch.tensor([[5.0, 5.0, 5.5, 5.5]])).all()


def test_a_zigzag_does_not_fill_the_memory():
    """Edges of 100 kB of JSON would take pycocotools 24 GB in the image, and as much around a tiny box."""
    zigzag = np.tile([[-2600.0, -2600], [2600, 2600]], (2000, 1))
    assert mask_targets([(zigzag,)], Frame(), torch.tensor([[0.0, 0.0, 2600.0, 2600.0]])).shape == (1, 28, 28)
    with pytest.raises(
        ValueError, match=r"edges must be at most 30000000 pixels long together, got 582254400: correct"
    ):
        mask_targets([(zigzag,)], Frame(), torch.tensor([[5.0, 5.0, 6.0, 6.0]]))
    with pytest.raises(ValueError, match="edges must be at most 30000000 pixels long together"):
        polygons_to_rle((zigzag * 30,), 60_000, 2000)


def smooth_probabilities(count, side=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, side + 8, side + 8, generator=generator)
    return (8 * torch.nn.functional.avg_pool2d(noise, 9, stride=1)[:, 0] + 0.5).sigmoid()


def test_pasting_a_full_mask_fills_its_box():
    boxes = torch.tensor([[3.0, 2.0, 13.0, 9.0], [0.0, 0.0, 20.0, 15.0]])
    pasted = paste_bitmaps(torch.ones(2, 28, 28), boxes, 15, 20)
    assert pasted[1].all()
    expected = torch.zeros(15, 20, dtype=torch.bool)
    expected[2:9, 3:13] = True
    assert torch.equal(pasted[0], expected)
    assert (
        paste_masks(torch.ones(2, 28, 28), boxes, 15, 20)[1]["counts"] == encode_mask(np.ones((15, 20), bool))["counts"]
    )


def test_a_probability_at_the_threshold_belongs_to_the_mask():
    # two cells, 1 and 0, over 4 pixels: 0.75 (a quarter of a cell outside), 0.75, 0.25, 0
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    for threshold, columns in [(0.25, 3), (0.26, 2), (0.75, 2), (0.76, 0)]:
        assert paste_bitmaps(mask, box, 4, 4, threshold=threshold)[0, 1].sum() == columns


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 9), (9, 9, 5, 5), (-30, -30, -20, -20), (100, 2, 120, 9), (7, 7, 7, 7)],
    ids=["no width", "inside out", "beyond the upper left", "beyond the right", "a point"],
)
def test_a_box_without_area_in_the_image_has_an_empty_mask(box):
    rle = paste_masks(torch.ones(1, 28, 28), torch.tensor([box], dtype=torch.float32), 15, 20)[0]
    assert rle == encode_mask(np.zeros((15, 20), dtype=bool))


@pytest.mark.parametrize("threshold", [0.0, -0.5, float("nan")])
@pytest.mark.parametrize("paste", [paste_masks, paste_bitmaps])
@pytest.mark.parametrize("count", [0, 1])
def test_a_threshold_that_every_pixel_reaches_is_refused(paste, threshold, count):
    """At 0 run lengths and bitmaps would not agree: the empty pixel below every column would be of the mask."""
    probabilities, boxes = torch.full((count, 28, 28), 0.7), torch.tensor([[2.0, 2, 8, 8]])[:count]
    with pytest.raises(ValueError, match=f"must be above 0, got {threshold}"):
        paste(probabilities, boxes, 10, 12, threshold=threshold)


def test_pasting_nothing():
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 15, 20) == []
    assert paste_bitmaps(torch.zeros(0, 28, 28), torch.zeros(0, 4), 15, 20).shape == (0, 15, 20)


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_run_lengths_and_bitmaps_agree(seed):
    probabilities = smooth_probabilities(4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(4, 2, generator=generator) * 60 - 15
    boxes = torch.cat([corner, corner + torch.rand(4, 2, generator=generator) * 60], dim=1)
    pasted = paste_bitmaps(probabilities, boxes, 37, 45)
    rles = paste_masks(probabilities, boxes, 37, 45)
    assert rles == [encode_mask(bitmap.numpy()) for bitmap in pasted]
    assert coco.area(list(rles)).tolist() == pasted.flatten(1).sum(1).tolist()


def test_pasting_takes_half_precision_with_gradient():
    probabilities = torch.full((1, 28, 28), 0.75, requires_grad=True, dtype=torch.bfloat16)
    assert mask_area(paste_masks(probabilities, torch.tensor([[2.0, 2.0, 12.0, 12.0]]), 15, 20)[0]) == 100


# Tenths fall between the fifths of a pixel that pycocotools rounds to.
coordinates = st.integers(-90, 290).map(lambda tenths: tenths / 10) | st.floats(-9, 29)


@given(st.lists(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_a_part_of_a_polygon_mask_has_the_pixels_of_the_whole_image(polygons):
    """Whatever the fractions of the corners are, and also where they lie outside the image."""
    height, width = 20, 17
    mask = tuple(np.array(polygon) for polygon in polygons)
    whole = decode_mask(polygons_to_rle(mask, height, width))
    extent = find_extents([mask], [Frame()])[0]
    points = np.concatenate(mask)
    if (points.max(axis=0) > points.min(axis=0)).all():
        assert extent.tolist() == [*points.min(axis=0), *points.max(axis=0)]
    outwards = [*(np.floor(points.min(axis=0)) - 1), *(np.ceil(points.max(axis=0)) + 1)]
    left, top, right, bottom = np.clip(outwards, 0, [width, height, width, height]).astype(int).tolist()
    if left < right and top < bottom:
        part = decode_mask(rasterize(mask, Frame(), (left, top, right, bottom)))
        assert np.array_equal(part, whole[top:bottom, left:right])
        assert part.sum() == whole.sum()


def test_extents_follow_their_frames():
    bitmap = np.zeros((9, 12), dtype=bool)
    bitmap[2:5, 3:10] = True
    ring = encode_mask(bitmap)
    two = (SQUARE, SQUARE + 20)
    flipped = Frame(-2, 3, 50, -1)
    extents = find_extents([two, ring, (), ring], [Frame(), Frame(), Frame(), flipped])
    assert extents.tolist() == [[2, 3, 30, 27], [3, 2, 10, 5], [0, 0, 0, 0], [30, 5, 44, 14]]
    assert find_extents([], []).shape == (0, 4)


def test_run_lengths_take_the_pixel_at_the_center():
    bitmap = np.zeros((4, 6), dtype=bool)
    bitmap[1, 2:5] = True
    twice = decode_mask(rasterize(encode_mask(bitmap), Frame(2, 2), (0, 0, 12, 8)))
    assert np.array_equal(twice, bitmap.repeat(2, axis=0).repeat(2, axis=1))
    mirrored = decode_mask(rasterize(encode_mask(bitmap), Frame(-1, 1, 6, 0), (0, 0, 8, 4)))
    assert np.array_equal(mirrored[:, :6], bitmap[:, ::-1])
    assert not mirrored[:, 6:].any()
