"""Runs losses, operations, evaluation and a short training with the lowest, a middle and the newest versions.

    python .ci/versions.py                  all environments of ENVIRONMENTS, one after the other
    python .ci/versions.py middle --parts training

Each environment is made in a temporary folder, which needs 6 GB, and is removed afterwards. A Python that the machine
lacks is downloaded by uv; where that is not possible, the environment is left out, and the table says so. The last
lines are the table of docs/install.md.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import blocks

LIBRARY = ["losses", "ops", "evaluation", "parity/test_evaluation_lvis.py"]
LOWEST = ["--resolution", "lowest-direct"]
# Python, what is installed and how, and what is tested.
ENVIRONMENTS = {
    "lowest": ("3.11", LOWEST, LIBRARY),
    "middle": ("3.12", [*LOWEST, "--extra", "train"], [*LIBRARY, "training"]),
    "newest": ("3.13", ["--extra", "train"], [*LIBRARY, "training"]),
    "newest_python": ("3.14", ["--extra", "train"], [*LIBRARY, "training"]),
}
# tyro and supervision: tests also call commands, and give detections as supervision has them
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "beartype", "lvis", "tyro", "supervision", "jsonschema"]
SHOWN = ["torch", "torchvision", "numpy", "hotcoco"]
TRAIN = f"""
from tailseg.cli import main

assert main("train my.json {blocks.SHORT}".split()) == 0
assert main("predict runs/custom_small photos --score-threshold 0.0".split()) == 0
"""


def make_environment(folder: Path, version: str, arguments: list[str]) -> Path:
    """Makes the environment with what tailseg needs, tailseg, and the tools of the tests; returns its Python."""
    blocks.execute(["uv", "venv", "--quiet", "--python", version, str(folder)], blocks.ROOT)
    python = folder / "bin/python"
    install = ["uv", "pip", "install", "--quiet", "--python", str(python)]
    blocks.execute([*install, "-r", "pyproject.toml", *arguments], blocks.ROOT)
    # What is there stays as it is: lvis would like an OpenCV, and with it supervision another NumPy.
    kept = folder / "installed.txt"
    kept.write_text(subprocess.check_output(["uv", "pip", "freeze", "--python", str(python)], text=True))
    blocks.execute([*install, "--constraint", str(kept), *TOOLS], blocks.ROOT)
    blocks.execute([*install, "--no-deps", str(blocks.ROOT)], blocks.ROOT)
    return python


def has_python(version: str) -> bool:
    """Whether uv finds this Python, or can download it."""
    commands = (["uv", "python", verb, "--quiet", version] for verb in ("find", "install"))
    return any(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)


def run_part(python: Path, part: str, folder: Path) -> None:
    """Runs tests, or a training from the command line."""
    if part == "training":
        folder.mkdir()
        blocks.execute([str(python), "-c", blocks.USER_FILES + TRAIN], folder)
    else:
        blocks.execute([str(python), "-m", "pytest", "-q", "-n", "auto", f"tests/{part}"], blocks.ROOT)


def read_versions(python: Path) -> dict[str, str]:
    """The versions of Python and of the packages of SHOWN."""
    code = "import platform; from importlib.metadata import version\nprint(platform.python_version(), end='')"
    code += "".join(f"\nprint('', version({name!r}), end='')" for name in SHOWN)
    return dict(zip(["Python", *SHOWN], subprocess.check_output([python, "-c", code], text=True).split(), strict=True))


def main() -> None:
    """Makes and tests the environments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ENVIRONMENTS)}; all without a name")
    parser.add_argument("--parts", nargs="+", help="folders or files of tests/, or training; all without a name")
    options = parser.parse_args()
    rows = []
    for name in options.names or ENVIRONMENTS:
        began = time.monotonic()
        version, arguments, parts = ENVIRONMENTS[name]
        parts = options.parts or parts
        if not has_python(version):
            rows.append([version, *[""] * len(SHOWN), "nothing: no such Python here"])
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary).resolve()
            python = make_environment(folder / "environment", version, arguments)
            versions = read_versions(python)
            for part in parts:
                run_part(python, part, folder / part)
        rows.append([*versions.values(), ", ".join(parts)])
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    header = ["Python", *SHOWN, "Ran"]
    for row in [header, ["---"] * len(header), *rows]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
