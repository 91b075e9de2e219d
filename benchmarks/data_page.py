"""The page of `tailseg data show` for a data set of LVIS's size: time, memory, size of the file, time in a browser.

    uv run python benchmarks/data_page.py
    uv run python benchmarks/data_page.py --scale 0.1      a tenth of the images and objects

The annotation file is that of `data.py` (synthetic, 1.1 GB at scale 1; written to ``--folder`` once). Each command runs
in its own process, once to fill the caches and then ``--rounds`` times; each figure is the least. CPU time counts all
threads. Peak memory contains the pages of the mapped cache file. The browser is Chromium, without a GPU; its time is
from the navigation to the load event.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import measure
import tyro
from playwright.sync_api import sync_playwright
from synthetic_lvis import write_lvis

from data import COUNTS


@dataclass(frozen=True)
class Options:
    """See the top of the file."""

    folder: Path = Path.home() / ".cache" / "tailseg-benchmark"
    scale: float = 1.0
    rounds: int = 3
    write: bool = False
    """Write the table to benchmarks/results."""


def run(*arguments: object) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of `tailseg data show`."""
    command = [sys.executable, "-m", "tailseg", "data", "show", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # no import compiles its module again
    process = os.posix_spawn(
        command[0], command, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def load(page: Path) -> float:
    """Seconds until Chromium has loaded the page."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        opened.goto(page.as_uri())
        timing = "(({ loadEventEnd }) => loadEventEnd / 1000)(performance.getEntriesByType('navigation')[0])"
        seconds = float(opened.evaluate(timing))
        browser.close()
    return seconds


def main(options: Options) -> None:
    """Measures the command without and with a page."""
    file = write_lvis(options.folder, scale=options.scale, counts=COUNTS if COUNTS.is_file() else None)
    rows = []
    with TemporaryDirectory() as folder:
        page = Path(folder) / "show.html"
        for name, arguments in (("without a page", []), ("with a page", ["--page", page])):
            results = [run(file, *arguments) for _ in range(options.rounds + 1)][1:]
            figures = [f"{min(seconds for seconds, _ in results):.1f}", f"{min(peak for _, peak in results):,.0f}"]
            if page.exists():
                figures += [f"{page.stat().st_size / 1e6:.2f}", f"{min(load(page) for _ in range(options.rounds)):.2f}"]
            rows.append([name, *figures, *["-"] * (5 - 1 - len(figures))])
    text = measure.table(["data show", "CPU s", "peak, MB", "page, MB", "in a browser, s"], rows)
    if options.write:
        measure.write("data_page", "The page of a data set of LVIS's size", text, threads=1)
    else:
        print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
