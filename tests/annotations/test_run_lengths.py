"""Run lengths that pycocotools would die of are refused, all others pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from tailseg.annotations import run_lengths
from tailseg.annotations.ragged import Ragged
from tailseg.annotations.run_lengths import count_pixels, have_pixel_counts
from tailseg.ops.masks import _compressed, decode_mask, mask_area, mask_box, segmentation_to_rle
from tailseg.structures import RunLengths


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_run_lengths_total_agrees_with_pycocotools(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 400))
    seed, density = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.floats(0, 1))
    bitmap = np.random.default_rng(seed).random((height, width)) < density
    compressed = coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8))["counts"]
    assert count_pixels(compressed) == bitmap.size


def reference(counts: bytes) -> list[int] | None:
    """The runs by pycocotools' own rule (rleFrString), one character after the other; None where it has no end."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        code = character - 48
        if not 0 <= code <= 63 or shift > 30:
            return None
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            value -= (code & 16) << shift - 4 if code & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if runs and not shift and min(runs) >= 0 else None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=24) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=24))
def test_any_bytes_are_counted_or_refused(counts: bytes | str) -> None:
    counts = counts.encode() if isinstance(counts, str) else counts
    runs = reference(counts)
    assert count_pixels(counts) == (None if runs is None else sum(runs))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=24) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=24))
def test_masks_of_strangers_are_decoded_or_refused(counts: str) -> None:
    """Half of these would end the process in pycocotools, or keep it for ever."""
    rle: RunLengths = {"size": [5, 7], "counts": counts}
    for function in (decode_mask, mask_area, mask_box, lambda rle: segmentation_to_rle(rle, 5, 7)):
        runs = reference(counts.encode())
        if runs is None or sum(runs) != 35:
            with pytest.raises(ValueError, match="run lengths must have the 5 x 7 pixels"):
                function(rle)
        else:
            function(rle)


@pytest.mark.parametrize(
    ("counts", "got"),
    [("", "malformed counts"), ("5:FIT", "malformed counts"), ("T10", "36 pixels"), (b"4", "4 pixels")],
)
def test_refused_run_lengths_say_why(counts: str | bytes, got: str) -> None:
    with pytest.raises(ValueError, match=rf"have the 5 x 7 pixels of their size, got {got}\. Encode the mask again"):
        decode_mask({"size": [5, 7], "counts": counts})


def test_a_sum_beyond_64_bits_is_no_other_sum() -> None:
    """Runs of 2^64 + 35 pixels in all are not the 35 of the image."""
    steps = 46_400
    step, rest = divmod(2**64 + 35, steps * (steps + 1) // 2)
    runs = np.zeros(2 * steps + 1, np.int64)
    runs[0], runs[1::2] = rest, step * np.arange(1, steps + 1)
    assert sum(runs.tolist()) == 2**64 + 35
    (text,) = _compressed(runs, np.array([0]))
    assert count_pixels(text.encode()) is None
    packed = Ragged.pack_text([text])
    assert not have_pixel_counts(packed.values, packed.offsets, np.array([35]))


CHARACTERS = st.binary(max_size=12) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_many_are_filled_where_each_is(data: st.DataObject) -> None:
    rows = [row.encode() if isinstance(row, str) else row for row in data.draw(st.lists(CHARACTERS, max_size=6))]
    if data.draw(st.booleans()):
        rows = [row for row in rows if not row or reference(row) is not None]
    expected = [sum(reference(row) or [-1]) for row in rows]
    wrong = data.draw(st.booleans()) and len(rows) > 0
    pixels = np.array(expected, np.int64) + wrong * (np.arange(len(rows)) == len(rows) - 1)
    packed = Ragged.pack_text(rows)
    right = all(not row or total == found >= 0 for row, total, found in zip(rows, pixels, expected, strict=True))
    with pytest.MonkeyPatch.context() as blocks:
        blocks.setattr(run_lengths, "BYTES_PER_BLOCK", data.draw(st.sampled_from([1, 10, 1 << 20])))
        assert have_pixel_counts(packed.values, packed.offsets, pixels) == right
