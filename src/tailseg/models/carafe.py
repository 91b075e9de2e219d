"""CARAFE: upsampling by weights that are computed from the content, in plain torch.

J. Wang et al., "CARAFE: Content-Aware ReAssembly of FEatures", ICCV 2019; parameter names and start as in mmcv's pack.

Shapes: R regions, D channels, h x w positions, f the factor, T = k^2 taps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class CARAFE(nn.Module):
    """Enlarges maps: each output is a weighted mean of the k x k inputs around its cell.

    With c a 1x1 convolution of the input x to ``compressed`` channels, and e a 3x3 convolution of c to T f^2 channels:

        W[tap, f y + dy, f x + dx] = softmax over the taps of e[tap f^2 + dy f + dx, y, x]
        out[:, Y, X]               = sum over taps (a, b) of W[tap, Y, X] x[:, floor(Y / f) + a, floor(X / f) + b]

    Taps outside the map count as 0, and the weights are not normalized again there.

    The sum is a product of matrices for each row of the map: f^2 w outputs from the k rows of inputs around it, with a
    banded matrix of the weights. It needs no copy of the taps, and the enlarged maps are the largest tensors.

    Args:
        channels: D.
        compressed: channels of the 1x1 convolution.
        factor: f.
        taps: k, odd.
        groups: G groups of channels with weights of their own, group slowest in e.

    Raises:
        ValueError: the taps are even, or the groups do not divide the channels.
    """

    def __init__(self, channels: int, *, compressed: int = 64, factor: int = 2, taps: int = 5, groups: int = 1) -> None:
        super().__init__()
        if taps % 2 == 0 or channels % groups:
            raise ValueError(f"CARAFE needs odd taps and groups that divide {channels} channels, got {taps}, {groups}")
        self.factor, self.taps, self.groups = factor, taps, groups
        self.channel_compressor = nn.Conv2d(channels, compressed, 1)
        self.content_encoder = nn.Conv2d(compressed, groups * taps**2 * factor**2, 3, padding=1)
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for conv in (self.channel_compressor, self.content_encoder):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Float[Tensor, "R D h w"]) -> Float[Tensor, "R D _ _"]:
        """The enlarged maps."""
        regions, channels, height, width = x.shape
        f = self.factor
        cells = self.cells(x).view(regions, height, width, f, f, channels)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(regions, channels, f * height, f * width)

    def weights(self, x: Float[Tensor, "R D h w"]) -> Float[Tensor, "R G T _ h w"]:
        """W of every group, by tap and by output of the cell."""
        encoded = self.content_encoder(self.channel_compressor(x))
        regions, _, height, width = encoded.shape
        return encoded.view(regions, self.groups, self.taps**2, self.factor**2, height, width).softmax(2)

    def cells(self, x: Float[Tensor, "R D h w"]) -> Float[Tensor, "R h _ D"]:
        """The enlarged maps by cell: the f^2 outputs of each position, row by row, channels last.

        Of the positions of a row, x is slower than the output in the cell.
        """
        regions, channels, height, width = x.shape
        pad = self.taps // 2
        bands = self._bands(self.weights(x)).to(x.dtype)
        groups = x.view(regions * self.groups, channels // self.groups, height, width)
        rows = F.pad(groups, (0, 0, pad, pad)).permute(0, 2, 3, 1).contiguous()
        outputs = [torch.bmm(bands[:, y], rows[:, y : y + self.taps].flatten(1, 2)) for y in range(height)]
        out = torch.stack(outputs, 1)
        if self.groups == 1:
            return out
        split = out.view(regions, self.groups, height, -1, channels // self.groups)
        return split.permute(0, 2, 3, 1, 4).reshape(regions, height, -1, channels)

    def _bands(self, weights: Float[Tensor, "R G T S h w"]) -> Float[Tensor, "R_G h _ _"]:
        """For each row of the map, the matrix from k rows of inputs to its outputs.

        A row of k weights at x stands at the columns x .. x + k - 1 of a row of w + k - 1. Rows that are one longer
        than that, laid end to end and read again at w + k - 1 each, are shifted by one from row to row.
        """
        regions, groups, _, outputs, height, width = weights.shape
        k, padded = self.taps, width + self.taps - 1
        taps = weights.view(regions * groups, k, k, outputs, height, width).permute(0, 4, 3, 1, 5, 2)  # y, S, a, x, b
        long = F.pad(taps, (0, padded + 1 - k)).flatten(-2)[..., : width * padded]
        band = long.unflatten(-1, (width, padded))[..., k // 2 : k // 2 + width]
        return band.permute(0, 1, 4, 2, 3, 5).reshape(regions * groups, height, width * outputs, k * width)
