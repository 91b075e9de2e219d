"""Masks as strips of columns, against bitmaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from tailseg.ops import strips
from tailseg.ops.masks import decode_mask, encode_mask

BITMAPS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.lists(arrays(bool, shape), min_size=2, max_size=3)
)


def of(bitmap: np.ndarray) -> np.ndarray:
    return strips.from_run_lengths(encode_mask(bitmap))


@settings(max_examples=60, deadline=None)
@given(BITMAPS, st.data())
def test_strips_do_what_bitmaps_do(bitmaps: list[np.ndarray], data: st.DataObject) -> None:
    (height, width), masks = bitmaps[0].shape, [of(bitmap) for bitmap in bitmaps]
    first, second = bitmaps[:2]
    assert strips.to_run_lengths(masks[0], height, width) == encode_mask(first)
    assert strips.count_pixels(masks[0]) == first.sum()
    assert strips.count_shared(masks[0], masks[1]) == (first & second).sum()
    union = np.logical_or.reduce(bitmaps)
    assert strips.to_run_lengths(strips.unite(masks), height, width) == encode_mask(union)
    assert strips.to_run_lengths(strips.mirror(masks[0], width), height, width) == encode_mask(first[:, ::-1])
    x1, x2 = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    y1, y2 = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    inside = np.zeros_like(first)
    inside[y1:y2, x1:x2] = first[y1:y2, x1:x2]
    assert strips.to_run_lengths(strips.cut(masks[0], (x1, y1, x2, y2)), height, width) == encode_mask(inside)
    assert np.array_equal(strips.to_bitmap(masks[0], (x1, y1, x2, y2)), first[y1:y2, x1:x2])
    larger = np.pad(first, ((2, 1), (3, 4)))
    assert strips.to_run_lengths(strips.move(masks[0], 3, 2), *larger.shape) == encode_mask(larger)
    x, y, w, h = coco.toBbox(encode_mask(first))
    if first.any():
        assert strips.find_box(masks[0]) == (x, y, x + w, y + h)


def test_an_empty_mask() -> None:
    empty = of(np.zeros((3, 4), bool))
    assert empty.shape == (0, 3)
    assert strips.find_box(empty) == (0, 0, 0, 0)
    assert strips.count_shared(empty, empty) == 0
    assert not decode_mask(strips.to_run_lengths(empty, 3, 4)).any()


def test_a_hundred_megapixels_need_no_bitmap() -> None:
    square = strips.move(of(np.ones((10, 10), bool)), 11_000, 8_000)
    rle = strips.to_run_lengths(square, 9_000, 12_000)
    assert coco.area(rle) == 100
    assert coco.toBbox(rle).tolist() == [11_000, 8_000, 10, 10]
    assert np.array_equal(strips.from_run_lengths(rle), square)


def test_wrong_run_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="run lengths must have the 3 x 4 pixels"):
        strips.from_run_lengths({"size": [3, 4], "counts": encode_mask(np.ones((2, 2), bool))["counts"]})
