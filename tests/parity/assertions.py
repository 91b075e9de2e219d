"""What the tests against mmdetection's detectors assert; golden.py reads the files, parity.py measures."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tailseg.interop.mmdet_weights import to_mmdet

from . import parity
from .golden import Golden
from .parity import Difference

NUM_CLASSES = 7
TRIMMED = Path(__file__).resolve().parents[1] / "golden"
"""The golden files that the repository carries, made by tools/trim_golden.py."""


def files(*names: str) -> list[str]:
    """Parameters of a fixture: the trimmed files that are there, and all full ones."""
    trimmed = [f"trimmed/{name}" for name in names if (TRIMMED / f"{name}.safetensors").is_file()]
    return [*trimmed, *(f"full/{name}" for name in names)]


def place(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """Folder and name of a parameter of `files`; skips the test where the full files are not there."""
    kind, name = request.param.split("/")
    return (TRIMMED if kind == "trimmed" else request.getfixturevalue("shared") / "golden"), name


def assert_equal(differences: Sequence[Difference]) -> None:
    """No stage differs by more than rounding; the limits and their reasons stand in parity.py."""
    assert differences
    assert [d for d in differences if not d.equal] == []


def assert_same_boxes(ours: Tensor, theirs: Tensor, *, most_lost: int = 0) -> None:
    """As sets: scores lie as close as 4e-7, so neighbors may swap places."""
    assert len(ours) == len(theirs)
    distance = torch.cdist(ours, theirs, p=torch.inf)
    assert int((distance.amin(0) > 0.05).sum()) <= most_lost
    assert int((distance.amin(1) > 0.05).sum()) <= most_lost


def assert_close_to_scale(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-4 of the largest value: fifty layers of float32 in another order of operations leave 3e-5."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def assert_maps_equal(golden: Golden) -> None:
    pyramid = golden.pyramid()
    assert_equal([*parity.compare_maps(golden, pyramid), *parity.compare_proposals(golden, pyramid)])


def assert_detections_equal(golden: Golden) -> None:
    """End to end, from pixels (or the golden feature maps) to run lengths."""
    assert_equal(parity.compare_detections(golden))


def assert_losses_and_gradients_equal(golden: Golden, losses: dict[str, Tensor], theirs: dict[str, str]) -> None:
    """Losses to 1e-4, and every parameter's gradient norm to 1e-2: a few inputs of ReLUs lie nearer to zero than two
    float32 programs agree. With those on the same side the norms agree to 1e-4, see test_parity_harness.
    """
    assert losses.keys() == theirs.keys()
    for name, value in losses.items():
        expected = golden.tensors[f"train.loss.{theirs[name]}"].sum()
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
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
