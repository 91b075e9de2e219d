import torch

from tailseg.ops.anchors import base_anchors, grid_anchors


def test_base_anchors_by_hand():
    # stride 4, scale 8: 32 x 32 pixels of area; ratio 4 = height / width: 16 wide, 64 high
    anchors = base_anchors(4, scale=8.0, ratios=(0.25, 1.0, 4.0))
    assert anchors.tolist() == [[-32, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]]


def test_published_ratios_are_not_rounded():
    sides = base_anchors(8, scale=8.0, ratios=(0.5, 1.0, 2.0))[:, 2:] * 2
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]))
    torch.testing.assert_close(sides.prod(1), torch.full((3,), 64.0**2))


def test_order_is_row_column_ratio_from_the_origin():
    anchors = grid_anchors(2, 3, 4, scale=8.0, ratios=(0.5, 1.0, 2.0))
    assert anchors.shape == (18, 4)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [[x, y] for y in (0.0, 4.0) for x in (0.0, 4.0, 8.0) for _ in range(3)]
    torch.testing.assert_close(centers, torch.tensor(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(anchors[:3], base_anchors(4, scale=8.0, ratios=(0.5, 1.0, 2.0)))


def test_an_empty_map_has_no_anchors():
    assert grid_anchors(0, 3, 4, scale=8.0, ratios=(1.0,)).shape == (0, 4)
