"""What the tests against mmdetection's detectors assert; files, weights and samples come from tailseg.interop."""

import torch
from torch import Tensor

from tailseg.interop.golden import Golden
from tailseg.interop.mmdet import to_mmdet
from tailseg.ops.masks import decode_mask

NUM_CLASSES = 7


def assert_same_boxes(ours: Tensor, theirs: Tensor, *, most_lost: int = 0) -> None:
    """As sets: scores lie as close as 4e-7, so neighbours may swap places."""
    assert len(ours) == len(theirs)
    distance = torch.cdist(ours, theirs, p=torch.inf)
    assert int((distance.amin(0) > 0.05).sum()) <= most_lost
    assert int((distance.amin(1) > 0.05).sum()) <= most_lost


def assert_close_to_scale(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of the largest value: fifty layers of float32 in another order of operations leave 3e-5."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def assert_maps_equal(golden: Golden) -> None:
    pyramid = golden.pyramid()
    output = golden.model.rpn(pyramid)
    for level, feature in enumerate(pyramid):
        assert_close_to_scale(feature, golden.tensors[f"test.fpn.{level}"])
    cls = [golden.tensors[f"test.rpn_cls.{level}"].permute(0, 2, 3, 1).flatten(1) for level in range(5)]
    reg = [golden.tensors[f"test.rpn_reg.{level}"].permute(0, 2, 3, 1).reshape(2, -1, 4) for level in range(5)]
    assert_close_to_scale(output.logits, torch.cat(cls, 1))
    assert_close_to_scale(output.deltas, torch.cat(reg, 1))
    for i, boxes in enumerate(golden.model.rpn.proposals(output, golden.sizes)):
        assert_same_boxes(boxes, golden.tensors[f"test.proposals.{i}.boxes"])


def assert_detections_equal(golden: Golden) -> None:
    """End to end, from pixels to run lengths."""
    for i, found in enumerate(golden.model(golden.images)):
        boxes, scores = golden.tensors[f"test.det.{i}.boxes"], golden.tensors[f"test.det.{i}.scores"]
        labels = golden.tensors[f"test.det.{i}.labels"]
        torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-4)
        distance = torch.cdist(found.boxes, boxes, p=torch.inf) + 1e6 * (found.labels[:, None] != labels)
        assert distance.amin(0).max() < 0.05
        for theirs, ours in enumerate(distance.argmin(0).tolist()):
            mine, wanted = decode_mask(found.masks[ours]), decode_mask(golden.facts["rle"][i][theirs])
            # a pixel whose probability is 0.5 up to rounding may fall on either side
            assert int((mine != wanted).sum()) <= 2 + 0.002 * int(wanted.sum())


def assert_losses_and_gradients_equal(golden: Golden, losses: dict[str, Tensor], theirs: dict[str, str]) -> None:
    """Losses to 1e-3 and every parameter's gradient norm to 1e-2: the golden file's own stability allows no less."""
    assert losses.keys() == theirs.keys()
    for name, value in losses.items():
        expected = golden.tensors[f"train.loss.{theirs[name]}"].sum()
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    golden.model.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    gradients = to_mmdet({name: p.grad for name, p in golden.model.named_parameters()}).state
    assert_gradients_equal(golden.tensors, golden.facts["grad_names"], gradients)


def assert_gradients_equal(tensors: dict[str, Tensor], names: list[str], gradients: dict[str, Tensor]) -> None:
    """Of every parameter, by their names and in their layout: the norm, and five values."""
    assert gradients.keys() == set(names)
    for row, name in enumerate(names):
        norm = tensors["train.grad.norm"][row]
        torch.testing.assert_close(
            gradients[name].norm(), norm, rtol=1e-2, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}"
        )
        values = gradients[name].flatten()[tensors["train.grad.index"][row]]
        torch.testing.assert_close(values, tensors["train.grad.value"][row], rtol=1e-2, atol=1e-2 * float(norm) + 1e-7)
