"""Every row of a table belongs to a table: after an empty line, a row is shown as plain text."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("findings/*.md")]
DELIMITERS = re.compile(r"\|[\s:|-]+\|")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_has_a_header(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    for block in re.findall(r"(?m)(?:^\|.*\n?)+", text):
        first, second, *_ = [*block.split("\n"), ""]
        assert DELIMITERS.fullmatch(second), f"{first:.80} is not the header of a table"
