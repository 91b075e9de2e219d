"""Prints how long each folder of tests takes, as a table for tests/README.md.

    uv run pytest -n auto --junitxml runs/tests.xml
    uv run python tools/time_tests.py runs/tests.xml

The seconds are the sum over the tests of a folder, with their fixtures: the time on one core of a machine that does
nothing else.
"""

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET


def main(report: Path) -> None:
    """Reads pytest's report and prints one line for each folder."""
    seconds, tests = defaultdict(float), defaultdict(int)
    for case in ET.parse(report).iter("testcase"):
        _, *folders, _ = case.attrib["classname"].split(".")
        folder = folders[0] if folders else "this folder"
        seconds[folder] += float(case.attrib["time"])
        tests[folder] += 1
    print("| Folder | Tests | Seconds |\n|---|---|---|")
    for folder in sorted(seconds, key=lambda name: -seconds[name]):
        print(f"| `{folder}` | {tests[folder]:,} | {seconds[folder]:.0f} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
