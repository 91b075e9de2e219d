"""Runs the README's commands as a stranger would: in a fresh clone, with nothing else there.

    python .ci/readme.py demo     the demo, to its end; it must have learned
    python .ci/readme.py rest     every other ```bash and ```python block, in order
    python .ci/readme.py tests    the tests, in this working tree

An HTML comment in the line before a block says how it is run:

    <!-- demo -->, <!-- tests -->   that block
    <!-- skip: why -->              not at all
    <!-- short: --option value -->  with these options added to each of its commands
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>\w+)(?:: (?P<note>.*?))? -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL
)
DEMO_SECONDS = 1200
GOAL_AP50_OF_FREQUENT_CLASSES = 0.30
USER_FILES = """
from pathlib import Path
from tailseg.data.tiny_tail import generate

drawn = generate(Path("drawn"), preset="test")
(drawn / "train.json").rename("my.json")
(drawn / "train").rename("train")
(drawn / "val").rename("photos")
next(iter(sorted(Path("photos").iterdir()))).rename("photos/a.jpg")
"""


class Block(NamedTuple):
    """A block of the README."""

    mark: str
    note: str
    language: str
    code: str


def blocks() -> list[Block]:
    """All blocks in order."""
    found = BLOCK.finditer((ROOT / "README.md").read_text())
    return [Block(m["mark"] or "", m["note"] or "", m["language"], m["code"].strip()) for m in found]


def marked(mark: str) -> Block:
    """The one block with the mark."""
    (block,) = [block for block in blocks() if block.mark == mark]
    return block


def execute(command: list[str] | str, folder: Path, *, timeout: float | None = None) -> None:
    """Runs a command (a string by bash) in the folder; raises when it fails or takes too long."""
    print(f"\n$ {command if isinstance(command, str) else ' '.join(command)}", flush=True)
    arguments = ["bash", "-euo", "pipefail", "-c", command] if isinstance(command, str) else command
    # A virtual environment of the caller's must not serve the clone.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run(arguments, cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=timeout, check=True)


def clone(folder: Path) -> Path:
    """A fresh clone of the last commit; caches of tailseg lie beside it."""
    execute(["git", "clone", "--quiet", str(ROOT), str(folder / "tailseg")], folder)
    os.environ["TAILSEG_HOME"] = str(folder / "cache")
    return folder / "tailseg"


def demo() -> None:
    """The demo to its end: it must reach the goal and draw what it found."""
    with tempfile.TemporaryDirectory() as folder:
        here = clone(Path(folder))
        began = time.monotonic()
        execute(marked("demo").code, here, timeout=DEMO_SECONDS)
        print(f"the demo took {(time.monotonic() - began) / 60:.1f} minutes, installation included")
        score = json.loads((here / "runs/demo/metrics.json").read_text())["scores"]["segm"]["AP50f"]
        print(f"mask AP50 of frequent classes: {score:.3f}, goal {GOAL_AP50_OF_FREQUENT_CLASSES}", flush=True)
        if score < GOAL_AP50_OF_FREQUENT_CLASSES:
            raise SystemExit("the demo has not learned enough")
        for name in ("demo.png", "report.html"):
            if not (here / "runs/demo" / name).is_file():
                raise SystemExit(f"the demo has left no {name}")


def rest() -> None:
    """Every other block."""
    with tempfile.TemporaryDirectory() as folder:
        here = clone(Path(folder))
        execute(["uv", "run", "--no-dev", "python", "-c", USER_FILES], here)
        for block in blocks():
            if block.mark in ("demo", "tests"):
                continue
            if block.mark == "skip":
                print(f"\nskipped ({block.note}):\n{block.code}", flush=True)
            elif block.language == "python":
                execute(["uv", "run", "--no-dev", "python", "-c", block.code], here)
            else:
                for line in block.code.splitlines():
                    execute(f"uv run --no-dev {line} {block.note if block.mark == 'short' else ''}".strip(), here)


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "tests":
        execute(marked("tests").code, ROOT)
    elif what in ("demo", "rest"):
        {"demo": demo, "rest": rest}[what]()
    else:
        raise SystemExit(__doc__)
