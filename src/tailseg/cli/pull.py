"""`tailseg pull`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import tyro

from tailseg.cli.common import UsageError, output, parse
from tailseg.cli.file_kinds import hub_files
from tailseg.cli.outputs import check
from tailseg.files import Output


@dataclass(frozen=True)
class Pull:
    """Fetch a run that `tailseg push` published, from the Hugging Face Hub or from a folder.

    `predict`, `test` and `train --init-from` accept the fetched folder as a run. Fetching runs no code: the weights are
    a safetensors file, and the rest is JSON. The hub needs `pip install 'tailseg[hub]'`.

    examples:
      tailseg pull me/trash
      tailseg predict runs/trash photo.jpg
      tailseg pull trash --from /shared/models --out runs/theirs
    """

    name: Annotated[str, tyro.conf.Positional]
    """Name of the model: user/name."""
    out: Annotated[Path | None, Output("a run")] = None
    """Folder of the run. The default is runs/ and the last part of the name."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """The folder that was given to `push --to`, instead of the hub."""
    revision: str | None = None
    """A branch, a tag or a commit of the hub; None is the newest version."""
    overwrite: bool = False
    """Replace existing files of other kinds. The command never replaces its inputs."""


def run(arguments: Sequence[str]) -> None:
    """Fetches the files, checks them, and writes the folder of the run."""
    options = parse(Pull, arguments, command="pull")
    if options.source and options.revision:
        raise UsageError("--revision is for the hub, and --from names a folder. Leave one of them out")
    out = options.out or Path("runs") / options.name.rpartition("/")[2]
    if any((out / "checkpoints").glob("*.pt")):
        raise UsageError(f"{out} has a trained run already. Name another folder (--out)")
    fetched = options.source / options.name if options.source else None
    if fetched and not fetched.is_dir():
        raise ValueError(f"{fetched} does not exist. Expected a folder that `tailseg push --to` wrote")
    inputs = hub_files(fetched) if fetched else ()
    check(options, hub_files(out), instead="name another folder (--out)", inputs=inputs, overwrite=options.overwrite)
    from tailseg.interop import hub

    hub.check_name(options.name)
    if fetched:
        for file in (fetched / part for part in hub.FILES):
            if not file.resolve().is_relative_to(fetched.resolve()):
                raise ValueError(f"{file} is a link to a file outside of {fetched}. Replace it with the file")
    folder = fetched or hub.download(options.name, revision=options.revision)
    files, removed = hub.unpack_run(folder, out, options.name)
    for name in removed:
        output().print(f"note: removed {name} of the run that was in {out}", markup=False, soft_wrap=True)
    output().print(f"Written: {out} ({', '.join(files)})", markup=False, soft_wrap=True)
    output().print(f"Next: tailseg predict {quote(str(out))} IMAGES...", markup=False, soft_wrap=True)
