"""`--engine`: the exported file of a run in place of the run, in `tailseg predict` and `tailseg serve`."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from tailseg.cli.common import UsageError
from tailseg.export.formats import FILES

if TYPE_CHECKING:
    from tailseg.cli.predict import Predict
    from tailseg.cli.serve import Serve

EngineName = Literal["torch", "onnx", "openvino"]
"""What computes the network."""

ENGINES: Final = {Path(FILES[name]).suffix: name for name in ("onnx", "openvino")}
"""The engine of an exported file, by its ending."""
TORCH_OPTIONS: Final = ("checkpoint", "device", "calibrated", "precision", "compile", "recipe", "module")
"""Options that an exported file does not take: it has its own precision and calibration."""


def find_exported(options: "Predict | Serve") -> Path | None:
    """Finds the exported file that --engine asks for; None for torch.

    Args:
        options: the options of the command.

    Returns:
        The file.

    Raises:
        UsageError: there is none, its ending is that of another engine, an option is for torch, or a file of another
            engine is named for torch.
    """
    if options.engine == "torch":
        if engine := ENGINES.get(options.run.suffix) if options.run.is_file() else None:
            raise UsageError(f"{options.run} is an exported file, and --engine is torch. Add --engine {engine}")
        return None
    for entry in fields(options):
        if entry.name in TORCH_OPTIONS and getattr(options, entry.name) != entry.default:
            name = entry.name.replace("_", "-")
            raise UsageError(f"--{name} is for --engine torch: give it to `tailseg export`, if the command has it")
    name = FILES[options.engine]
    file = options.run / "exported" / name if options.run.is_dir() else options.run
    if not file.is_file():
        again = shlex.join(["tailseg", "export", str(options.run), "--to", options.engine])
        raise UsageError(
            f"there is no exported file {file}: write it with `{again}`, or name an exported file in place of the run"
        )
    if file.suffix != Path(name).suffix:
        raise UsageError(f"{file} is not for --engine {options.engine}, whose files end with {Path(name).suffix}")
    return file
