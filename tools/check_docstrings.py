"""Runs pydoclint over the source and prints what is wrong in docstrings; exit code 1 if something is.

    uv run python tools/check_docstrings.py [PATH ...]

A public function or method with three or more parameters describes all of them, and what it returns. One with fewer
parameters may leave both out; an ``Args:`` section that it has must be complete and in order. pydoclint has no such
rule, so this program picks from its report.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
MIN_PARAMETERS = 3
LINE = re.compile(r"\s+(?P<line>\d+): (?P<code>DOC\d+): (?P<text>.*)")
RETURNS = "DOC201"
IGNORED = ("DOC101", "DOC402", "DOC404", "DOC405")
"""DOC103 says the same as DOC101, with the names; what a generator yields is not asked for."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def count_parameters(function: Function) -> int:
    """Counts the parameters of a function, without ``self`` and ``cls``."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names += [each.arg for each in (arguments.vararg, arguments.kwarg) if each]
    return len([name for name in names if name not in ("self", "cls") and not name.startswith("_")])


def read_rules(file: Path) -> dict[int, tuple[bool, bool]]:
    """For the line of each function and class: whether it must be complete, and whether it has an ``Args:`` section."""
    rules = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, Function | ast.ClassDef):
            continue
        text = ast.get_docstring(node) or ""
        makers = [node] if isinstance(node, Function) else [n for n in node.body if isinstance(n, Function)]
        counts = [count_parameters(n) for n in makers if isinstance(node, Function) or n.name == "__init__"]
        is_private = isinstance(node, Function) and node.name.startswith("_")
        rules[node.lineno] = (not is_private and max(counts, default=0) >= MIN_PARAMETERS, "Args:" in text)
    return rules


def main(paths: list[str]) -> int:
    """Prints the problems; returns the exit code."""
    report = subprocess.run(
        ["pydoclint", "--skip-checking-short-docstrings=False", *(paths or [str(SOURCE)])],
        capture_output=True,
        text=True,
        check=False,
    )
    problems, file, rules = [], Path(), {}
    for line in (report.stdout + report.stderr).splitlines():
        if line.endswith(".py") and Path(line).is_file():
            file, rules = Path(line), read_rules(Path(line))
        elif match := LINE.match(line):
            complete, has_arguments = rules.get(int(match["line"]), (False, False))
            if match["code"] in IGNORED or "`_" in match["text"]:
                continue
            if complete or (has_arguments and match["code"] != RETURNS):
                text = re.sub(r"\(Or could be .*?\)\. ", "", match["text"])
                problems.append(f"{file}:{match['line']}: {match['code']}: {text}")
    print("\n".join(problems) or "every docstring is complete")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
