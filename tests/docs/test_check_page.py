"""The table of what stops what, in docs/how-to/train-your-own.md, is that of the code."""

from pathlib import Path
from typing import get_args

from tailseg.annotations.kinds import KINDS, USE_NAMES, Kind, Use
from tailseg.words import inflect

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "train-your-own.md"
CELLS = {"x": "stops", "n": "note", "i": "note", "-": ""}


def row(kind: Kind) -> str:
    what = inflect(kind.what.replace(" ({detail})", "").replace("{detail}", "N"), 2)
    cells = [CELLS[kind.verdict(use)] for use in get_args(Use)]
    return f"| {what} | {' | '.join(cells)} |"


def test_the_table_is_that_of_the_code() -> None:
    head = f"| What | {' | '.join(USE_NAMES.values())} |"
    table = "\n".join([head, "|---|---|---|---|---|", *(row(kind) for kind in KINDS.values() if kind.stops)])
    assert f"\n\n{table}\n\n" in PAGE.read_text(), f"the page needs this table:\n{table}"
