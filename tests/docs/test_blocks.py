"""Each command and each Python block of the README, docs/ and the examples is run by CI, or marked with the reason."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNNER = runpy.run_path(str(ROOT / ".ci" / "blocks.py"))
PAGES = [ROOT / "README.md", *RUNNER["find_pages"]()]
LANGUAGES = {"bash", "python", "text", "json", "yaml", "toml", "bibtex", ""}
"""Blocks in bash and python are run. Another spelling of the two would not be."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_marked(page):
    text = page.read_text()
    opened = re.findall(r"^ *```([^\n`]*)$", text, re.MULTILINE)[::2]
    assert set(opened) <= LANGUAGES, "a block has a language that nobody runs: write bash or python, or text"
    blocks = RUNNER["read_blocks"](page)
    assert len(blocks) == sum(language in ("bash", "python") for language in opened)
    for block in blocks:
        allowed = {"", "skip", "short", "tested", *({"demo", "tests"} if page.name == "README.md" else ())}
        assert block.mark in allowed, f"{block.mark} is no mark; .ci/blocks.py lists them"
        assert block.note or block.mark not in ("skip", "tested"), "the mark gives no reason"
        if block.mark == "tested":
            file, _, name = block.note.partition("::")
            assert (ROOT / file).is_file(), f"{block.note} is no test"
            assert f"def {name}" in (ROOT / file).read_text()


def test_an_unmarked_block_is_run_and_a_mark_belongs_to_the_next_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- skip: why -->\n```bash\na\n```\n\n<!-- short -->\n\n```bash\ntailseg train \\\n  b\n# no\nc\n```\n"
        "- <!-- short: --x 1 -->\n"
    )
    first, second = RUNNER["read_blocks"](page)
    assert (first.mark, first.note) == ("skip", "why")
    assert second.mark == "", "an empty line is between the mark and the block"
    assert RUNNER["split_commands"](second) == ["tailseg train    b", "c"]
    short = second._replace(mark="short", note="--x 1")
    assert RUNNER["split_commands"](short) == ["tailseg train    b --x 1", "c"]
