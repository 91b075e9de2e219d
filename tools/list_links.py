"""Links of the project's Markdown files: finds the broken ones inside the project, and lists the outside ones.

    uv run python tools/list_links.py           the outside links, with the files that have them; none is opened
    uv run python tools/list_links.py --check   the links to files and headings that do not exist

tests/docs/test_links.py runs the check.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:href|src|srcset)=\"([^\"]+)\"|<(https?://[^>\s]+)>")
CODE = re.compile(r"^( *)(`{3,}|~{3,}).*?^ *\2`*\s*?$|(?<!`)(`+)(?!`)[^\n]*?(?<!`)\3(?!`)", re.DOTALL | re.MULTILINE)
OUTSIDE = re.compile(r"https?://[^\s)>\"'`\]]+")


def find_pages() -> list[Path]:
    """Finds the Markdown files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def read_links(text: str) -> list[str]:
    """Reads the targets of all links and pictures outside of code."""
    return [next(filter(None, groups)) for groups in LINK.findall(CODE.sub("", text))]


def make_anchors(text: str) -> set[str]:
    """Makes the anchors of the headings, as code hosts and the site do, and reads those of HTML elements."""
    anchors: set[str] = set(re.findall(r"\bid=\"([^\"]+)\"", text))
    without_blocks = re.sub(r"^( *)(`{3,}).*?^ *\2", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", without_blocks, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        base = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        anchor, number = base, 0
        while anchor in anchors:
            number += 1
            anchor = f"{base}-{number}"
        anchors.add(anchor)
    return anchors


def find_broken(pages: list[Path]) -> list[str]:
    """Finds the links to files and headings that do not exist, one line for each."""
    broken = []
    for page in pages:
        for link in read_links(page.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / unquote(path)).resolve() if path else page
            if not target.exists() or not target.is_relative_to(ROOT):
                broken.append(f"{page.relative_to(ROOT)}: {link}: there is no such file")
            elif target.is_dir():
                broken.append(f"{page.relative_to(ROOT)}: {link}: a folder; name a file, which the site can show")
            elif anchor and target.suffix == ".md" and anchor not in make_anchors(target.read_text()):
                broken.append(f"{page.relative_to(ROOT)}: {link}: the page has no such heading")
    return broken


def list_outside(pages: list[Path]) -> dict[str, list[str]]:
    """Lists the addresses outside the project, each with the pages that have it."""
    addresses: dict[str, list[str]] = {}
    for page in pages:
        for address in {found.rstrip(".,;:") for found in OUTSIDE.findall(page.read_text())}:
            if not re.match(r"https?://(127\.0\.0\.1|localhost|node1)\b", address):
                addresses.setdefault(address, []).append(str(page.relative_to(ROOT)))
    return dict(sorted(addresses.items()))


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        raise SystemExit("\n".join(find_broken(find_pages())) or None)
    for address, names in list_outside(find_pages()).items():
        print(f"{address}  ({', '.join(names)})")
