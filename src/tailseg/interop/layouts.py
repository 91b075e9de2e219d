"""Which project wrote a state dict, by its names."""

import re
from collections.abc import Iterable
from typing import Final, Literal

from tailseg.interop.rules import shorten
from tailseg.training.checkpoint import CheckpointError

Layout = Literal["mmdet", "detectron2", "torchvision"]
"""The layouts that tailseg reads."""
READ: Final = "mmdetection, detectron2 (Faster, Mask and Cascade R-CNN with FPN) or torchvision (Faster and Mask R-CNN)"

_LAYOUTS: Final[dict[Layout, str]] = {
    "mmdet": r"(neck|rpn_head|roi_head)\.",
    "detectron2": r"backbone\.bottom_up\.|proposal_generator\.|conv_rpn_|_\[mask\]_|fpn_inner_",
    "torchvision": r"backbone\.body\.|roi_heads\.",
}
"""The beginnings of names by layout; the first layout that one of a file's names begins with is the file's."""
_OTHERS: Final = {
    "tailseg, but not its recipe and classes": r"fpn\.(lateral|output)\.|rpn\.objectness\.|box_(head|cascade)\.",
    "detectron2, for another kind of network": r"(sem_seg_head|backbone\.(net|res\d|stem))\.",
    "detectron2, of a backbone alone": r"res\d(\.\d+\.conv|_\d+_branch)|stem\.conv1\.",
    "ultralytics": r"model\.(model\.)?\d+\.",
    "transformers": r"(\w+\.)*(pixel_level_module|transformer_module|conv_encoder|embeddings|(en|de)coder\.layers?)\.",
    "timm or torchvision, of a backbone alone": r"(layer1|features|blocks|stages|patch_embed|conv_stem|stem)\.",
}


def find_layout(names: Iterable[str]) -> Layout | None:
    """Returns the layout of a state dict by its names; None if tailseg does not read it."""
    names = list(names)
    return next((layout for layout, pattern in _LAYOUTS.items() if _has(names, pattern)), None)


def describe_names(names: Iterable[str]) -> str:
    """Names the project of a state dict that tailseg does not read, for an error: ``the names of ultralytics``."""
    names = list(names)
    project = next((project for project, pattern in _OTHERS.items() if _has(names, pattern)), None)
    return f"the names of {project}" if project else "names of no project that tailseg knows"


def detect_layout(names: Iterable[str], source: str) -> Layout:
    """Returns the layout of a state dict by its names.

    Args:
        names: of the tensors.
        source: what the error calls the file.

    Returns:
        The layout.

    Raises:
        CheckpointError: tailseg does not read such a file. The message says which project the names are from.
    """
    names = list(names)
    layout = find_layout(names)
    if layout is None:
        raise CheckpointError(
            f"{source} has {describe_names(names)} ({shorten(names)}). tailseg reads checkpoints of {READ}"
        )
    return layout


def _has(names: list[str], pattern: str) -> bool:
    return any(re.match(pattern, name) for name in names)
