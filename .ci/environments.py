"""Finds an environment for `tailseg[train]` and each framework of its users; prints the table of docs/install.md.

    python .ci/environments.py                       resolves all: two minutes, installs nothing
    python .ci/environments.py --install             and installs each in a temporary folder, one after the other, and
                                                     imports both there; an environment needs 6 to 8 GB
    python .ci/environments.py --install ultralytics only this one

A framework is taken in its newest version. The script fails if one of those that fit before does not fit any more.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blocks

FRAMEWORKS = {
    "rfdetr[train]": "import rfdetr",
    "ultralytics": "from ultralytics import YOLO",
    "lightly-train": "import lightly_train",
    "transformers accelerate": "from transformers import RfDetrForInstanceSegmentation",
    "onedl-mmdetection onedl-mmcv onedl-mmengine": "from mmdet.apis import init_detector",
    "fiftyone": "import fiftyone",
    "libreyolo": "import libreyolo",
}
TESTS = {
    "rfdetr[train]": "tests/interop/test_rfdetr.py tests/interop/test_rfdetr_loss.py",
    "transformers accelerate": "tests/interop/test_detr.py tests/interop/test_detr_examples.py",
    "ultralytics": "tests/interop/test_ultralytics_loss.py",
    "onedl-mmdetection onedl-mmcv onedl-mmengine": "tests/interop/test_mmdet_loss.py",
}
"""The tests of the losses in a framework; they are skipped where it is missing."""
SHOWN = ["torch", "torchvision", "hotcoco", "numpy", "supervision", "opencv-python", "opencv-python-headless"]
PYTHON = "3.11"
# The losses, the evaluation and a command of tailseg, after the framework has imported what it wants.
CHECK = """
import torch
from tailseg.cli import main
from tailseg.evaluation import evaluate
from tailseg.losses import GumbelCE
import tailseg.drawing, tailseg.report, tailseg.training

logits = torch.zeros(2, 4, requires_grad=True)
GumbelCE(num_classes=3)(logits, torch.tensor([1, 3]))["loss_cls"].backward()
assert logits.grad.abs().sum() > 0
square = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
truth = {
    "images": [{"id": 1, "height": 9, "width": 9}],
    "categories": [{"id": 1, "name": "ant"}],
    "annotations": [square | {"id": 1, "area": 16, "iscrowd": 0}],
}
assert evaluate(truth, [square | {"score": 0.9}])["bbox"]["AP"] > 0.999
assert main(["recipes"]) == 0
"""


def resolve(name: str) -> tuple[str, str]:
    """The requirements that fit the framework and tailseg, or what contradicts."""
    wanted = "\n".join([*name.split(), f"tailseg[train] @ {blocks.ROOT.as_uri()}"])
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", PYTHON, "-"]
    done = subprocess.run(command, input=wanted, capture_output=True, text=True, check=False)
    return (done.stdout, "") if done.returncode == 0 else ("", " ".join(done.stderr.split()))


def read_versions(requirements: str) -> dict[str, str]:
    """The version of each package."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", requirements, re.MULTILINE))


def install(requirements: str, code: str, tests: str | None) -> None:
    """Installs the requirements into a temporary folder, imports the framework and tailseg there, runs the tests."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        (folder / "requirements.txt").write_text(requirements)
        blocks.execute(["uv", "venv", "--quiet", "--python", PYTHON, "environment"], folder)
        python = str(folder / "environment/bin/python")
        blocks.execute(["uv", "pip", "install", "--quiet", "--python", python, "-r", "requirements.txt"], folder)
        home = ["env", f"HOME={folder}", f"TAILSEG_HOME={folder}/cache"]  # some frameworks write settings there
        blocks.execute([*home, python, "-c", f"{code}\n{CHECK}"], folder, timeout=900)
        if tests is not None:
            blocks.execute(["uv", "pip", "install", "--quiet", "--python", python, "pytest", "beartype"], folder)
            pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            blocks.execute([*home, *pytest, *tests.split()], blocks.ROOT, timeout=900)


def main() -> None:
    """Resolves, installs where it is wanted, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", nargs="*", metavar="NAME", help="the frameworks to install; all without a name")
    options = parser.parse_args()
    wanted = [] if options.install is None else options.install or [name.split()[0] for name in FRAMEWORKS]
    failed = []
    rows = [["Next to", *SHOWN, "Installed, and both imported"], ["---"] * (len(SHOWN) + 2)]
    for name, code in FRAMEWORKS.items():
        requirements, reason = resolve(name)
        if reason:
            failed.append(f"{name}: {reason}")
            continue
        done, began = "", time.monotonic()
        if name.split()[0] in wanted:
            try:
                install(requirements, code, TESTS.get(name))
                done = "yes"
                print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
            except subprocess.SubprocessError as error:
                failed.append(f"{name}: {str(error)[:200]}")
                done = "no"
        versions = read_versions(requirements)
        title = " ".join(f"{part} {versions[part.partition('[')[0]]}" for part in name.split())
        rows.append([title, *(versions.get(package, "") for package in SHOWN), done])
    print()
    for row in rows:
        print(f"| {' | '.join(row)} |")
    if failed:
        sys.exit("\n".join(["", "These do not fit:", *failed]))


if __name__ == "__main__":
    main()
