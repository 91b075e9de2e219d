"""Weights of timm's networks, from timm or from a file, and the mean and deviation that they were trained with."""

import logging
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tailseg.models.config import TimmConfig
from tailseg.models.timm_backbone import TimmBackbone, create, get_size_setting, import_timm

COMPUTED = re.compile(r"\.num_batches_tracked$|(^|\.)(relative_position_index|relative_coords_table|attn_mask)$")
"""Parts that a file may have or lack: counts of batches, and tables that a network computes."""


def with_own_normalization(backbone: TimmConfig) -> TimmConfig:
    """The settings completed with the mean and standard deviation that the weights were trained with, if none are set.

    timm states them for the weights of each name (``pretrained_cfg``). A file of weights is taken to have those of the
    name. Without weights the settings stay as they are, and ImageNet's values are used.

    Raises:
        ValueError: timm is not installed, or does not know the network.
    """
    if backbone.mean is not None or backbone.weights == "none":
        return backbone
    timm = import_timm(backbone.name)
    with torch.device("meta"):
        stated: dict[str, Any] = timm.create_model(backbone.name, pretrained=False).pretrained_cfg
    mean, std = (_to_channels(stated[name]) for name in ("mean", "std"))
    return replace(backbone, mean=mean, std=std)


def timm_weights(backbone: TimmBackbone, weights: str, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The backbone's weights by its own names.

    Args:
        backbone: of any network.
        weights: ``pretrained`` for those that timm offers, or a file's path.
        read: makes tensors by timm's names of the file.

    Returns:
        Tensors by name, as in the backbone's ``state_dict``.

    Raises:
        ValueError: timm has none or cannot get them, or the file is not there or is another network's.
    """
    config, given = backbone.config, {}
    if weights != "pretrained":
        given = _overlay(_from_file(config, weights, read), config)
    try:
        with _quiet():
            if weights == "pretrained" and config.image_side is not None:
                whole = create(config.name, pretrained=True, features_only=False)
                given = _overlay(whole.state_dict(), config)
            network = create(config.name, pretrained=True, **given, **get_size_setting(config))
    except Exception as error:  # hubs raise their HTTP client's errors
        if weights != "pretrained":
            raise ValueError(f"{weights} does not fit timm's {config.name}: {error}") from error
        raise ValueError(
            f"timm could not get the weights of {config.name} ({error}). {_describe_download(config)}choose a network "
            "with weights (timm.list_pretrained()), or set model.backbone.weights to 'none'"
        ) from error
    return {f"network.{key}": value for key, value in network.state_dict().items()}


def _describe_download(config: TimmConfig) -> str:
    """Says where the weights of a network are, for a machine that cannot download them; the message goes on."""
    settings = import_timm(config.name).get_pretrained_cfg(config.name)  # None: timm does not know the name
    if not (repository := getattr(settings, "hf_hub_id", None)):
        return "Name a file of them (--model.backbone.weights FILE), "
    file = settings.hf_hub_filename or "model.safetensors"
    return (
        f"Download {file} from https://huggingface.co/{repository} on another machine, and name it: "
        f"--model.backbone.weights {file}. Or "
    )


def _overlay(state: dict[str, Tensor], config: TimmConfig) -> dict[str, Any]:
    """timm's setting for weights that are in memory; tables of positions are resampled for images of another size."""
    with torch.device("meta"):
        wanted = create(config.name, pretrained=False, features_only=False, **get_size_setting(config)).state_dict()
    tables = {
        name: _resampled(value, wanted[name].shape[1])
        for name, value in state.items()
        if name.endswith("pos_embed") and value.ndim == 3 and name in wanted and value.shape != wanted[name].shape
    }
    return {"pretrained_cfg_overlay": {"state_dict": {**state, **tables}, "custom_load": False}}


def _resampled(table: Float[Tensor, "1 P C"], places: int) -> Float[Tensor, "1 {places} C"]:
    """A table of the positions of a square, row by row, for a square of another number of places."""
    grid = table.float().unflatten(1, (isqrt(table.shape[1]), -1)).permute(0, 3, 1, 2)
    side = isqrt(places)
    return F.interpolate(grid, (side, side), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)


def _from_file(config: TimmConfig, weights: str, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """A file's tensors without the classifier, if they are those of the network."""
    if not Path(weights).is_file():
        raise ValueError(
            f"the weights of timm's {config.name} are 'pretrained', 'none' or the path of a file, got {weights!r}, "
            "which is no file"
        )
    with torch.device("meta"):
        whole: Any = create(config.name, pretrained=False, features_only=False)
    names = whole.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    expected = {name: value for name, value in whole.state_dict().items() if not name.startswith(heads)}
    state = {name: value for name, value in read(Path(weights)).items() if not name.startswith(heads)}
    if problems := describe_misfits({k: v for k, v in state.items() if not COMPUTED.search(k)}, expected, COMPUTED):
        raise ValueError(f"{weights} does not fit timm's {config.name}: {problems}")
    return state


def describe_misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: re.Pattern[str]) -> str:
    """Which tensors are missing, which are not expected, and which have another shape; empty if all fit.

    Args:
        state: tensors by name.
        expected: those that there should be.
        optional: names that may be missing.

    Returns:
        The differences in words, at most five names of each kind.
    """
    missing = [name for name in expected if name not in state and not optional.search(name)]
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
    return "; ".join(problems)


@contextmanager
def _quiet() -> Generator[None]:
    """Within, timm does not warn of the parts of a classifier that a backbone leaves out."""
    log = logging.getLogger("timm.models._builder")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _to_channels(values: Any) -> tuple[float, float, float]:  # noqa: ANN401 (timm has no types)
    r, g, b = (float(value) for value in values)
    return r, g, b
