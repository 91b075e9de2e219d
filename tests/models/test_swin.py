"""Swin: torchvision's network with a norm on each map, and attention within shifted windows by hand."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch.nn import functional as F

from tailseg.models import SwinConfig
from tailseg.models.swin import Swin, WindowAttention, compute_relative_positions

SMALL = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=3, drop_path=0.0, weights="none")


def attention(*, shift: int) -> WindowAttention:
    torch.manual_seed(0)
    module = WindowAttention(8, (3, 3), (shift, shift), 2, attention_dropout=0.0, dropout=0.0)
    torch.nn.init.normal_(module.relative_position_bias_table)
    return module


def test_maps_are_torchvisions_where_windows_are_smaller_than_the_maps() -> None:
    """Swin-T; the coarsest map of 288 x 256 has 9 x 8 tokens, padded to 14 x 14. Norms start at the identity."""
    torch.manual_seed(0)
    theirs = torchvision.models.swin_t().eval()
    ours = Swin(SwinConfig(weights="none")).eval()
    state = {name: value for name, value in theirs.features.state_dict().items() if "position_index" not in name}
    ours.features.load_state_dict(state)
    images = torch.randn(1, 3, 288, 256)
    with torch.no_grad():
        x, wanted = images, []
        for i, layer in enumerate(theirs.features):
            x = layer(x)
            if i % 2:
                wanted.append(F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2))
        for mine, reference in zip(ours(images), wanted, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)  # twelve blocks of float32, values of 1


@pytest.mark.parametrize("size", [(96, 96), (64, 96), (32, 32)])
def test_every_size_and_every_gradient(size: tuple[int, int]) -> None:
    """Maps down to one token, far smaller than a window."""
    network = Swin(SMALL).train()
    maps = network(torch.randn(2, 3, *size))
    assert network.out_channels == (8, 16, 32, 64)
    assert [tuple(m.shape) for m in maps] == [(2, 8 << s, size[0] // (4 << s), size[1] // (4 << s)) for s in range(4)]
    sum(m.square().sum() for m in maps).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_splitting_and_joining_windows_are_inverse() -> None:
    module, x = attention(shift=0), torch.randn(2, 6, 9, 8)
    windows = module.split(x)
    assert windows.shape == (2, 6, 9, 8)
    torch.testing.assert_close(windows[0, 1], x[0, :3, 3:6].reshape(9, 8))
    torch.testing.assert_close(module.join(windows, 6, 9), x)


@pytest.mark.parametrize("shift", [0, 1])
def test_attention_by_hand(shift: int) -> None:
    """Each token looks at those of its window (rolled by the shift) that lie in the same part of the image."""
    module, x = attention(shift=shift), torch.randn(1, 5, 6, 8)
    padded = F.pad(x, (0, 0, 0, 0, 0, 1))
    q, k, v = module.qkv(padded).unflatten(-1, (3, 2, 4)).unbind(3)
    out = torch.zeros(1, 6, 6, 2, 4)
    rolled = {(y, z): ((y - shift) % 6, (z - shift) % 6) for y in range(6) for z in range(6)}
    for token, (y, z) in rolled.items():
        seen = [
            (other, (a, b))
            for other, (a, b) in rolled.items()
            if (a // 3, b // 3) == (y // 3, z // 3)
            # the seam: what was rolled round from the other end of the image
            and (other[0] < shift) == (token[0] < shift)
            and (other[1] < shift) == (token[1] < shift)
        ]
        for head in range(2):
            logits = torch.stack(
                [
                    q[0, *token, head] @ k[0, *other, head] / 2
                    + module.relative_position_bias_table[(y % 3 - a % 3 + 2) * 5 + z % 3 - b % 3 + 2, head]
                    for other, (a, b) in seen
                ]
            )
            values = torch.stack([v[0, *other, head] for other, _ in seen])
            out[0, *token, head] = logits.softmax(0) @ values
    torch.testing.assert_close(module(x), module.proj(out.flatten(3)[:, :5]), rtol=1e-4, atol=1e-5)


def test_relative_positions_by_hand() -> None:
    """A window of 2: 9 offsets; a token with itself is the middle one, right and below come before it."""
    index = compute_relative_positions(2)
    assert index.diagonal().tolist() == [4] * 4
    assert index[0].tolist() == [4, 3, 1, 0]
    assert index[3].tolist() == [8, 7, 5, 4]


def test_blocks_are_skipped_in_training_alone() -> None:
    torch.manual_seed(0)
    network, images = Swin(replace(SMALL, drop_path=0.9)), torch.randn(1, 3, 64, 64)
    network.train()
    assert not torch.equal(network(images)[3], network(images)[3])
    network.eval()
    assert torch.equal(network(images)[3], network(images)[3])


def test_bfloat16_autocast() -> None:
    """bfloat16 has 8 bits; the bias has to follow the queries' type. Values are of order 1."""
    network, images = Swin(SMALL).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wide = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = network(images)
    for a, b in zip(narrow, wide, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.15)


def test_channels_that_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"channels \(8, 16, 32, 64\) must be multiples of its heads \(3, 2, 4, 8\)"):
        Swin(replace(SMALL, heads=(3, 2, 4, 8)))
