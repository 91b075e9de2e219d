"""ResNet in torchvision's weight layout.

Shapes: B images; stage s of 4 has stride ``4 * 2**s`` and ``base_width * 2**s`` channels, times 4 with bottlenecks.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tailseg.models.activations import APA, build_activation
from tailseg.models.config import ResNetConfig, SEConfig

STAGE_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STRIDES = (4, 8, 16, 32)
"""Pixels of the image for one cell of C2, C3, C4, C5."""


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.Identity) -> Tensor:
    """``norm(conv(x))``, in one convolution while the norm uses its stored statistics.

    A fixed norm is the affine map ``y * scale + shift``, folded here into the kernel: one pass over the features less
    in the forward and in the backward, and one map less to keep. Gradients reach ``norm.weight`` and ``norm.bias``.

    Args:
        x: feature maps.
        conv: a convolution without bias.
        norm: its batch norm; an identity after `tailseg.models.optimize.fold_norms`.

    Returns:
        The normalized feature maps.
    """
    if isinstance(norm, nn.Identity) or norm.training:
        return norm(conv(x))
    return F.conv2d(x, *fold_norm(conv, norm), conv.stride, conv.padding, groups=conv.groups)


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Float[Tensor, "C_out C_in k k"], Float[Tensor, " C_out"]]:
    """Kernel and bias of one convolution that equals ``norm(conv(x))``; ``conv`` has no bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return conv.weight * scale.view(-1, 1, 1, 1), torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a gate that depends on the means of all channels.

    With m the means over H and W, and W1, W2 without biases:

        gate = sigmoid(W2 relu(W1 m)),   or   APA(dropout(W2 relu(W1 LayerNorm(m))))

    Args:
        channels: C.
        config: the gate, and how many hidden channels there are.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks"; Alexandridis et al. 2024, "Adaptive Parametric
    Activation".
    """

    def __init__(self, channels: int, config: SEConfig) -> None:
        super().__init__()
        hidden = max(channels // config.reduction, 1)
        self.adaptive = config.gate == "apa"
        self.fc1 = nn.Linear(channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, channels, bias=False)
        if self.adaptive:
            self.norm = nn.LayerNorm(channels)
            self.dropout = nn.Dropout(config.dropout)
            self.gate = APA(positive="clamp")

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The gated maps."""
        e = self.excitation(x)
        gate = self.gate(self.dropout(e)) if self.adaptive else e.sigmoid()
        return x * gate[:, :, None, None]

    def excitation(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C"]:
        """The gate's input, before dropout."""
        m = x.mean((2, 3))
        if self.adaptive:
            m = self.norm(m)
        return self.fc2(self.fc1(m).relu())


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels: C_in.
        width: C_out.
        stride: of the block.
        config: the activation, and squeeze and excitation after the second batch norm.
    """

    def __init__(self, in_channels: int, width: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.act1, self.act2 = (build_activation(config.activation) for _ in range(2))
        self.se = None if config.se is None else SqueezeExcitation(width, config.se)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        out = self.act1(conv_norm(x, self.conv1, self.bn1))
        out = conv_norm(out, self.conv2, self.bn2)
        if self.se is not None:
            out = self.se(out)
        return self.act2(out.add_(_project(x, self.downsample)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision) and 1x1 convolutions and a shortcut.

    Args:
        in_channels: C_in.
        width: channels of the 3x3 convolution.
        stride: of the block.
        out_channels: C_out.
        groups: of the 3x3 convolution.
        config: which convolution has the stride, the activation, and squeeze and excitation after the third norm.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, *, out_channels: int, groups: int, config: ResNetConfig
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.act1, self.act2, self.act3 = (build_activation(config.activation) for _ in range(3))
        self.se = None if config.se is None else SqueezeExcitation(out_channels, config.se)
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out H_out W_out"]:
        out = self.act1(conv_norm(x, self.conv1, self.bn1))
        out = self.act2(conv_norm(out, self.conv2, self.bn2))
        out = conv_norm(out, self.conv3, self.bn3)
        if self.se is not None:
            out = self.se(out)
        return self.act3(out.add_(_project(x, self.downsample)))


def _block(config: ResNetConfig, in_channels: int, stage: int, stride: int) -> nn.Module:
    """A block of a stage, counted from 0.

    A bottleneck's 3x3 convolution has ``base_width * 2^stage`` channels, in ResNeXt ``groups * width * 2^stage``;
    four times ``base_width * 2^stage`` leave it in both.
    """
    width = config.base_width * 2**stage
    if config.depth < 50:
        return BasicBlock(in_channels, width, stride, config)
    groups = 1 if config.grouped is None else config.grouped.groups
    return Bottleneck(
        in_channels,
        width if config.grouped is None else groups * config.grouped.width * 2**stage,
        stride,
        out_channels=4 * width,
        groups=groups,
        config=config,
    )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _project(x: Tensor, shortcut: nn.Sequential | None) -> Tensor:
    if shortcut is None:
        return x
    conv, norm = shortcut
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d | nn.Identity)
    return conv_norm(x, conv, norm)


class ResNet(nn.Module):
    """ResNet-18, -50, -101 or -152, ResNeXt or SE-ResNet, without its classifier; parameter names are torchvision's.

    Frozen stages take no gradient and keep their batch-norm statistics; with ``fixed_norm`` every stage keeps them,
    while scale and shift are trained. The stem's activation is frozen with the stem. Random initialization (He, fan
    out); `tailseg.models.load_backbone` loads weights.

    Attributes:
        out_channels: channels of C2, C3, C4, C5.

    Raises:
        ValueError: no such depth or stage, or groups in a network without bottlenecks.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; Xie et al. 2017, "Aggregated Residual
    Transformations for Deep Neural Networks".
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        if config.depth not in STAGE_BLOCKS:
            raise ValueError(f"backbone depth is one of {sorted(STAGE_BLOCKS)}, got {config.depth}")
        if not 0 <= config.frozen_stages <= 4:
            raise ValueError(f"frozen_stages is 0 .. 4, got {config.frozen_stages}")
        if config.grouped is not None and config.depth < 50:
            raise ValueError(f"ResNeXt needs bottlenecks: depth 50 or more, got {config.depth}; or set grouped=None")
        if config.checkpoint_blocks and not config.fixed_norm:
            raise ValueError(
                "checkpoint_blocks computes blocks twice, and batch norms that learn would count each image twice: "
                "set fixed_norm=True or checkpoint_blocks=False"
            )
        self.config = config
        width = config.base_width
        self.out_channels = tuple(width * 2**stage * (1 if config.depth < 50 else 4) for stage in range(4))
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = build_activation(config.activation)
        channels = width
        for stage, num_blocks in enumerate(STAGE_BLOCKS[config.depth]):
            layers = []
            for i in range(num_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(_block(config, channels, stage, stride))
                channels = self.out_channels[stage]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.get_frozen_modules():
            module.requires_grad_(requires_grad=False)
        self.train()

    def get_stages(self) -> list[nn.Module]:
        """The four stages, ``layer1`` to ``layer4``."""
        return [self.get_submodule(f"layer{s}") for s in (1, 2, 3, 4)]

    def get_frozen_modules(self) -> list[nn.Module]:
        """The stem and the stages that are not trained."""
        if self.config.frozen_stages == 0:
            return []
        return [self.conv1, self.bn1, self.act, *self.get_stages()[: self.config.frozen_stages]]

    def train(self, mode: bool = True) -> "ResNet":
        """Training mode, except for batch norms whose statistics are fixed or frozen, and frozen dropout."""
        super().train(mode)
        for module in self.get_frozen_modules():
            module.eval()
        if self.config.fixed_norm:
            for norm in self.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """C2, C3, C4, C5: maps of stride 4, 8, 16, 32."""
        x = self.act(conv_norm(images, self.conv1, self.bn1))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for stage in self.get_stages():
            for block in stage.children():
                if self.config.checkpoint_blocks and torch.is_grad_enabled():
                    has_dropout = self.config.se is not None and self.config.se.gate == "apa"
                    x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=has_dropout)
                else:
                    x = block(x)
            maps.append(x)
        return maps
