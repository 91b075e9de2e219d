import pytest
import torch

from tailseg.ops.roi_pool import fpn_levels, group_rows, roi_pool

STRIDES = (4, 8, 16, 32)


def square(side: float) -> list[float]:
    return [0.0, 0.0, side, side]


@pytest.mark.parametrize(
    ("side", "level"),
    [(0, 0), (1, 0), (55.9, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447, 2), (448, 3), (895, 3), (5000, 3)],
)
def test_level_by_side(side, level):
    assert fpn_levels(torch.tensor([square(side)])).tolist() == [level]


def test_level_depends_on_the_area_and_on_the_number_of_levels():
    box = torch.tensor([[0.0, 0.0, 28.0, 448.0]])  # sqrt(28 * 448) = 112
    assert fpn_levels(box).tolist() == [1]
    assert fpn_levels(box, num_levels=1).tolist() == [0]
    assert fpn_levels(box, finest_scale=14.0).tolist() == [3]
    assert fpn_levels(torch.zeros(0, 4)).tolist() == []
    assert fpn_levels(torch.tensor([[10.0, 10.0, 5.0, 20.0]])).tolist() == [0]  # turned inside out: no area


def constant_pyramid(num_images: int) -> list[torch.Tensor]:
    """Features that say where they come from: 10 * image + level."""
    return [
        torch.stack([torch.full((1, 512 // s, 512 // s), 10.0 * image + level) for image in range(num_images)])
        for level, s in enumerate(STRIDES)
    ]


def test_each_box_is_pooled_from_its_image_and_level_in_the_given_order():
    boxes = [torch.tensor([square(300), square(20)]), torch.zeros(0, 4), torch.tensor([square(450), square(150)])]
    pooled = roi_pool(constant_pyramid(3), boxes, output_size=2, strides=STRIDES)
    assert pooled.shape == (4, 1, 2, 2)
    assert pooled[:, 0, 0, 0].tolist() == pytest.approx([2, 0, 23, 21])


def test_half_pixel_alignment():
    # a ramp f(x) = x at cell centers: pooling [4, 12) x [4, 12) of stride 4 into one value reads the center, cell 1.5
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    pooled = roi_pool([ramp], [torch.tensor([[4.0, 4.0, 12.0, 12.0]])], output_size=1, strides=(4,))
    assert pooled.item() == pytest.approx(1.5)


def test_no_box_at_all_keeps_the_gradient():
    features = [level.requires_grad_() for level in constant_pyramid(2)]
    pooled = roi_pool(features, [torch.zeros(0, 4)] * 2, output_size=7, strides=STRIDES)
    assert pooled.shape == (0, 1, 7, 7)
    pooled.sum().backward()
    assert all(level.grad is not None and not level.grad.any() for level in features)


def test_levels_without_boxes_keep_the_gradient():
    features = [level.requires_grad_() for level in constant_pyramid(1)]
    roi_pool(features, [torch.tensor([square(20)])], output_size=7, strides=STRIDES).sum().backward()
    assert features[0].grad.sum().item() == pytest.approx(49)
    assert all(level.grad is not None for level in features)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="a stride a level and boxes for each image"):
        roi_pool(constant_pyramid(1), [torch.zeros(0, 4)], output_size=7, strides=(4, 8))
    with pytest.raises(ValueError, match="2 sets of boxes"):
        roi_pool(constant_pyramid(1), [torch.zeros(0, 4)] * 2, output_size=7, strides=STRIDES)


@pytest.mark.parametrize("group", [[], [2], [3, 0, 1, 0, 3, 1, 0], [-5, 1, 9, 0, 1, -(2**63), 2**62]])
def test_members_are_the_rows_of_each_group_and_strangers_are_of_none(group: list[int]) -> None:
    """A box of NaN has a level of no pyramid."""
    groups = torch.tensor(group, dtype=torch.int64)
    found = [members.tolist() for members in group_rows(groups, 4)]
    assert found == [[i for i, value in enumerate(group) if value == level] for level in range(4)]
