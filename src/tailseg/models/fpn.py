"""Feature pyramid.

Shapes: C2 .. C5 in, P2 .. P6 out, all with the same number of channels; strides 4, 8, 16, 32, 64.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.models.config import FPNConfig

FPN_STRIDES = (4, 8, 16, 32, 64)


class FPN(nn.Module):
    """P2 .. P5 by lateral 1x1 and output 3x3 convolutions with nearest upsampling between, P6 by taking each second
    cell of P5 (a max pool of kernel 1 and stride 2).

    Source: Lin et al. 2017, "Feature Pyramid Networks for Object Detection"; Xavier start as published.
    """

    def __init__(self, in_channels: Sequence[int], config: FPNConfig) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, config.channels, 1) for channels in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(config.channels, config.channels, 3, padding=1) for _ in in_channels)
        for conv in [*self.lateral, *self.output]:
            assert isinstance(conv, nn.Conv2d)
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """P2, P3, P4, P5, P6 from C2, C3, C4, C5."""
        # From the coarsest on, each output as soon as its input is there: without gradient no other map is kept.
        merged = self.lateral[-1](features[-1])
        pyramid = [self.output[-1](merged)]
        for level in range(len(features) - 2, -1, -1):
            finer = self.lateral[level](features[level])
            merged = finer.add_(F.interpolate(merged, size=finer.shape[-2:], mode="nearest"))
            pyramid.insert(0, self.output[level](merged))
        pyramid.append(F.max_pool2d(pyramid[-1], kernel_size=1, stride=2))
        return pyramid
