"""Seconds of `import tailseg.losses` and others after `import torch`, and the size of the wheel.

    uv run python benchmarks/imports.py

A new process imports one after the other, and takes the CPU time of each: what is left when the files are in memory and
nothing else runs. The least of the rounds.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from measure import table, write

ROUNDS = 3
# In this order: each line is what it needs in addition to the lines above it.
IMPORTS = {
    "`import torch`": "import torch",
    "`tailseg.losses`, every name": "from tailseg.losses import *",
    "`tailseg.ops`, every name (torchvision)": "from tailseg.ops import *",
    "`tailseg.evaluation`": "import tailseg.evaluation",
}
CHILD = """
import json, sys, time
times = []
for code in json.loads(sys.argv[1]):
    began = time.process_time()
    exec(code)
    times.append(time.process_time() - began)
print(json.dumps(times))
"""


def measure_imports() -> list[float]:
    """CPU seconds of each import, in a new process."""
    command = [sys.executable, "-c", CHILD, json.dumps(list(IMPORTS.values()))]
    return json.loads(subprocess.check_output(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}))


def describe_wheel() -> str:
    """The size of the wheel and of its files."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", folder, str(root)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            files = archive.infolist()
        weights = sum(file.file_size for file in files if file.filename.endswith(".safetensors"))
        size, total = wheel.stat().st_size, sum(file.file_size for file in files)
    return (
        f"The wheel has {size / 1e6:.1f} MB; unpacked {total / 1e6:.1f} MB, of which {weights / 1e6:.1f} MB are the "
        "weights of the small backbone."
    )


def main() -> None:
    """Measures and writes the table."""
    least = [min(times) for times in zip(*(measure_imports() for _ in range(ROUNDS)), strict=True)]
    rows = [[name, f"{seconds:.2f}"] for name, seconds in zip(IMPORTS, least, strict=True)]
    text = table(["What is imported, one after the other", "CPU seconds"], rows)
    write("imports", "Imports and the wheel", f"{text}\n{describe_wheel()}\n", threads=1)


if __name__ == "__main__":
    main()
