"""Shows that memory and open files do not grow over many predictions and many training steps.

    uv run python benchmarks/flat.py --predictions 500 --steps 400

A small network on small images, each measurement in one process: resident memory (VmRSS) and open descriptors after a
tenth of the work, when caches are filled, and at the end.
"""

import gc
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

sys.path.insert(0, str(Path(__file__).parent))
from measure import kernel_memory, table


def measure_held() -> tuple[float, int]:
    """Returns resident memory in MB and the number of open descriptors."""
    gc.collect()
    return kernel_memory("VmRSS") / 1e6, len(list(Path("/proc/self/fd").iterdir()))


def main(predictions: int = 500, steps: int = 400) -> None:
    """Prints the table.

    Args:
        predictions: images.
        steps: training steps.
    """
    from tailseg.data.tiny_tail import generate
    from tailseg.inference import Predictor
    from tailseg.recipes import get_recipe
    from tailseg.training import loop

    rows = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        drawn = generate(folder / "drawn", preset="test")
        recipe = get_recipe("custom_small")
        data = replace(recipe.data, train=str(drawn / "train.json"), val=str(drawn / "val.json"), batch_size=2)
        optim = replace(recipe.optim, epochs=max(1, steps // 8), milestones=())
        out = folder / "run"
        recipe = replace(recipe, data=data, optim=optim, run=replace(recipe.run, out=str(out), eval_every=0))
        figures: list[tuple[float, int]] = []
        take_step = loop.train_step

        def counted(*arguments, **named):
            figures.append(measure_held() if len(figures) in (steps // 10, steps - 1) else (0, 0))
            return take_step(*arguments, **named)

        loop.train_step = counted
        loop.train(recipe)
        rows.append(format_row(f"{len(figures)} training steps", figures[steps // 10], figures[-1]))
        predictor = Predictor.from_run(out)
        images = sorted((drawn / "train").iterdir())
        seen = []
        for i in range(predictions):
            list(predictor.predict([images[i % len(images)]]))
            if i in (predictions // 10, predictions - 1):
                seen.append(measure_held())
        rows.append(format_row(f"{predictions} predictions", *seen))
    print(table(["Work", "MB at a tenth", "MB at the end", "descriptors at a tenth", "at the end"], rows))


def format_row(title: str, early: tuple[float, int], late: tuple[float, int]) -> list[str]:
    """Formats a row of the table."""
    return [title, f"{early[0]:,.0f}", f"{late[0]:,.0f}", str(early[1]), str(late[1])]


if __name__ == "__main__":
    tyro.cli(main)
