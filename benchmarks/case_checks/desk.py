"""What the checks of handed cases share: a copy of each case to work in, commands in it, and how an answer reads."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--optim.epochs", "1", "--optim.milestones", "1"]

Said = tuple[int, str]
"""Exit code and all that was printed."""
Answer = tuple[str, str, bool]
"""What was wanted, what tailseg says, whether that is right."""


class Desk:
    """A copy of one case, and the commands in it."""

    cases: ClassVar[Path]
    """The folder of all cases."""
    runs: ClassVar[Path]
    """The folder of what is made once."""

    def __init__(self, case: Path, work: Path) -> None:
        self.here = work / case.parent.name / case.name
        shutil.copytree(case, self.here)
        for path in [self.here, *self.here.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)

    def call(self, *arguments: object, at: Path | None = None, env: dict[str, str] | None = None) -> Said:
        """What a program says, with time bounded."""
        done = subprocess.run(
            [str(argument) for argument in arguments],
            cwd=at or self.here,
            env={**os.environ, "COLUMNS": "200", "TAILSEG_HOME": str(self.runs / "home"), **(env or {})},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def tailseg(self, *arguments: object, at: Path | None = None, env: dict[str, str] | None = None) -> Said:
        """What a command says."""
        return self.call(sys.executable, "-m", "tailseg", *arguments, at=at, env=env)

    def test(self, name: str) -> Answer:
        """Whether a test that the project carries passes."""
        code, text = self.call(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", name, at=ROOT)
        return f"the test passes: {name}", text.strip().splitlines()[-1], code == 0

    @property
    def run(self) -> Path:
        """A small run of three classes, trained once for all cases."""
        run = self.runs / "run"
        if not run.exists():
            ann = self.runs / "annotations"
            shutil.copytree(self.cases / "trials/22-class-never-in-training", ann)
            code, text = self.tailseg("train", ann / "ann.json", *SHORT, "--run.out", run)
            assert code == 0, text
        return run


CASES: dict[str, Callable[[Desk], Iterator[Answer]]] = {}


def case(name: str) -> Callable[[Callable[[Desk], Iterator[Answer]]], Callable[[Desk], Iterator[Answer]]]:
    """Registers the check of the case ``name``."""

    def register(check: Callable[[Desk], Iterator[Answer]]) -> Callable[[Desk], Iterator[Answer]]:
        CASES[name] = check
        return check

    return register


def line(said: Said, pattern: str = "") -> str:
    """The exit code, and the line that says it: the first with the pattern, else the last."""
    lines = [" ".join(part.split()) for part in said[1].splitlines() if part.strip()]
    hits = [part for part in lines if pattern and re.search(pattern, part, re.IGNORECASE)]
    return f"exit {said[0]}: {(hits or lines[-1:] or [''])[0][:160]}"


def says(wanted: str, said: Said, pattern: str, *, code: int | None = None) -> Answer:
    """Right if the output has the pattern (spaces and line ends alike), and the exit code if one is named."""
    text = " ".join(said[1].split())
    right = re.search(pattern, text, re.IGNORECASE) is not None and (code is None or said[0] == code)
    return wanted, line(said, pattern), right


def scores(said: Said, kind: str = "boxes") -> float | None:
    """The AP that a table shows."""
    found = re.search(rf"^\s*{kind}\s+([\d.]+)", said[1], re.MULTILINE)
    return float(found[1]) if found else None


def sums(folder: Path) -> dict[str, str]:
    """MD5 sums of the files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def unharmed(before: dict[str, str], folder: Path, said: Said) -> Answer:
    """Right if every file is as it was."""
    after = sums(folder)
    lost = [name for name, value in before.items() if after.get(name) != value]
    return "no input is written over", f"{line(said)}; changed: {lost or 'none'}", not lost


def image_names(path: Path) -> set[str]:
    """The file names of an annotation file."""
    return {image["file_name"] for image in json.loads(path.read_text())["images"]}
