"""CPU time, wall time and peak memory of commands in an earlier build and in this build, and their ratios.

    uv run python benchmarks/against.py 2f2c8dc
    uv run python benchmarks/against.py 2f2c8dc --works recipes show --rounds 5

The earlier build is a git worktree of the revision in a temporary folder. It runs in the same environment (PYTHONPATH)
and is removed at the end. In each round, each build runs once, in turns. Each figure is the least of all rounds. The
first round may compile modules to byte code: use two or more rounds for light works. CPU time counts all threads and
child processes; peak memory is that of the largest process. Each build has its own cache folder (TAILSEG_HOME), which
is emptied before each run of ``open``.

Works (`--works` selects some). Light ones: ``recipes``, ``train-help``, ``recipe-help``, ``show`` and ``check`` (50
images), ``losses`` (all of ``tailseg.losses``) next to ``torch`` (``import torch``), ``eval-100``. Large ones:
``eval-19809`` (5.9 million detections), ``open`` (the first opening of an annotation file of LVIS's size), ``report``
(three runs of 5,000 images), ``train`` (20 steps of a small network), and ``images`` (40 images by a `Predictor` of a
run that each build trains in the first round: use two or more rounds). The files of the works are written to ``--data``
once (4 GB for all) and used again.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parent))
from measure import table

ROOT = Path(__file__).parents[1]
DATA = Path.home() / ".cache" / "tailseg-benchmark"
Name = Literal[
    "recipes",
    "train-help",
    "recipe-help",
    "show",
    "check",
    "torch",
    "losses",
    "eval-100",
    "eval-19809",
    "open",
    "report",
    "train",
    "images",
]
OPEN = """\
import sys
try:
    from tailseg.annotations.read import read_dataset
except ModuleNotFoundError:  # an earlier build
    from tailseg.data.coco import read_dataset
read_dataset(sys.argv[1])
"""
IMAGES = """\
import subprocess, sys
from pathlib import Path
import torch
from tailseg.inference import Predictor

if not Path("run/checkpoints").is_dir():
    train = [sys.executable, "-m", "tailseg", "train", *sys.argv[1:]]
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
predictor = Predictor.from_run("run", device="cpu")
images = torch.randint(0, 256, (40, 3, 240, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
for image in images:
    predictor.detect(image)
"""
LIGHT: tuple[Name, ...] = ("recipes", "train-help", "recipe-help", "show", "check", "torch", "losses", "eval-100")
LAUNCHER = """\
import json, os, sys, time
began = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, use = os.wait4(child, 0)
took = time.perf_counter() - began
print(json.dumps([os.waitstatus_to_exitcode(status), use.ru_utime + use.ru_stime, took, use.ru_maxrss / 1024]))
"""
"""Linux counts what a process held before exec as its own: what starts the command has to be small itself."""


@dataclass(frozen=True)
class Use:
    """What a process took."""

    cpu: float
    wall: float
    megabytes: float


@dataclass(frozen=True)
class Work:
    """A command, and whether it starts without any cache.

    Attributes:
        arguments: makes the files in the folder given, unless they are there; returns what follows ``python``.
    """

    title: str
    arguments: Callable[[Path], list[str]]
    fresh: bool = False


def tailseg(*arguments: str) -> Callable[[Path], list[str]]:
    """A command that needs no files."""
    return lambda _: ["-m", "tailseg", *arguments]


def results(data: Path, images: int, *, skill: float = 0.6, pictures: bool = False) -> Path:
    """The folder of ``truth.json`` and ``results.json`` with so many images."""
    import synthetic_results

    folder = data / f"{images}-{skill:g}"
    if not (folder / "truth.json").is_file():  # written last
        synthetic_results.write(folder, images=images, skill=skill)
    if pictures and not (folder / "pictures").is_file():
        draw(folder)
    return folder


def draw(folder: Path) -> None:
    """One photograph for all images of the truth, next to it."""
    import torchvision
    from synthetic_lvis import scenery

    photograph = folder / "photograph.jpg"
    torchvision.io.write_file(str(photograph), torchvision.io.encode_jpeg(scenery(0), quality=90))
    for image in json.loads((folder / "truth.json").read_text())["images"]:
        (folder / image["file_name"]).unlink(missing_ok=True)
        os.link(photograph, folder / image["file_name"])
    (folder / "pictures").touch()


def data_command(command: str) -> Callable[[Path], list[str]]:
    return lambda data: ["-m", "tailseg", "data", command, str(results(data, 50, pictures=True) / "truth.json")]


def evaluate(images: int) -> Callable[[Path], list[str]]:
    """Everything that `tailseg eval` finds without being asked, and its files."""

    def arguments(data: Path) -> list[str]:
        folder = results(data, images)
        files = map(str, (folder / "truth.json", folder / "results.json"))
        return ["-m", "tailseg", "eval", *files, "--out", str(folder / "scores")]

    return arguments


def open_lvis(data: Path) -> list[str]:
    from synthetic_lvis import write_lvis

    from data import COUNTS

    return ["-c", OPEN, str(write_lvis(data, scale=1.0, counts=COUNTS if COUNTS.is_file() else None))]


def train(data: Path) -> list[str]:
    """Twenty steps of eight images on a small network, evaluated at the end."""
    from tailseg.data.tiny_tail import generate

    folder = data / "tiny_tail"
    if not folder.is_dir():
        generate(folder, preset="test")
    files = [str(folder / "train.json"), "--data.val", str(folder / "val.json")]
    steps = [
        "--optim.epochs",
        "10",
        "--optim.steps",  # the name that earlier builds know
        "8",
        "--run.eval-every",
        "0",
        "--run.out",
        "run",
        "--no-report",
    ]
    return ["-m", "tailseg", "train", *files, *steps]


def images(data: Path) -> list[str]:
    """Forty images by a predictor of a run that each build trains itself in the first round."""
    return ["-c", IMAGES, *train(data)[3:]]


def report(data: Path) -> list[str]:
    """Three runs of one recipe whose detections are of different skill."""
    runs = [results(data, 5000, skill=skill, pictures=skill == 0.5) for skill in (0.5, 0.6, 0.7)]
    truth = str(runs[0] / "truth.json")
    recipe = {"recipe": "custom_small", "resolved": {"data": {"train": truth, "val": truth}}}
    for run in runs:
        (run / "recipe.json").write_text(json.dumps(recipe))
    return ["-m", "tailseg", "report", *map(str, runs), "--out", str(data / "report.html")]


WORKS: dict[Name, Work] = {
    "recipes": Work("`tailseg recipes`", tailseg("recipes")),
    "train-help": Work("`tailseg train --help`", tailseg("train", "--help")),
    "recipe-help": Work("`tailseg train tiny_gumbel --help`", tailseg("train", "tiny_gumbel", "--help")),
    "show": Work("`tailseg data show`, 50 images", data_command("show")),
    "check": Work("`tailseg data check`, 50 images", data_command("check")),
    "torch": Work("`import torch`", lambda _: ["-c", "import torch"]),
    "losses": Work("`from tailseg.losses import *`", lambda _: ["-c", "from tailseg.losses import *"]),
    "eval-100": Work("`tailseg eval`, 100 images", evaluate(100)),
    "eval-19809": Work("`tailseg eval`, 19,809 images", evaluate(19_809)),
    "open": Work("first opening of an annotation file of LVIS's size", open_lvis, fresh=True),
    "report": Work("`tailseg report`, three runs of 5,000 images", report),
    "train": Work("`tailseg train`, 20 steps of 8 images", train, fresh=True),
    "images": Work("`Predictor.detect`, 40 images, and its start", images),
}


@contextmanager
def earlier(revision: str) -> Iterator[Path]:
    """A folder with the revision's files.

    Raises:
        SystemExit: git knows no such revision.
    """
    with TemporaryDirectory() as temporary:
        tree = Path(temporary) / "build"
        git = ["git", "-C", str(ROOT), "worktree"]
        done = subprocess.run([*git, "add", "--detach", str(tree), revision], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"no build of {revision}: {done.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measured(build: Path, arguments: Sequence[str], home: Path) -> Use:
    """One run of ``python ARGUMENTS`` with the build's tailseg.

    Raises:
        SystemExit: the command failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(build / "src"), "TAILSEG_HOME": str(home)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users' second run of a command does not compile its modules
    command = [sys.executable, "-I", "-S", "-c", LAUNCHER, sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=home)
    code, *figures = json.loads(done.stdout.splitlines()[-1])
    if code:
        raise SystemExit(f"python {' '.join(arguments)} ended with {code} in {build}:\n{done.stderr}")
    return Use(*figures)


def compare(work: Work, builds: tuple[Path, Path], homes: Path, *, data: Path, rounds: int) -> list[Use]:
    """The least of each figure, for each build; each has a home of its own in ``homes``."""
    arguments = work.arguments(data)
    uses: tuple[list[Use], list[Use]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):  # neither build always has the other before it
            home = homes / str(which)
            if work.fresh:
                shutil.rmtree(home, ignore_errors=True)
            home.mkdir(exist_ok=True)
            uses[which].append(measured(builds[which], arguments, home))
    return [Use(*(min(getattr(use, name) for use in found) for name in ("cpu", "wall", "megabytes"))) for found in uses]


def row(work: Work, before: Use, now: Use) -> list[str]:
    cells = [work.title]
    for name, digits in (("cpu", 2), ("wall", 2), ("megabytes", 0)):
        old, new = getattr(before, name), getattr(now, name)
        cells += [f"{old:,.{digits}f} → {new:,.{digits}f}", f"{new / old:.2f}"]
    return cells


def main(
    revision: tyro.conf.Positional[str],
    works: tuple[Name, ...] = LIGHT,
    rounds: int = 5,
    data: Path = DATA,
) -> None:
    """Prints the table.

    Args:
        revision: the earlier build, as git calls it.
        works: what is run.
        rounds: runs of each build; 1 or 2 are enough for the large works.
        data: folder of the works' files, kept.
    """
    titles = ("CPU s", "wall s", "peak MB")
    with earlier(revision) as build, TemporaryDirectory() as homes:
        rows = []
        for name in works:
            found = compare(WORKS[name], (build, ROOT), Path(homes), data=data.resolve(), rounds=rounds)
            rows.append(row(WORKS[name], *found))
            print(" | ".join(rows[-1]), flush=True)
    head = ["work", *(cell for title in titles for cell in (f"{title}, {revision} → now", "ratio"))]
    print("\n" + table(head, rows))


if __name__ == "__main__":
    tyro.cli(main)
