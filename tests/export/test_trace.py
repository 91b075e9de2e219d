"""Programs of `torch.export` for images of any size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.export.trace import EXAMPLE_SIZE, remove_size_checks


class Pooled(nn.Module):
    """A map at the strides 32 and 64, like the last of a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 32, stride=32)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv(x), 1, 2).permute(0, 2, 3, 1).flatten(1)


@torch.no_grad()
def test_maps_may_have_one_row() -> None:
    module = Pooled()
    rows, columns = (torch.export.Dim(name) for name in ("rows", "columns"))
    program = torch.export.export(
        module,
        (torch.zeros(2, 3, *EXAMPLE_SIZE),),
        dynamic_shapes=({2: 32 * rows, 3: 32 * columns},),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    remove_size_checks(program)
    for size in ((32, 32), (64, 320), (320, 32)):
        images = torch.rand(2, 3, *size)
        torch.testing.assert_close(program.module()(images), module(images))
