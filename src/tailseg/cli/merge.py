"""`tailseg merge`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tailseg.cli.common import output, parse
from tailseg.cli.file_kinds import CALL, FOUND, LINES
from tailseg.cli.outputs import check
from tailseg.files import Output
from tailseg.words import count_noun


@dataclass(frozen=True)
class Merge:
    """Merge the parts that `tailseg predict --part K/N` wrote: the results are those of one call, to the byte.

    The command checks that all parts are there, finished, and made with the same options. Pictures stay in the folders
    of the parts.

    examples:
      tailseg merge found
    """

    folder: Annotated[Path, tyro.conf.Positional, Output("results.json, results.jsonl, predict.json")]
    """The folder --out of the parts. The results are written there."""
    overwrite: bool = False
    """Replace existing files of other kinds."""


def run(arguments: Sequence[str]) -> None:
    """Merges the parts of a prediction."""
    options = parse(Merge, arguments, command="merge")
    from tailseg.inference.results_folder import find_parts, merge_parts

    find_parts(options.folder)
    targets = {"results.json": FOUND, "results.jsonl": LINES, "predict.json": CALL}
    check(
        options,
        {options.folder / name: kind for name, kind in targets.items()},
        instead="move the file",
        overwrite=options.overwrite,
    )
    images, failed, objects = merge_parts(options.folder)
    errors = f"; {count_noun(failed, 'image')} could not be read or drawn" if failed else ""
    output().print(
        f"{count_noun(objects, 'object')} in {count_noun(images - failed, 'image')}{errors}: see {options.folder}",
        markup=False,
        soft_wrap=True,
    )
