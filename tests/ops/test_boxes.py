import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.ops.boxes import (
    MAX_LOG_RATIO,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    intersection_over_area,
    scale_boxes,
    smooth_l1_sum,
)

STDS = (0.1, 0.1, 0.2, 0.2)


@st.composite
def box(draw: st.DrawFn) -> list[float]:
    coordinate, side = st.floats(-500, 1500, width=32), st.floats(8, 400, width=32)
    x, y = draw(coordinate), draw(coordinate)
    return [x, y, x + draw(side), y + draw(side)]


@given(st.lists(st.tuples(box(), box()), min_size=1, max_size=5), st.sampled_from([STDS, (1.0, 1.0, 1.0, 1.0)]))
@settings(max_examples=50, deadline=None)
def test_decoding_undoes_encoding(pairs, stds):
    boxes, references = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    deltas = encode_boxes(boxes, references, stds=stds)
    # sides of 8 to 400 pixels stay inside the clamp of 62.5; float64 leaves 1e-9 of a pixel
    torch.testing.assert_close(decode_boxes(deltas, references, stds=stds), boxes, rtol=0, atol=1e-9)


def test_deltas_by_hand():
    reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[5.0, 10.0, 25.0, 20.0]])
    # centers (5, 10) and (15, 15); sides (10, 20) and (20, 10)
    expected = torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]])
    torch.testing.assert_close(encode_boxes(box, reference), expected)
    torch.testing.assert_close(encode_boxes(box, reference, stds=STDS), expected / torch.tensor(STDS))


@pytest.mark.parametrize(("log_ratio", "side"), [(100.0, 8 * 62.5), (-100.0, 8 / 62.5), (math.log(4), 32.0)])
def test_sides_are_clamped_at_both_ends(log_ratio, side):
    reference = torch.tensor([[-4.0, -4.0, 4.0, 4.0]])
    decoded = decode_boxes(torch.tensor([[0.0, 0.0, log_ratio, log_ratio]]), reference)
    torch.testing.assert_close(decoded, torch.tensor([[-side / 2, -side / 2, side / 2, side / 2]]))
    assert math.isclose(math.exp(MAX_LOG_RATIO), 62.5)


def test_one_delta_a_class_keeps_its_layout():
    torch.manual_seed(0)
    references = torch.tensor([[0.0, 0.0, 10.0, 20.0], [30.0, 30.0, 60.0, 50.0]])
    deltas = torch.randn(2, 12)
    decoded = decode_boxes(deltas, references, stds=STDS)
    assert decoded.shape == (2, 12)
    for start in (0, 4, 8):
        single = decode_boxes(deltas[:, start : start + 4], references, stds=STDS)
        torch.testing.assert_close(decoded[:, start : start + 4], single)


def test_a_box_without_area_has_finite_deltas():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 4.0, 4.0]])
    assert encode_boxes(boxes, boxes.flip(0)).isfinite().all()


def test_no_boxes():
    none = torch.zeros(0, 4)
    assert encode_boxes(none, none).shape == (0, 4)
    assert decode_boxes(torch.zeros(0, 12), none).shape == (0, 12)
    assert clip_boxes(none, 10, 10).shape == (0, 4)
    assert scale_boxes(none, 2.0, 2.0).shape == (0, 4)
    assert intersection_over_area(none, torch.zeros(3, 4)).shape == (0, 3)
    assert intersection_over_area(torch.zeros(3, 4), none).shape == (3, 0)


def test_clipping_and_scaling():
    boxes = torch.tensor([[[-5.0, -6.0, 50.0, 60.0], [101.0, 3.0, 120.0, 4.0]]])
    clipped = clip_boxes(boxes, 40, 100)
    assert clipped.tolist() == [[[0, 0, 50, 40], [100, 3, 100, 4]]]
    assert scale_boxes(clipped, 2.0, 0.5).tolist() == [[[0, 0, 100, 20], [200, 1.5, 200, 2]]]


def test_share_of_the_area_inside_a_region():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 2.0, 2.0, 8.0], [20.0, 20.0, 30.0, 30.0]])
    regions = torch.tensor([[5.0, 0.0, 100.0, 10.0], [0.0, 0.0, 100.0, 100.0]])
    # half inside, wholly inside; a box without area is inside nothing; outside, wholly inside
    assert intersection_over_area(boxes, regions).tolist() == [[0.5, 1], [0, 0], [0, 1]]


def test_what_inference_mode_left_behind_serves_training():
    """Constants are kept: the first to want them may be a detection."""
    stds = (0.3, 0.3, 0.7, 0.7)
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    with torch.inference_mode():
        decode_boxes(torch.zeros(1, 4), box, stds=stds)
    deltas = torch.zeros(1, 4, requires_grad=True)
    decode_boxes(deltas, box, stds=stds).sum().backward()
    assert deltas.grad is not None


def test_smooth_l1_by_hand() -> None:
    """Errors of 0.5 and 3 with beta 1: 0.125 + 2.5; with beta 0 their L1."""
    deltas, targets = torch.tensor([[0.5, 3.0]]), torch.zeros(1, 2)
    assert smooth_l1_sum(deltas, targets, beta=1.0) == 2.625
    assert smooth_l1_sum(deltas, targets, beta=0.0) == 3.5
