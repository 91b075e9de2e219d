"""Weights for the backbone: from torchvision, from a file, or those carried by tailseg."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum, get_model_weights

from tailseg.models.resnet import ResNet

TINY_BACKBONE = Path(__file__).with_name("tiny_backbone.safetensors")
"""ResNet-18 of base width 32, trained by a script of this project."""
ALTERNATIVES = "weights can also be a file's path (.safetensors or .pth), 'tiny' (ResNet-18, base_width 32) or 'none'"


def load_backbone(backbone: ResNet, weights: str) -> None:
    """Loads weights into a backbone, in place.

    Args:
        backbone: a ResNet of any size.
        weights: ``imagenet`` downloads torchvision's IMAGENET1K_V1 weights (those of the published
            models) into torch.hub's cache; ``tiny`` is the small backbone carried by tailseg; ``none`` changes
            nothing; anything else is a file's path, in torchvision's names (a classifier ``fc.*`` is left out).

    Raises:
        ValueError: the weights are not there, cannot be downloaded or read, or are those of another network; the
            message names what is missing or does not fit.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        _load(backbone, _imagenet(backbone), "torchvision's ImageNet weights")
    elif weights == "tiny":
        _load(backbone, _tiny(backbone), "tailseg's tiny backbone")
    else:
        _load(backbone, read_weights(Path(weights)), weights)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a ``.pth`` state dict (read with ``weights_only``).

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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises pickle, zip, runtime and end-of-file errors alike
        raise ValueError(f"backbone weights: {path} cannot be read as a torch state dict ({error})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"backbone weights: {path} is not a state dict of tensors by name")
    return state


def _imagenet(backbone: ResNet) -> dict[str, Tensor]:
    depth, width = backbone.config.depth, backbone.config.base_width
    if width != 64:
        raise ValueError(f"ImageNet weights exist for base_width 64, the backbone has {width}; {ALTERNATIVES}")
    # V1, not the newest: the published models start from it, and the recipes' learning rates belong to it
    entry: WeightsEnum = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"]
    try:
        return dict(entry.get_state_dict(check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"the ImageNet weights of ResNet-{depth} could not be downloaded from {entry.url} ({error}). Put that "
            f"file into {folder} by hand, or change model.backbone.weights: {ALTERNATIVES}. The tiny recipes need no "
            f"download"
        ) from error


def _tiny(backbone: ResNet) -> dict[str, Tensor]:
    depth, width = backbone.config.depth, backbone.config.base_width
    if (depth, width) != (18, 32):
        raise ValueError(f"the tiny backbone has depth 18 and base_width 32, the config has {depth} and {width}")
    if not TINY_BACKBONE.is_file():
        raise ValueError(f"this installation lacks the tiny backbone ({TINY_BACKBONE}); use weights 'none' instead")
    return read_weights(TINY_BACKBONE)


def _load(backbone: ResNet, state: dict[str, Tensor], source: str) -> None:
    expected = backbone.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    # counts of batches are bookkeeping that old files and stripped files lack
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {list(state[name].shape)}, expected {list(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    problems = [
        f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if problems:
        config = backbone.config
        raise ValueError(
            f"{source} does not fit a ResNet-{config.depth} of base_width {config.base_width}: {'; '.join(problems)}"
        )
    backbone.load_state_dict(state, strict=False)
