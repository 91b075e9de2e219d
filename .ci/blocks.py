"""Runs the commands and the Python code of the README and of docs/, as a reader would.

    python .ci/blocks.py demo             the README's demo in a fresh clone, to its end; it must have learned
    python .ci/blocks.py readme           every other ```bash and ```python block of the README, in a fresh clone
    uv run python .ci/blocks.py docs      the blocks of docs/ and examples/README.md; after `docs`, pages can be named
    python .ci/blocks.py tests            the tests, in this working tree

An HTML comment in the line before a block says how it is run:

    <!-- demo -->, <!-- tests -->   that block of the README
    <!-- skip: why -->              not at all
    <!-- tested: tests/FILE.py -->  by that test; `page tested:` in a line of its own holds for the whole page
    <!-- short: --option value -->  with these options added to its `tailseg train` commands; `short` alone: see SHORT

A page of docs/ runs in one process, in a folder of its own with the files of `prepare`. A Python block with the first
line `# name.py` is appended to that file. Other Python blocks of a page share their variables. Blocks in other
languages, or without one, are not run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>\w+)(?:: (?P<note>[^\n]*?))? -->\n)?^ *```(?P<language>bash|python)\n(?P<code>.*?)^ *```",
    re.DOTALL | re.MULTILINE,
)
PAGE_TESTED = re.compile(r"^<!-- page tested: (\S+) -->$", re.MULTILINE)
SHORT = (
    "--data.workers 0 --data.short-sides 64 --data.test-short-side 64 --optim.epochs 1 --optim.milestones --no-report"
)
DEMO_SECONDS = 1200
GOAL_AP50_OF_FREQUENT_CLASSES = 0.30
PAGES_AT_ONCE = 2
USER_FILES = """
import json
from pathlib import Path
from tailseg.data.tiny_tail import generate

drawn = generate(Path("drawn"), preset="test")
(drawn / "train.json").rename("my.json")
(drawn / "train").rename("train")
(drawn / "val").rename("photos")
val = json.loads((drawn / "val.json").read_text())
for image in val["images"]:
    image["file_name"] = Path(image["file_name"]).name
Path("photos", val["images"][0]["file_name"]).rename("photos/a.jpg")
val["images"][0]["file_name"] = "a.jpg"
Path("val.json").write_text(json.dumps(val))
Path("results.json").write_text(json.dumps([record | {"score": 0.9} for record in val["annotations"]]))
"""


class Block(NamedTuple):
    """A block of a page."""

    mark: str
    note: str
    language: str
    code: str


def read_blocks(page: Path, *, own_marks: bool = False) -> list[Block]:
    """Reads all blocks of a page in order.

    In a page that a test runs, every block that is not skipped has the mark `tested`, unless `own_marks` are wanted.
    """
    text = page.read_text()
    tested = PAGE_TESTED.search(text)
    blocks = []
    for match in BLOCK.finditer(text):
        mark, note = match["mark"] or "", match["note"] or ""
        if mark == "short" and not note:
            note = SHORT
        if tested and mark != "skip" and not own_marks:
            mark, note = "tested", tested[1]
        blocks.append(Block(mark, note, match["language"], textwrap.dedent(match["code"]).strip()))
    return blocks


def split_commands(block: Block) -> list[str]:
    """Splits a bash block into its commands, with the options that the mark adds to a training."""
    lines = [line.strip() for line in block.code.replace("\\\n", " ").splitlines()]
    extra = f" {block.note}" if block.mark == "short" else ""
    return [
        line + (extra if line.startswith("tailseg train") else "")
        for line in lines
        if line and not line.startswith("#")
    ]


# The README, in a fresh clone.


def find_marked(mark: str) -> Block:
    """The one block of the README with the mark."""
    (block,) = [block for block in read_blocks(ROOT / "README.md") if block.mark == mark]
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


def run_demo() -> None:
    """The demo to its end: it must reach the goal and draw what it found."""
    with tempfile.TemporaryDirectory() as folder:
        here = clone(Path(folder))
        began = time.monotonic()
        execute(find_marked("demo").code, here, timeout=DEMO_SECONDS)
        print(f"the demo took {(time.monotonic() - began) / 60:.1f} minutes, installation included")
        score = json.loads((here / "runs/demo/metrics.json").read_text())["scores"]["segm"]["AP50f"]
        print(f"mask AP50 of frequent classes: {score:.3f}, goal {GOAL_AP50_OF_FREQUENT_CLASSES}", flush=True)
        if score < GOAL_AP50_OF_FREQUENT_CLASSES:
            raise SystemExit("the demo has not learned enough")
        for name in ("demo.png", "report.html"):
            if not (here / "runs/demo" / name).is_file():
                raise SystemExit(f"the demo has left no {name}")


def run_readme() -> None:
    """Every other block."""
    with tempfile.TemporaryDirectory() as folder:
        here = clone(Path(folder))
        execute(["uv", "run", "--no-dev", "--extra", "train", "python", "-c", USER_FILES], here)
        for block in read_blocks(ROOT / "README.md"):
            if block.mark in ("demo", "tests"):
                continue
            if block.mark in ("skip", "tested"):
                print(f"\nnot run ({block.mark}: {block.note}):\n{block.code}", flush=True)
            elif block.language == "python":
                execute(["uv", "run", "--no-dev", "--extra", "train", "python", "-c", block.code], here)
            else:
                for command in split_commands(block):
                    execute(f"uv run --no-dev --extra train {command}", here)


# The pages of docs/, each in a process that starts with everything imported.


def find_pages() -> list[Path]:
    """The pages whose blocks are run; the README has its own step."""
    return [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/README.md"]


def copy(old: str, new: str) -> None:
    """Copies a file. Weights get a second name only, because tailseg never changes such a file."""
    (os.link if old.endswith((".pt", ".safetensors")) else shutil.copy2)(old, new)


def prepare(folder: Path) -> None:
    """Makes the files that the pages name: annotation files, images, a run under several names, results files."""
    from tailseg.cli import main
    from tailseg.data.tiny_tail import generate

    os.chdir(folder)
    drawn = generate(folder / "drawn", preset="test")
    for part in ("train", "val"):
        (drawn / part).rename(part)
        (drawn / f"{part}.json").rename(f"{part}.json")
    shutil.rmtree(drawn)
    train, val = (json.loads(Path(f"{part}.json").read_text()) for part in ("train", "val"))
    for index, image in enumerate(val["images"]):
        image |= {"site": f"site {index % 3}", "attributes": {"night": index % 2 == 0}}
    Path("val.json").write_text(json.dumps(val))
    # my.json has the images of both parts, so every results file also fits it.
    mine = train | {key: [*train[key], *val[key]] for key in ("images", "annotations")}
    mine["annotations"] = [{**record, "id": index} for index, record in enumerate(mine["annotations"], start=1)]
    Path("my.json").write_text(json.dumps(mine))
    shutil.copytree("val", "photos")
    for part in ("train", "val"):
        Path("photos", part).symlink_to(f"../{part}")
        shutil.copy(f"{part}.json", f"lvis_v1_{part}.json")
    first, *others = sorted(Path("photos").glob("*.*"))
    Path("more_photos").mkdir()
    shutil.copy(first, "photo.jpg")
    shutil.copy(others[0], "more_photos")
    if main(["train", "train.json", "--data.val", "val.json", *SHORT.split()]):
        raise SystemExit("the training for the pages failed")
    for name in ("mine", "ours", "tiny_gumbel", "tiny_sigmoid", "tiny_softmax"):
        shutil.copytree("runs/custom_small", f"runs/{name}", copy_function=copy)
    results = json.loads(Path("runs/custom_small/results.json").read_text())
    for name, left_out in {
        **dict.fromkeys(("results", "predictions", "other", "baseline", "ours")),
        "work.bbox": "segmentation",
        "work.segm": "bbox",
    }.items():
        records = [{key: value for key, value in record.items() if key != left_out} for record in results]
        Path(f"{name}.json").write_text(json.dumps(records))


def run_page(page: Path, files: Path, folder: Path) -> None:
    """Runs the blocks of one page in this process, in the new folder with copies of the files."""
    from tailseg.cli import main

    shutil.copytree(files, folder, symlinks=True, copy_function=copy)
    shutil.copytree(ROOT / "examples", folder / "examples")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    variables = {"__name__": "__main__"}
    for block in read_blocks(page):
        if block.mark in ("skip", "tested"):
            continue
        first, _, rest = block.code.partition("\n")
        if block.language == "python" and re.fullmatch(r"# \w+\.py", first):
            with Path(first[2:]).open("a") as file:
                file.write(f"{rest}\n")
        elif block.language == "python":
            print(f">>> {first} ...", flush=True)
            exec(compile(block.code, page.name, "exec"), variables)
        else:
            for command in split_commands(block):
                print(f"$ {command}", flush=True)
                if command.startswith("tailseg ") and not set("|><&;$`") & set(command):
                    code = main(shlex.split(command)[1:])
                else:
                    code = subprocess.run(["bash", "-euc", command], stdin=subprocess.DEVNULL, check=False).returncode
                if code:
                    raise SystemExit(f"{command!r} ended with {code}")


def run_docs(names: list[str]) -> None:
    """The pages, or those that are named; each in a child process that need not import torch again."""
    pages = [Path(name).resolve() for name in names] or find_pages()
    pages = [page for page in pages if any(block.mark not in ("skip", "tested") for block in read_blocks(page))]
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        os.environ |= {
            "TAILSEG_HOME": str(folder / "home"),
            "PYTHONPATH": ".",
            "BROWSER": "true",  # --open opens no browser
            "OMP_NUM_THREADS": "1",  # the children share the cores
        }
        import tailseg.cli.predict
        import tailseg.cli.train
        import tailseg.report
        import tailseg.training.loop  # noqa: F401, what most commands need

        files = folder / "files"
        files.mkdir()
        children: dict[int, tuple[str, Path, float]] = {}

        def wait() -> None:
            pid, status = os.wait()
            title, output, began = children.pop(pid)
            if status:
                print(output.read_text())
                failed.append(title)
            print(f"{title}: {'FAILED' if status else 'ok'}, {time.monotonic() - began:.1f} s", flush=True)

        for number, page in enumerate([None, *pages]):
            title = str(page.relative_to(ROOT)) if page else "the files of all pages"
            output = folder / f"{number}.txt"
            child = os.fork()
            if child == 0:
                _run_child(page, files, folder / f"page{number}", output)
            children[child] = title, output, time.monotonic()
            if page is None:
                wait()
                if failed:
                    break
            elif len(children) == PAGES_AT_ONCE:
                wait()
        while children:
            wait()
    if failed:
        raise SystemExit(f"blocks failed in: {', '.join(failed)}")


def _run_child(page: Path | None, files: Path, folder: Path, output: Path) -> None:
    """Runs a page in the forked process, prints into the file, and ends the process."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        run_page(page, files, folder) if page else prepare(files)
    except BaseException:  # noqa: BLE001, also SystemExit; the parent reads the file
        import traceback

        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    what, *names = sys.argv[1:] or [""]
    if what == "tests":
        execute(find_marked("tests").code, ROOT)
    elif what == "docs":
        run_docs(names)
    elif what in ("demo", "readme") and not names:
        {"demo": run_demo, "readme": run_readme}[what]()
    else:
        raise SystemExit(__doc__)
