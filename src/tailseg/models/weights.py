"""Weights for the backbone: from torchvision, from a file, or those carried by tailseg."""

import argparse
import re
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from tailseg.models.config import ResNetConfig, SwinConfig
from tailseg.models.resnet import ResNet
from tailseg.models.swin import Swin
from tailseg.models.timm_backbone import TimmBackbone
from tailseg.models.timm_weights import describe_misfits, timm_weights

TINY_BACKBONE = Path(__file__).with_name("tiny_backbone.safetensors")
"""ResNet-18 of base width 32, trained by a script of this project."""
ALTERNATIVES = "weights can also be a file's path (.safetensors or .pth), 'tiny' (ResNet-18, base_width 32) or 'none'"
RESNET_UNUSED = re.compile(r"^fc\.")
"""Parts of a file that a ResNet has no use for: the classifier."""
SWIN_UNUSED = re.compile(r"^(head|norm)\.|\.relative_position_index$")
"""Parts of a file that a Swin Transformer has no use for: the classifier, the norm before it, an index it computes."""
OPTIONAL = re.compile(r"\.num_batches_tracked$|^norms\.")
"""Parts that a file may lack: counts of batches, and the norms on Swin's maps, which classifiers have not."""
PUBLISHED_NAMES = (
    (r"^relu\.(lambda|kappa)_param$", r"act.\1_param"),
    (r"\.unirect(\d)\.", r".act\1."),
    (r"\.se\.uniact\.", r".se.gate."),
    (r"\.se\.excitation\.0\.", r".se.fc1."),
    (r"\.se\.excitation\.2\.", r".se.fc2."),
    (r"\.lambda_param$", r".raw_lambda"),
    (r"\.kappa_param$", r".kappa"),
)
"""The names of the authors' SE-ResNets with AGLU and APA, and ours."""
ADDED = re.compile(r"^act\.|\.act\d\.|\.se\.")
"""What a ResNet of torchvision has no weights for; it keeps its first ones."""
RESNEXTS = {(50, 32, 4): "resnext50_32x4d", (101, 32, 8): "resnext101_32x8d", (101, 64, 4): "resnext101_64x4d"}
"""torchvision's names by depth, groups and width."""
SWINS = {(96, (2, 2, 6, 2)): "swin_t", (96, (2, 2, 18, 2)): "swin_s", (128, (2, 2, 18, 2)): "swin_b"}
"""torchvision's names by channels of the first stage and blocks of each."""


def load_backbone(backbone: nn.Module, weights: str) -> None:
    """Loads weights into a built-in backbone, in place.

    Args:
        backbone: a ResNet, a Swin Transformer or a network of timm, of any size.
        weights: ``imagenet`` downloads torchvision's IMAGENET1K_V1 weights into torch.hub's cache. For ResNet these are
            the weights of the published models; the published ResNeXt and Swin models started from others. ``tiny`` is
            the small ResNet that tailseg contains. ``pretrained`` downloads timm's weights for a network of timm.
            ``none`` changes nothing. Anything else is the path of a file with torchvision's names, or with timm's names
            for a network of timm. The classifier in the file is left out, and so is the last norm of Swin, which only
            the classifier needs. The authors' names of SE-ResNets with AGLU are read too. With ``imagenet`` and
            ``tiny``, AGLU and squeeze and excitation keep their initial weights.

    Raises:
        ValueError: the weights are not there, cannot be downloaded or read, or belong to another network; the message
            names what is missing or does not fit. Or the backbone is not a built-in one.
    """
    if not isinstance(backbone, ResNet | Swin | TimmBackbone):
        raise ValueError(
            f"load_backbone loads weights into the built-in backbones, got a {type(backbone).__name__}: load the "
            "weights of your own in the method load_weights of its settings"
        )
    if weights == "none":
        return
    if isinstance(backbone, TimmBackbone):
        _load(backbone, timm_weights(backbone, weights, read_weights), "timm's weights")
    elif weights == "imagenet":
        _load(backbone, _download_imagenet(backbone), "torchvision's ImageNet weights", added=True)
    elif weights == "tiny":
        _load(backbone, _read_tiny(backbone), "tailseg's tiny backbone", added=True)
    else:
        _load(backbone, read_weights(Path(weights)), weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a ``.pth`` (read with ``weights_only``).

    A ``.pth`` is a state dict, or has one under ``model`` (as torchvision's training scripts write it) or
    ``state_dict``; a prefix ``module.`` of all names is removed.

    Raises:
        ValueError: there is no such file, or it holds no state dict.
    """
    if not path.is_file():
        raise ValueError(f"backbone weights: no file {path}; use imagenet, tiny, none, or the path of a file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"backbone weights: {path} is not a whole safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of the training: plain data
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises pickle, zip, runtime and end-of-file errors alike
        raise ValueError(f"backbone weights: {path} cannot be read as a torch state dict ({error})") from error
    if isinstance(state, dict):
        state = next((state[key] for key in ("model", "state_dict") if isinstance(state.get(key), dict)), state)
        if state and all(str(name).startswith("module.") for name in state):
            state = {name.removeprefix("module."): value for name, value in state.items()}
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"backbone weights: {path} is not a state dict of tensors by name")
    return state


def _download_imagenet(backbone: ResNet | Swin) -> dict[str, Tensor]:
    # V1, not the newest: the published models start from it, and the recipes' learning rates belong to it
    entry: WeightsEnum = get_model_weights(_torchvision_name(backbone))["IMAGENET1K_V1"]
    try:
        return dict(entry.get_state_dict(check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        network = backbone.config.description
        raise ValueError(
            f"the ImageNet weights of {network} could not be downloaded from {entry.url} ({error}). Put that "
            f"file into {folder} by hand, or change model.backbone.weights: {ALTERNATIVES}. The tiny recipes need no "
            "download"
        ) from error


def _torchvision_name(backbone: ResNet | Swin) -> str:
    """Torchvision's name of the network with the backbone's layout."""
    config = backbone.config
    if isinstance(config, SwinConfig):
        name = SWINS.get((config.embed_dim, config.depths))
        if name is None or config.window != 7:
            raise ValueError(f"ImageNet weights exist for Swin-T, -S and -B, not for {config}; {ALTERNATIVES}")
        return name
    if config.base_width != 64:
        raise ValueError(
            f"ImageNet weights exist for base_width 64, the backbone has {config.base_width}; {ALTERNATIVES}"
        )
    if config.grouped is None:
        return f"resnet{config.depth}"
    key = (config.depth, config.grouped.groups, config.grouped.width)
    if key not in RESNEXTS:
        raise ValueError(
            f"torchvision has ImageNet weights for {', '.join(RESNEXTS.values())}, not for {config.description}; "
            f"{ALTERNATIVES}"
        )
    return RESNEXTS[key]


def _read_tiny(backbone: ResNet | Swin) -> dict[str, Tensor]:
    config = backbone.config
    if not isinstance(config, ResNetConfig) or (config.depth, config.base_width) != (18, 32):
        raise ValueError(
            f"the tiny backbone is a ResNet-18 of base_width 32, the config asks for {backbone.config.description}"
        )
    if not TINY_BACKBONE.is_file():
        raise ValueError(f"this installation lacks the tiny backbone ({TINY_BACKBONE}); use weights 'none' instead")
    return read_weights(TINY_BACKBONE)


def _load(
    backbone: ResNet | Swin | TimmBackbone, state: dict[str, Tensor], source: str, *, added: bool = False
) -> None:
    unused = SWIN_UNUSED if isinstance(backbone, Swin) else RESNET_UNUSED
    state = {name: value for name, value in state.items() if not unused.search(name)}
    if isinstance(backbone, ResNet):
        state = {find_our_name(name): value for name, value in state.items()}
    expected = backbone.state_dict()
    if added:
        expected = {name: value for name, value in expected.items() if not ADDED.search(name)}
    if problems := describe_misfits(state, expected, OPTIONAL):
        raise ValueError(f"{source} does not fit {backbone.config.description}: {problems}")
    backbone.load_state_dict(state, strict=False)


def find_our_name(name: str) -> str:
    """Finds our name of a ResNet's tensor, which the authors of AGLU or torchvision named."""
    for theirs, ours in PUBLISHED_NAMES:
        name = re.sub(theirs, ours, name)
    return name
