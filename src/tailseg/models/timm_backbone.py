"""Any convolutional or hierarchical network of timm as a backbone, by name.

Shapes: B images.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tailseg.models.config import TimmConfig
from tailseg.models.resnet import STRIDES

PROBE = (64, 96)
"""Height and width of the image that a new network is tried on: not square, so that sides are not mistaken."""


class TimmBackbone(nn.Module):
    """A network of timm without its classifier: its last map of each stride 4, 8, 16 and 32.

    Starts at random; see ``tailseg.models.weights.load_backbone``.

    Attributes:
        out_channels: channels of C2, C3, C4, C5.

    Raises:
        ValueError: timm is not installed, it knows no network of that name, or the network has not the four maps or
            takes images of one size only (vision transformers).
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        self.network = create(config.name, pretrained=False)
        self.levels, self.out_channels, self.channels_last = _probe(self.network, config.name)
        self.train()

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Training mode, except for batch norms whose statistics are fixed."""
        super().train(mode)
        if self.config.fixed_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 (timm's derive from it)
                    module.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """C2, C3, C4, C5: maps of stride 4, 8, 16, 32."""
        maps = self.network(images)
        maps = [maps[level] for level in self.levels]
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


def create(name: str, *, pretrained: bool) -> nn.Module:
    """timm's network that returns a list of maps; ``pretrained`` downloads its weights.

    Raises:
        ValueError: timm is not installed, or does not offer such a network.
    """
    try:
        import timm
    except ImportError:
        raise ValueError(
            f"the backbone {name!r} is timm's, which is not installed: pip install 'tailseg[timm]' or pip install timm"
        ) from None
    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(f"timm {timm.__version__} has no network {name!r}; near it: {', '.join(close) or 'none'}")
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ValueError(f"timm's {name} cannot serve as a backbone ({error}): take one with features_only") from error


@torch.no_grad()
def _probe(network: nn.Module, name: str) -> tuple[list[int], tuple[int, ...], bool]:
    """Which maps have strides 4, 8, 16, 32, their channels, and whether channels come last."""
    height, width = PROBE
    try:
        shapes = [tuple(m.shape[1:]) for m in network.eval()(torch.zeros(1, 3, height, width))]
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"timm's {name} does not take an image of {height} x {width} ({error}): a detector needs a network for "
            "images of any size"
        ) from error
    for channels_last in (False, True):
        sides = [shape[:2] if channels_last else shape[1:] for shape in shapes]
        wanted = [(height // stride, width // stride) for stride in STRIDES]
        if all(side in sides for side in wanted):
            levels = [len(sides) - 1 - sides[::-1].index(side) for side in wanted]
            return levels, tuple(shapes[level][-1 if channels_last else 0] for level in levels), channels_last
    raise ValueError(
        f"timm's {name} has not the maps of strides 4, 8, 16 and 32 that the pyramid is built on: for an image of "
        f"{height} x {width} it returns {shapes}"
    )
