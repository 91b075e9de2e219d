"""Links inside the project lead to a file, and to a heading of it. tools/list_links.py lists the outside ones."""

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "list_links.py"))


def test_every_link_inside_the_project_leads_somewhere():
    assert TOOL["find_broken"](TOOL["find_pages"]()) == []


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("nowhere.md", "there is no such file"),
        ("README.md#no-such-heading", "the page has no such heading"),
        ("docs", "a folder"),
        ("../outside.md", "there is no such file"),
    ],
)
def test_a_broken_link_is_found(link, message, tmp_path, monkeypatch):
    for name in ("docs/index.md", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# Is B better, or `A`?\n")
    (tmp_path / "page.md").write_text(f"[good](README.md#is-b-better-or-a) `[no](link.md)` [bad]({link})\n")
    monkeypatch.setitem(TOOL["find_broken"].__globals__, "ROOT", tmp_path)
    (broken,) = TOOL["find_broken"]([tmp_path / "page.md"])
    assert message in broken
