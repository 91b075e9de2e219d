"""Swin Transformer with torchvision's parameter names.

Shapes: B images, H x W tokens of C channels; w the window's side, N = w^2 tokens a window, W windows an image, h heads.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer
from torchvision.models.swin_transformer import SwinTransformerBlock

from tailseg.models.config import SwinConfig

APART = -100.0
"""Added to the logit of two tokens that a shifted window holds but that are no neighbors in the image."""


class WindowAttention(nn.Module):
    """Attention within windows of ``w x w`` tokens, with a learned bias for each relative position.

    ``softmax(q k^T / sqrt(C / h) + bias) v``, the windows moved by ``shift`` tokens in every other block. The map is
    padded with zeros to whole windows. As in mmdetection windows are moved even where one of them spans the map;
    torchvision's attention leaves them in place there, which is all that differs from it.

    Args:
        dim: C.
        window_size: w, twice, as torchvision's block gives it.
        shift_size: the shift, twice.
        num_heads: h.
        attention_dropout: of the attention's weights; published models have none.
        dropout: of the result; published models have none.

    Source: Liu et al. 2021, "Swin Transformer", section 3.2.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window_size: Sequence[int],
        shift_size: Sequence[int],
        num_heads: int,
        *,
        attention_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        assert attention_dropout == dropout == 0
        self.window, self.shift, self.num_heads = window_size[0], shift_size[0], num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * self.window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", compute_relative_positions(self.window), persistent=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = self.attend(self.split(x), self.bias(padded_height, padded_width))
        x = self.join(x, padded_height, padded_width)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return self.proj(x[:, :height, :width])

    def split(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B windows N C"]:
        """The windows' tokens, windows and tokens row by row."""
        w = self.window
        return x.unflatten(2, (-1, w)).unflatten(1, (-1, w)).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def join(self, x: Float[Tensor, "B windows N C"], height: int, width: int) -> Float[Tensor, "B H W C"]:
        """The map of ``height x width`` tokens again.

        Args:
            x: tokens of each window.
            height: of the map, in tokens; a multiple of w.
            width: of the map, in tokens; a multiple of w.

        Returns:
            The map.
        """
        w = self.window
        return (
            x.unflatten(1, (height // w, width // w)).unflatten(3, (w, w)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        )

    def attend(
        self, x: Float[Tensor, "B windows N C"], bias: Float[Tensor, "windows h N N"]
    ) -> Float[Tensor, "B windows N C"]:
        """Attention within each window. Windows and heads share a dimension: one bias serves the whole batch."""
        num_windows = x.shape[1]
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(2, 3).flatten(1, 2) for part in self.qkv(x).chunk(3, -1)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1).to(q.dtype))
        return out.unflatten(1, (num_windows, self.num_heads)).transpose(2, 3).flatten(3, 4)

    def bias(self, height: int, width: int) -> Float[Tensor, "windows h N N"]:
        """What is added to the logits of a padded map: the relative position's bias, and APART across a seam."""
        position = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        num_windows = (height // self.window) * (width // self.window)
        if self.shift == 0:
            return position.expand(num_windows, -1, -1, -1)
        rows, columns = (self.regions(side, position.device) for side in (height, width))
        region = self.split((3 * rows[:, None] + columns).view(1, height, width, 1).float())[0, :, :, 0]
        apart = region[:, :, None] != region[:, None, :]
        return position + APART * apart[:, None].to(position.dtype)

    def regions(self, side: int, device: torch.device) -> Int64[Tensor, " {side}"]:
        """0, 1 or 2 for each place of a shifted side: the seam and the last window's start lie between."""
        place = torch.arange(side, device=device)
        return (place >= side - self.window).long() + (place >= side - self.shift).long()


def compute_relative_positions(window: int) -> Int64[Tensor, "N N"]:
    """The row of the bias table for each pair of tokens: ``(y_i - y_j + w - 1) (2 w - 1) + x_i - x_j + w - 1``."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y + window - 1) * (2 * window - 1) + x[:, None] - x + window - 1


class Swin(nn.Module):
    """Swin Transformer without its classifier, a layer norm on each of its four maps; other names are torchvision's.

    Random initialization; `tailseg.models.load_backbone` loads weights. The four layer norms keep scale 1 and shift 0,
    because the weights of classifiers have none.

    Attributes:
        out_channels: channels of C2, C3, C4, C5.

    Raises:
        ValueError: a stage's channels cannot be divided among its heads.

    Source: Liu et al. 2021, "Swin Transformer"; the four norms as in its detectors.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = tuple(config.embed_dim * 2**stage for stage in range(4))
        if any(channels % heads for channels, heads in zip(self.out_channels, config.heads, strict=True)):
            raise ValueError(f"Swin's channels {self.out_channels} must be multiples of its heads {config.heads}")
        network = SwinTransformer(
            patch_size=[4, 4],
            embed_dim=config.embed_dim,
            depths=list(config.depths),
            num_heads=list(config.heads),
            window_size=[config.window, config.window],
            stochastic_depth_prob=config.drop_path,
            block=partial(SwinTransformerBlock, attn_layer=WindowAttention),
        )
        self.features = network.features
        """Patches, stage, merging, stage, merging, stage, merging, stage."""
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.out_channels)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """C2, C3, C4, C5: maps of stride 4, 8, 16, 32."""
        x, maps = images, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i % 2:
                maps.append(self.norms[i // 2](x).permute(0, 3, 1, 2))
        return maps
