"""The backbone: torchvision's network, frozen and fixed as published."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tailseg.models import GroupedConfig, ResNetConfig
from tailseg.models.resnet import ResNet, conv_norm

SMALL = ResNetConfig(depth=18, base_width=8, weights="none")


def torchvision_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = network.get_submodule(name)(x)
        maps.append(x)
    return maps


def randomize_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_names_and_shapes_are_torchvisions(depth: int) -> None:
    theirs = torchvision.models.get_model(f"resnet{depth}").state_dict()
    ours = ResNet(ResNetConfig(depth=depth, weights="none")).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items() if not name.startswith("fc.")
    }


@pytest.mark.parametrize("depth", [18, 50])
def test_maps_are_torchvisions(depth: int) -> None:
    """Kernels with the norm folded in differ from torchvision's by rounding: 1e-4 of maps of order 1."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(f"resnet{depth}").eval()
    randomize_statistics(theirs)
    ours = ResNet(ResNetConfig(depth=depth, weights="none", frozen_stages=0)).eval()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, wanted in zip(ours(images), torchvision_maps(theirs, images), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("depth", "channels"), [(18, (8, 16, 32, 64)), (50, (32, 64, 128, 256))])
def test_base_width_scales_every_stage(depth: int, channels: tuple[int, ...]) -> None:
    network = ResNet(replace(SMALL, depth=depth))
    assert network.out_channels == channels
    maps = network(torch.zeros(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, width, 16 >> stage, 24 >> stage) for stage, width in enumerate(channels)
    ]


@pytest.mark.parametrize("frozen", [0, 1, 2, 4])
def test_frozen_stages_take_no_gradient(frozen: int) -> None:
    network = ResNet(replace(SMALL, frozen_stages=frozen))
    still = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    stem = {"conv1", "bn1"} if frozen else set()
    assert still == stem | {f"layer{stage}" for stage in range(1, frozen + 1)}


def test_fixed_norms_keep_their_statistics_and_learn_scale_and_shift() -> None:
    network = ResNet(replace(SMALL, frozen_stages=1)).train()
    before = network.bn1.running_mean.clone(), network.layer4[0].bn1.running_mean.clone()
    sum(m.sum() for m in network(torch.randn(2, 3, 64, 64))).backward()
    assert torch.equal(before[0], network.bn1.running_mean)
    assert torch.equal(before[1], network.layer4[0].bn1.running_mean)
    assert network.bn1.weight.grad is None
    assert network.layer4[0].bn1.weight.grad is not None
    assert network.layer4[0].bn1.bias.grad is not None


def test_free_norms_follow_the_batch_except_where_frozen() -> None:
    network = ResNet(replace(SMALL, fixed_norm=False, frozen_stages=1)).train()
    before = network.bn1.running_mean.clone(), network.layer4[0].bn1.running_mean.clone()
    network(torch.randn(2, 3, 64, 64))
    assert torch.equal(before[0], network.bn1.running_mean)
    assert not torch.equal(before[1], network.layer4[0].bn1.running_mean)
    assert not network.bn1.training
    assert network.layer2[0].bn1.training
    assert not network.eval().layer2[0].bn1.training


def test_folded_norm_equals_conv_then_norm_with_gradients() -> None:
    """In float64, where folding only changes the order of roundings of 1e-16."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False).double(), nn.BatchNorm2d(5).double().eval()
    randomize_statistics(norm)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64, requires_grad=True)
    inputs = (x, conv.weight, norm.weight, norm.bias)
    folded, plain = conv_norm(x, conv, norm), norm(conv(x))
    torch.testing.assert_close(folded, plain)
    weight = torch.randn_like(plain)
    for ours, theirs in zip(
        torch.autograd.grad((folded * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("frozen", [-1, 5])
def test_stages_that_do_not_exist_cannot_be_frozen(frozen: int) -> None:
    with pytest.raises(ValueError, match=rf"model\.backbone\.frozen_stages is in \[0, 4\], got {frozen}"):
        ResNet(replace(SMALL, frozen_stages=frozen))


@pytest.mark.parametrize(
    ("name", "depth", "groups", "width"),
    [("resnext50_32x4d", 50, 32, 4), ("resnext101_32x8d", 101, 32, 8), ("resnext101_64x4d", 101, 64, 4)],
)
def test_resnext_names_and_shapes_are_torchvisions(name: str, depth: int, groups: int, width: int) -> None:
    config = ResNetConfig(depth=depth, grouped=GroupedConfig(groups, width), weights="none")
    with torch.device("meta"):
        theirs, ours = torchvision.models.get_model(name).state_dict(), ResNet(config).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items() if not name.startswith("fc.")
    }


def test_resnext_maps_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model("resnext50_32x4d").eval()
    randomize_statistics(theirs)
    ours = ResNet(ResNetConfig(depth=50, grouped=GroupedConfig(32, 4), weights="none", frozen_stages=0)).eval()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, wanted in zip(ours(images), torchvision_maps(theirs, images), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_groups_are_as_wide_as_the_published_ones_at_any_base_width() -> None:
    """Stage s: groups * width * 2^s channels between, whatever the stem: mmdetection's rule."""
    network = ResNet(replace(SMALL, depth=50, grouped=GroupedConfig(4, 4)))
    convs = [network.get_submodule(f"layer{stage + 1}.0.conv2") for stage in range(4)]
    assert [tuple(conv.weight.shape) for conv in convs] == [(16 << s, 4 << s, 3, 3) for s in range(4)]
    assert network.out_channels == (32, 64, 128, 256)


def test_resnext_needs_bottlenecks_and_groups() -> None:
    with pytest.raises(ValueError, match="depth 50 or more, got 18"):
        ResNet(replace(SMALL, grouped=GroupedConfig()))
    with pytest.raises(ValueError, match=r"grouped\.groups is 1 or more, got 0"):
        GroupedConfig(groups=0)


def test_checkpointed_blocks_have_the_same_gradients() -> None:
    torch.manual_seed(0)
    image, found = torch.randn(1, 3, 64, 64), []
    for checkpoint_blocks in (False, True):
        torch.manual_seed(1)
        model = ResNet(ResNetConfig(depth=50, base_width=8, checkpoint_blocks=checkpoint_blocks))
        loss = torch.stack([level.square().mean() for level in model(image)]).sum()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        found.append((loss, *torch.autograd.grad(loss, trained)))
    torch.testing.assert_close(found[1], found[0])


def test_norms_that_learn_do_not_go_with_checkpointed_blocks() -> None:
    with pytest.raises(ValueError, match="would count each image twice"):
        ResNet(ResNetConfig(depth=18, base_width=8, fixed_norm=False, checkpoint_blocks=True))
