"""Writes and reads a traced detector in torch's own format, ``.pt2``."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from tailseg.export.trace import quiet
from tailseg.files import write_atomically

SETTINGS = "tailseg.json"
"""The file with the settings inside the archive."""


def write_torch(program: ExportedProgram, file: Path, settings: dict[str, Any]) -> None:
    """Writes the file.

    `torch.export.load` reads it where `tailseg::suppress` and torchvision's operations are defined: after
    ``import detect`` (the runner), which needs torch and torchvision.

    Args:
        program: the detector, see `tailseg.export.trace.trace`.
        file: the file to write.
        settings: what the file says about itself, see `tailseg.export.settings.describe_model`.
    """
    with quiet(), write_atomically(file) as path, path.open("wb") as opened:
        torch.export.save(program, opened, extra_files={SETTINGS: json.dumps(settings)})
