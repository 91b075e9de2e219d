"""Builds the sdist and the wheel, and uses them as a user would: in an empty environment, outside the repository.

    python .ci/packages.py

The files of both archives are compared with git's. The wheel is installed with its dependencies: losses, operations and
evaluation work, and a command names the extra `train`. With it, every module is imported, a small network is trained on
drawn images, and the README's Python blocks run. Then the sdist is installed in place of the wheel, and the blocks run
again.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import blocks

LIBRARY = """
import torch
from tailseg.cli import main
from tailseg.evaluation import analyze
from tailseg.losses import *
from tailseg.ops import *

GumbelCE(num_classes=3)(torch.zeros(2, 4), torch.tensor([0, 3]))["loss_cls"].item()
square = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}
truth = {
    "images": [{"id": 1, "height": 9, "width": 9}],
    "categories": [{"id": 1, "name": "ant"}],
    "annotations": [square | {"id": 1, "area": 16, "iscrowd": 0}],
}
assert analyze(truth, [square | {"score": 0.9}], boundary=True).boundary["AP"] > 0.999
assert main(["recipes"]) == 1, "a command needs the extra train"
"""
IMPORT_ALL = """
import importlib, pkgutil, sys
import tailseg

assert tailseg.__file__.startswith(sys.prefix), f"{tailseg.__file__} is not in {sys.prefix}"
# these need the frameworks that they are for, or the extra export
others = [f"interop.{name}" for name in ("detr", "lightning", "mmdet", "trainer", "ultralytics")]
others += [f"export.{name}" for name in ("layers", "onnx_file", "openvino_file", "quantization")]
for module in pkgutil.walk_packages(tailseg.__path__, "tailseg."):
    if module.name not in ("tailseg.__main__", *(f"tailseg.{name}" for name in others)):
        importlib.import_module(module.name)
"""
TRAIN = f"""
from tailseg.cli import main

assert main("train my.json {blocks.SHORT}".replace("--no-report", "").split()) == 0
"""
RUN_BLOCKS = """
import json

for code in json.load(open("blocks.json")):
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
"""


def list_tracked_files(repository: Path) -> set[str]:
    """The files that git knows."""
    return set(subprocess.check_output(["git", "ls-files"], cwd=repository, text=True).splitlines())


def compare(archive: Path, files: set[str], expected: set[str]) -> None:
    """Ends with an error that names what the archive lacks and what it should not have."""
    lacking, surplus = sorted(expected - files), sorted(files - expected)
    if lacking or surplus:
        raise SystemExit(f"{archive.name} lacks {lacking or 'nothing'} and should not have {surplus or 'anything'}")
    print(f"{archive.name}: {len(files)} files, {archive.stat().st_size / 1e6:.1f} MB", flush=True)


def check_contents(wheel: Path, sdist: Path, repository: Path) -> None:
    """The wheel has all of src/tailseg and nothing else, the sdist has the whole repository."""
    tracked = list_tracked_files(repository)
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    compare(wheel, files, {name.removeprefix("src/") for name in tracked if name.startswith("src/tailseg/")})
    with tarfile.open(sdist) as archive:
        files = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    compare(sdist, files - {"PKG-INFO"}, tracked)


def read_python_blocks(page: Path) -> list[str]:
    """The code of the page's Python blocks, without those that are skipped."""
    return [block.code for block in blocks.read_blocks(page) if block.language == "python" and block.mark != "skip"]


def run_python(python: Path, folder: Path, code: str) -> None:
    """Runs code with the environment's Python."""
    blocks.execute([str(python), "-c", code], folder)


def main() -> None:
    """Builds, installs, uses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        repository = blocks.clone(folder)
        for variable in ("PYTHONPATH", "PYTHONHOME"):
            os.environ.pop(variable, None)
        # the wheel is built from the sdist
        blocks.execute(["uv", "build", "--quiet", "--out-dir", str(folder / "dist")], repository)
        (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
        check_contents(wheel, sdist, repository)
        blocks.execute(["uv", "venv", "--quiet", "--python", sys.executable, "environment"], folder)
        python = folder / "environment/bin/python"
        install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
        blocks.execute([*install, str(wheel)], folder)
        user = folder / "user"
        user.mkdir()
        run_python(python, user, LIBRARY)
        blocks.execute([*install, f"{wheel}[train]"], folder)
        print(f"{time.monotonic() - began:.0f} s until the wheel was installed with the extra train", flush=True)
        (user / "blocks.json").write_text(json.dumps(read_python_blocks(repository / "README.md")))
        # in one process, because most of the time goes into importing torch
        run_python(python, user, blocks.USER_FILES + IMPORT_ALL + TRAIN + RUN_BLOCKS)
        blocks.execute([*install, "--no-deps", "--reinstall-package", "tailseg", str(sdist)], folder)
        blocks.execute([str(python.with_name("tailseg")), "--version"], user)
        run_python(python, user, RUN_BLOCKS)
        print(f"the wheel and the sdist work: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
