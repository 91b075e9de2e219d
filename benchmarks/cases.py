"""Runs the collected cases and prints one table: the expected answer, tailseg's answer, and whether it is right.

    uv run python benchmarks/cases.py FOLDER [--only trials/03 numerics] [--out TABLE.md]

FOLDER has the folders trials, faults, numerics, annotations, crossed and wild. The script writes nothing to it. The
exit code is 1 if an answer is wrong. A case that needs more than a command or a few lines is a test of the project.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from case_checks import faults, files, trials
from case_checks.desk import CASES, Desk

MODULES = (trials, faults, files)
"""Their checks are in `CASES` once they are imported."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    wanted: str
    said: str
    right: bool

    def __str__(self) -> str:
        cells = (self.case, self.wanted, self.said, "yes" if self.right else "**no**")
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> int:
    """The table of the cases that are asked for; 1 if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[""], help="cases whose names begin so")
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    Desk.cases = options.folder.resolve()
    rows: list[Row] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        Desk.runs = Path(work)
        for name, check in CASES.items():
            if not name.startswith(tuple(options.only)):
                continue
            try:
                answers = list(check(Desk(Desk.cases / name, Path(work))))
            except Exception as error:  # noqa: BLE001 - one case must not end the table
                answers = [("an answer", f"{type(error).__name__}: {str(error)[-160:]}", False)]
            rows += [
                Row(name, wanted, said.replace(work, "").replace(str(Desk.cases), ""), right)
                for wanted, said, right in answers
            ]
            for row in rows[-len(answers) :]:
                print(row, flush=True)
    wrong = sum(not row.right for row in rows)
    cases = len({row.case for row in rows})
    last = f"{len(rows)} answers to {cases} cases, {wrong} wrong; {time.perf_counter() - began:.0f} s"
    print(last)
    if options.out:
        head = ["| Case | Wanted | tailseg says | Right |", "|---|---|---|---|"]
        options.out.write_text("\n".join([*head, *map(str, rows), "", last, ""]))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
