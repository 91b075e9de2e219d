"""Any convolutional or hierarchical network of timm as a backbone, by name.

Shapes: B images.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.models.config import TimmConfig
from tailseg.models.resnet import STRIDES

PROBE = (256, 320)
"""Least height and width of the image that a new network is tried on; not square, to tell the sides apart."""
BEYOND = (32, 96)
"""How much more than a network's own images the probe's sides measure: tables of positions must not end before."""


class TimmBackbone(nn.Module):
    """A network of timm without its classifier: its last map of each stride 4, 8, 16 and 32.

    Stage n, for ``frozen_stages``, is what the map of stride 2^(n + 1) is computed from and the ones before are not:
    the first one contains the stem. Frozen stages take no gradient and are in evaluation mode. Random initialization;
    `tailseg.models.load_backbone` loads weights.

    Attributes:
        out_channels: channels of C2, C3, C4, C5.

    Raises:
        ValueError: timm is not installed, it knows no network of that name, or the network has not the four maps,
            takes images of one size only and ``image_side`` is None, or has no stages that can be frozen.
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        self.network = create(config.name, pretrained=False, **get_size_setting(config))
        _require_strides(self.network, config.name)
        size = _probe_size(self.network, config)
        maps = _probe(self.network, config, size)
        self.levels, self.out_channels, self.channels_last = _levels(maps, config.name, size)
        if config.frozen_stages:
            _freeze(self.network, [maps[level] for level in self.levels], config)
        self.train()

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Training mode, except for batch norms whose statistics are fixed, and for frozen stages."""
        super().train(mode)
        for module in self.network.modules():  # not self, whose eval() calls this again
            fixed = self.config.fixed_norm and isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001
            if fixed or _is_frozen(module):
                module.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """C2, C3, C4, C5: maps of stride 4, 8, 16, 32.

        Raises:
            ValueError: the images are larger than ``image_side``.
        """
        height, width = images.shape[2:]
        if self.config.image_side is not None:
            images = _padded(images, self.config.image_side)
        maps = self.network(images)
        maps = [maps[level] for level in self.levels]
        maps = [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps
        if self.config.image_side is None:
            return maps
        return [m[:, :, : height // stride, : width // stride] for m, stride in zip(maps, STRIDES, strict=True)]

    def no_weight_decay(self) -> set[str]:
        """The names of the parameters that timm spares weight decay: tables and embeddings of positions."""
        with torch.device("meta"):
            whole = create(self.config.name, pretrained=False, features_only=False)
        spared = getattr(whole, "no_weight_decay", set)()
        # timm makes the parts of a network children of one module, or wraps the network as `model`
        names = {written for name in spared for written in (name, f"model.{name}", name.replace(".", "_", 1))}
        return {f"network.{name}" for name, _ in self.network.named_parameters() if name in names}


def create(name: str, *, pretrained: bool, features_only: bool = True, **settings: Any) -> nn.Module:  # noqa: ANN401
    """Makes a network of timm that returns a list of feature maps; ``pretrained`` downloads its weights.

    Some networks, such as Swin, take images of any size only with a setting. This function sets it.

    Args:
        name: the name of the network in timm.
        pretrained: load the weights of that name, or the weights that ``settings`` contain.
        features_only: False makes the whole network, with its classifier.
        **settings: other arguments of ``timm.create_model``.

    Returns:
        The network.

    Raises:
        ValueError: timm is not installed, or does not offer such a network.
    """
    timm = import_timm(name)
    for any_size in ({"strict_img_size": False}, {}):
        try:
            return timm.create_model(name, pretrained=pretrained, features_only=features_only, **any_size, **settings)
        except TypeError as error:
            if "strict_img_size" not in str(error):
                raise ValueError(
                    f"timm's {name} does not take {settings} ({error}): model.backbone.image_side is for networks that "
                    "take images of one size"
                ) from error
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
            raise ValueError(
                f"timm's {name} cannot serve as a backbone ({error}): take one with features_only"
            ) from error
    raise AssertionError("the second attempt names no size")


def import_timm(name: str) -> Any:  # noqa: ANN401 (timm has no types)
    """timm, which knows the network ``name``.

    Raises:
        ValueError: it is not installed, or does not know it.
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
    return timm


def get_size_setting(config: TimmConfig) -> dict[str, Any]:
    """timm's setting for the side of the images, if the network is to have one."""
    return {} if config.image_side is None else {"img_size": config.image_side}


def _padded(images: Tensor, side: int) -> Tensor:
    height, width = images.shape[2:]
    if max(height, width) > side:
        raise ValueError(
            f"images of {height} x {width} (sides are multiples of 32) do not fit into the square of "
            f"model.backbone.image_side {side}: raise that, or lower data.max_long_side and data.test_short_side"
        )
    return F.pad(images, (0, side - width, 0, side - height))


def _require_strides(network: nn.Module, name: str) -> None:
    """Refuses networks that say themselves that they have not the four maps, such as vision transformers."""
    info: Any = getattr(network, "feature_info", None)
    strides = sorted(set(info.reduction())) if info is not None else STRIDES
    if not set(STRIDES) <= set(strides):
        raise ValueError(
            f"timm's {name} has not the maps of strides 4, 8, 16 and 32 that the pyramid is built on, but those of "
            f"{', '.join(map(str, strides))}"
        )


def _probe(network: nn.Module, config: TimmConfig, size: tuple[int, int]) -> list[Tensor]:
    """The maps of an image of that height and width."""
    height, width = size
    try:
        # with gradient, so that the maps know what they are computed from
        return list(network.eval()(torch.zeros(1, 3, height, width)))
    except (AssertionError, RuntimeError, IndexError, ValueError) as error:
        raise ValueError(
            f"timm's {config.name} does not take an image of {height} x {width} ({error}). {_remedy(config)}"
        ) from error


def _probe_size(network: nn.Module, config: TimmConfig) -> tuple[int, int]:
    """Height and width that are larger than those of the images that the network was trained with."""
    if config.image_side is not None:
        return config.image_side, config.image_side
    own = (getattr(network, "pretrained_cfg", None) or {}).get("input_size") or (3, *PROBE)
    height, width = (-(-side // 32) * 32 + more for side, more in zip(own[1:], BEYOND, strict=True))
    return max(height, PROBE[0]), max(width, PROBE[1])


def _remedy(config: TimmConfig) -> str:
    other = "take a network for images of any size"
    if config.image_side is not None:
        return f"Give model.backbone.image_side another value, or {other}"
    side = PROBE[1]
    try:
        create(config.name, pretrained=False, img_size=side).eval()(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError, IndexError, ValueError):
        return f"A detector needs a network for images of any size: {other}"
    return (
        "It takes images of one size: set model.backbone.image_side, such as 1344, to which all images are padded, or "
        f"{other}"
    )


def _levels(maps: Sequence[Tensor], name: str, size: tuple[int, int]) -> tuple[list[int], tuple[int, ...], bool]:
    """Which maps of `_probe` have strides 4, 8, 16, 32, their channels, and whether channels come last."""
    height, width = size
    shapes = [tuple(m.shape[1:]) for m in maps]
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


def _freeze(network: nn.Module, maps: Sequence[Tensor], config: TimmConfig) -> None:
    """Takes the gradient from all parameters that the first ``frozen_stages`` of the four maps are computed from."""
    frozen = {id(leaf) for level in maps[: config.frozen_stages] for leaf in _leaves(level)}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) not in frozen)
    if config.frozen_stages < len(STRIDES) and _is_frozen(network):
        raise ValueError(
            f"timm's {config.name} computes every map from all of its parameters: with frozen_stages "
            f"{config.frozen_stages} none would be trained. Set model.backbone.frozen_stages to 0"
        )


def _leaves(tensor: Tensor) -> list[Tensor]:
    """The parameters that a tensor is computed from."""
    seen, left, leaves = set(), [tensor.grad_fn], []
    while left:
        node: Any = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [before for before, _ in node.next_functions]
        if hasattr(node, "variable"):
            leaves.append(node.variable)
    return leaves


def _is_frozen(module: nn.Module) -> bool:
    """Whether it has parameters, and trains none of them."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
