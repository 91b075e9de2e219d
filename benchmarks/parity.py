"""Compares our detectors with mmdetection's, stage by stage, on golden files of any folder.

    uv run python benchmarks/parity.py FOLDER [NAME ...] [--from-maps]

FOLDER holds pairs NAME.safetensors and NAME.json: a state dict of mmdetection (of a detector or a backbone), images,
and the outputs of every stage; or inputs and outputs of single operators. tailseg converts the state dict. The table
shows the largest difference of each stage. The exit code is 1 if a difference is larger than rounding explains. With
--from-maps, detectors start from the golden feature maps instead of the images, without the backbone's rounding.
docs/parity.md describes the files.
"""

import sys
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.parity import parity
from tests.parity.golden import golden_files


def main(arguments: list[str]) -> int:
    from_maps = "--from-maps" in arguments
    arguments = [argument for argument in arguments if argument != "--from-maps"]
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    torch.set_num_threads(1)
    folder = Path(arguments[0])
    try:
        files = golden_files(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    unknown = [name for name in arguments[1:] if name not in files]
    if unknown:
        print(f"no golden file {unknown[0]} in {folder}: there are {', '.join(files)}", file=sys.stderr)
        return 2
    names = arguments[1:] or [name for name, kind in files.items() if kind == "detector" or not from_maps]
    table = Table(box=box.MARKDOWN)
    for column in ("stage", "unit", *names):
        table.add_column(column, justify="left" if column in ("stage", "unit") else "right")
    measured = [
        {(d.stage, d.unit): d for d in parity.measure_file(folder, name, files[name], from_maps=from_maps)}
        for name in names
    ]
    for key in dict.fromkeys(key for differences in measured for key in differences):
        cells = [format_difference(differences.get(key)) for differences in measured]
        table.add_row(*key, *cells)
    console = Console(width=max(100, 60 + 28 * len(names)), highlight=False)
    console.print(table)
    console.print(parity.DEPARTURES)
    return int(any(not d.equal for differences in measured for d in differences.values()))


def format_difference(difference: parity.Difference | None) -> str:
    if difference is None:
        return ""
    value = f"{difference.value:.1e}" if isinstance(difference.value, float) else str(difference.value)
    return value if difference.equal else f"[bold red]{value} > {difference.limit:g}[/]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
