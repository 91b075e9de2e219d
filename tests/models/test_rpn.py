"""The region proposal network: matching, losses and proposals by hand."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from tailseg.models import RPNConfig
from tailseg.models.rpn import RPN, RPNOutput, select_trained_anchors
from tailseg.ops.matching import IGNORED, NEGATIVE
from tailseg.structures import Target

MakeTarget = Callable[..., Target]


@pytest.fixture
def rpn() -> RPN:
    torch.manual_seed(0)
    return RPN(8, RPNConfig())


def pyramid(batch: int, height: int, width: int) -> list[torch.Tensor]:
    return [torch.randn(batch, 8, -(-height // s), -(-width // s)) for s in (4, 8, 16, 32, 64)]


def test_every_anchor_of_every_level_in_order(rpn: RPN) -> None:
    output = rpn(pyramid(2, 64, 96))
    assert output.level_sizes == (16 * 24 * 3, 8 * 12 * 3, 4 * 6 * 3, 2 * 3 * 3, 1 * 2 * 3)
    assert output.logits.shape == (2, sum(output.level_sizes))
    assert output.deltas.shape == (2, sum(output.level_sizes), 4)
    sides = output.anchors[:, 2:] - output.anchors[:, :2]
    first = [0, *torch.tensor(output.level_sizes).cumsum(0)[:-1].tolist()]
    assert sides.prod(1)[first].sqrt().tolist() == pytest.approx([32, 64, 128, 256, 512])


def test_flattening_is_row_column_ratio(rpn: RPN) -> None:
    maps = pyramid(1, 64, 96)
    hidden = rpn.conv(maps[0]).relu()
    output = rpn(maps)
    row, column, ratio = 3, 5, 2
    index = (row * 24 + column) * 3 + ratio
    torch.testing.assert_close(output.logits[0, index], rpn.objectness(hidden)[0, ratio, row, column])
    torch.testing.assert_close(
        output.deltas[0, index], rpn.box_deltas(hidden)[0, ratio * 4 : ratio * 4 + 4, row, column]
    )


def test_an_object_without_a_good_anchor_takes_its_best(rpn: RPN, make_target: MakeTarget) -> None:
    """IoU 0.49 with anchors of 32 pixels: below 0.7, but the best there is and at least 0.3."""
    anchors = torch.tensor([[0.0, 0, 32, 32], [4, 0, 36, 32], [80, 80, 112, 112]])
    matches = rpn.match_anchors(anchors, make_target((0.0, 0, 32, 65)), None)
    assert matches.tolist() == [0, IGNORED, NEGATIVE]


def test_no_background_inside_a_crowd(rpn: RPN, make_target: MakeTarget) -> None:
    """Half of an anchor's area inside an ignore region is enough."""
    anchors = torch.tensor([[0.0, 0, 32, 32], [0, 0, 64, 32], [0, 0, 65, 32], [100, 0, 132, 32]])
    target = make_target((100.0, 0, 132, 32), ignore=[(0.0, 0, 32, 32), (100.0, 0, 132, 32)])
    matches = rpn.match_anchors(anchors, target, None)
    assert matches.tolist() == [IGNORED, IGNORED, NEGATIVE, 0]


def output_of(anchors: torch.Tensor, logits: torch.Tensor, deltas: torch.Tensor) -> RPNOutput:
    return RPNOutput(logits, deltas, anchors, (len(anchors),))


def test_losses_by_hand(rpn: RPN, make_target: MakeTarget) -> None:
    """One positive anchor half a width off, two negatives; sums over the three sampled anchors."""
    anchors = torch.tensor([[80.0, 80, 112, 112], [0, 0, 40, 40], [120, 120, 152, 152]])
    chosen = rpn.sample_anchors(anchors, [make_target((4.0, 0, 44, 40))], [(160, 160)])
    assert chosen.index[0] == 1
    assert chosen.index.sort().values.tolist() == [0, 1, 2]
    logits = torch.tensor([-1.0, 0.5, 2.0])[chosen.index]
    losses = rpn.anchor_losses(chosen, logits, torch.zeros(3, 4))
    expected = F.softplus(torch.tensor([-0.5, -1.0, 2.0])).sum() / 3
    torch.testing.assert_close(losses["loss_rpn_cls"], expected)
    torch.testing.assert_close(losses["loss_rpn_box"], torch.tensor(0.1 / 3))


def test_an_image_without_positives_counts_one_more(rpn: RPN, make_target: MakeTarget) -> None:
    anchors = torch.tensor([[0.0, 0, 32, 32], [80, 80, 112, 112]])
    losses = rpn.anchor_losses(
        rpn.sample_anchors(anchors, [make_target()], [(160, 160)]), torch.zeros(2), torch.zeros(2, 4)
    )
    torch.testing.assert_close(losses["loss_rpn_cls"], 2 * torch.tensor(2.0).log() / 3)
    assert losses["loss_rpn_box"] == 0


def dense(rpn: RPN, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Objectness and deltas of every anchor, with gradient, by convolutions."""
    hidden = [rpn.conv(level).relu() for level in maps]
    logits = [rpn.objectness(level).permute(0, 2, 3, 1).flatten(1) for level in hidden]
    deltas = [rpn.box_deltas(level).permute(0, 2, 3, 1).reshape(len(level), -1, 4) for level in hidden]
    return torch.cat(logits, 1), torch.cat(deltas, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("share", [1.0, 0.05])
def test_chosen_anchors_are_those_of_the_convolutions(layout: torch.memory_format, share: float) -> None:
    """In float64, edges and corners and images of a batch among them, with the gradients of maps and weights."""
    torch.manual_seed(0)
    rpn = RPN(8, RPNConfig()).double()
    maps = [level.double().contiguous(memory_format=layout).requires_grad_() for level in pyramid(2, 64, 96)]
    leaves = [*maps, *rpn.parameters()]
    wanted_logits, wanted_deltas = dense(rpn, maps)
    output = rpn(maps)
    assert not output.logits.requires_grad
    torch.testing.assert_close(output.logits, wanted_logits.float())
    index = torch.randperm(wanted_logits.numel())[: int(share * wanted_logits.numel())]
    logits, deltas = rpn.compute_at(maps, output.level_sizes, index)
    wanted_logits, wanted_deltas = wanted_logits.flatten()[index].float(), wanted_deltas.flatten(0, 1)[index].float()
    torch.testing.assert_close(logits, wanted_logits)
    torch.testing.assert_close(deltas, wanted_deltas)
    draw = torch.randn(len(index), 5)
    ours = torch.autograd.grad((torch.cat([logits[:, None], deltas], 1) * draw).sum(), leaves)
    wanted = torch.autograd.grad((torch.cat([wanted_logits[:, None], wanted_deltas], 1) * draw).sum(), leaves)
    torch.testing.assert_close(ours, wanted)


def test_no_chosen_anchor_keeps_every_gradient(rpn: RPN) -> None:
    maps = [level.requires_grad_() for level in pyramid(1, 64, 64)]
    logits, deltas = rpn.compute_at(maps, rpn(maps).level_sizes, torch.zeros(0).long())
    for gradient in torch.autograd.grad(logits.sum() + deltas.sum(), [*maps, *rpn.parameters()]):
        assert not gradient.any()


def test_weights_used_without_gradient_before_have_theirs_under_autocast(rpn: RPN) -> None:
    """Autocast keeps the weights it has cast: those of `forward`, which has no gradient, must not be taken here."""
    maps = pyramid(1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits, deltas = rpn.compute_at(maps, rpn(maps).level_sizes, torch.arange(100))
    for gradient in torch.autograd.grad(logits.square().sum() + deltas.square().sum(), list(rpn.parameters())):
        assert gradient.any()


def test_anchors_that_only_a_larger_neighbor_brings_are_not_sampled(make_target: MakeTarget) -> None:
    """As published: the small image's own padding (to 64 x 32) is background, what lies beyond is nothing."""
    rpn = RPN(8, RPNConfig(anchors_per_image=100_000))
    anchors = rpn(pyramid(2, 64, 96)).anchors
    chosen = rpn.sample_anchors(anchors, [make_target(), make_target()], [(50, 30), (64, 96)])
    trained = torch.zeros(2, len(anchors)).bool()
    trained.view(-1)[chosen.index] = True
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert torch.equal(trained[0], centers[:, 0].round() < 32)
    assert trained[1].all()


def test_proposals_are_clipped_solid_and_best_first(rpn: RPN) -> None:
    anchors = torch.tensor([[-8.0, -8, 24, 24], [40, 40, 90, 90], [200, 200, 232, 232], [41, 41, 91, 91]])
    logits = torch.tensor([[0.0, 1.0, 5.0, 2.0]])
    (boxes,) = rpn.proposals(output_of(anchors, logits, torch.zeros(1, 4, 4)), [(64, 80)])
    # the third lies outside; the second is suppressed by the fourth
    assert boxes.tolist() == [[41, 41, 80, 64], [0, 0, 24, 24]]
    assert not boxes.requires_grad


def test_training_and_testing_keep_their_own_numbers() -> None:
    torch.manual_seed(0)
    config = RPNConfig(train_pre_nms=40, train_post_nms=20, test_pre_nms=10, test_post_nms=5)
    rpn = RPN(8, config)
    maps = pyramid(1, 64, 64)
    assert len(rpn.train().proposals(rpn(maps), [(64, 64)])[0]) == 20
    assert len(rpn.eval().proposals(rpn(maps), [(64, 64)])[0]) == 5


def test_border_leaves_out_anchors_that_reach_outside() -> None:
    """In an image of 64 x 48 padded to 64 x 64: the left, top, right and lower edge, and one just inside."""
    anchors = torch.tensor([[0.0, 0, 32, 32], [-1, 0, 32, 32], [0, -1, 32, 32], [0, 0, 48, 32], [0, 0, 47, 64]])
    sizes = [(64, 48)]
    assert select_trained_anchors(anchors, sizes[0], sizes, border=None) is None
    assert select_trained_anchors(anchors, sizes[0], sizes, border=0.0).tolist() == [True, False, False, False, False]
    assert select_trained_anchors(anchors, sizes[0], sizes, border=1.0).tolist() == [True] * 5
    # a larger neighbor's anchors stay out as well
    wide = torch.tensor([[0.0, 0, 32, 32], [60, 0, 92, 32]])
    assert select_trained_anchors(wide, (64, 48), [(64, 48), (64, 128)], border=100.0).tolist() == [True, False]


def test_an_image_without_inner_anchors_trains_nothing(make_target: MakeTarget) -> None:
    """All anchors of an image of 32 x 32 reach outside: no NaN."""
    torch.manual_seed(0)
    rpn = RPN(8, RPNConfig(border=0.0, smooth_l1_beta=1 / 9))
    maps = pyramid(1, 32, 32)
    losses = rpn.losses(maps, rpn(maps), [make_target((0.0, 0, 20, 20))], [(31, 31)])
    assert losses["loss_rpn_cls"] == losses["loss_rpn_box"] == 0
    with pytest.raises(ValueError, match=r"border is 0 or more, or None, got -1\.0"):
        RPNConfig(border=-1.0)
