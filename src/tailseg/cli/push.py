"""`tailseg push`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import tyro
from rich.prompt import Confirm

from tailseg.cli.common import UsageError, output, parse, require_run
from tailseg.cli.file_kinds import hub_files
from tailseg.cli.outputs import check
from tailseg.files import Output


@dataclass(frozen=True)
class Push:
    """Publish a run on the Hugging Face Hub, or in a folder: weights, recipe, classes and a model card.

    The command lists the files first, and asks. It never publishes data, pictures, results, reports or paths of this
    machine. The weights are a safetensors file. `tailseg pull NAME` fetches the run.

    A new model is private, unless you add --public. Log in first: `hf auth login`. The hub needs
    `pip install 'tailseg[hub]'`; --to needs nothing.

    examples:
      tailseg push runs/mine me/trash
      tailseg push runs/mine me/trash --public --yes
      tailseg push runs/mine trash --to /shared/models
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, or a checkpoint."""
    name: Annotated[str, tyro.conf.Positional]
    """Name of the model: user/name."""
    to: Annotated[Path | None, Output("the files of a published run")] = None
    """A folder to write to instead of the hub; the run is written to FOLDER/NAME."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    public: bool = False
    """Everyone can see the new model. An existing model stays as it is."""
    yes: bool = False
    """Do not ask."""
    overwrite: bool = False
    """With --to: replace existing files of other kinds. The command never replaces its inputs."""


def run(arguments: Sequence[str]) -> None:
    """Packs the run, lists the files, asks, and publishes them."""
    options = parse(Push, arguments, command="push")
    require_run(options.run)
    if options.to is not None:
        out = options.to / options.name
        check(options, hub_files(out), instead="name another folder (--to)", overwrite=options.overwrite)
    if not (options.yes or sys.stdin.isatty()):
        raise UsageError("push asks before it publishes, and nobody can answer here. Add --yes")
    from tailseg.interop import hub

    hub.check_name(options.name)
    with TemporaryDirectory() as made:
        folder = Path(made)
        files, notes = hub.pack_run(options.run, options.name, folder, which=options.checkpoint)
        for note in notes:
            output().print(f"note: {note}", markup=False)
        for file in files:
            size = file.stat().st_size / 1e6
            output().print(f"{size:10.3f} MB  {file.relative_to(folder)}", markup=False)
        place = f"{options.to / options.name}" if options.to else f"the hub as {options.name}"
        if not (options.yes or Confirm.ask(f"Publish these {len(files)} files in {place}?", default=False)):
            output().print("Nothing was published.")
            return
        if options.to:
            names = [str(file.relative_to(folder)) for file in files]
            for stale in hub.copy_files(folder, names, options.to / options.name):
                output().print(f"note: removed {stale} of the earlier version", markup=False)
            output().print(f"Written: {place}", markup=False, soft_wrap=True)
        else:
            output().print(f"Published: {hub.upload(folder, options.name, public=options.public)}", markup=False)
