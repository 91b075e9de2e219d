"""What several processes do together, under torchrun: ``several.py FOLDER DATA ALONE``.

They train, evaluate what one process trained (the run ALONE), and meet troubles that one of them has alone. Each writes
what came of it to ``FOLDER/<rank>.json``.
"""

import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import small

from tailseg.cli.test import Test, evaluate_run
from tailseg.recipes.recipe import DataConfig, Recipe
from tailseg.training.distributed import (
    all_or_none,
    barrier,
    gather_on_all,
    is_main_process,
    joined,
    leave,
    main_process_first,
    on_main_process,
    rank,
)
from tailseg.training.loop import train, train_step
from tailseg.training.run import start


def main(folder: Path, data: Path, alone: Path) -> None:
    outcome: dict[str, object] = {}
    outcome["metrics"] = train(small.shared(data, folder / "run")).to_json()
    copy = folder / "alone"
    on_main_process(lambda: shutil.copytree(alone, copy))
    evaluate_run(Test(run=copy, device="cpu", recipe="small:shared"))

    train(learned_norms(data, folder / "run_norms"))
    outcome["order"] = order(folder / "order")
    outcome["failed alone"] = trouble(failed_alone)
    outcome["unforeseen"] = trouble(unforeseen)
    for name, text in (("nan", "nan"), ("nan gradient", "nan gradient"), ("sigterm", str(int(signal.SIGTERM)))):
        file = folder / name
        config = small.TroublesomeConfig(file=str(file), call=2, rank=1)
        on_main_process(lambda file=file, text=text: file.write_text(text))
        recipe = replace(small.shared(data, folder / f"run_{name}"), loss=config)
        outcome[name] = trouble(lambda recipe=recipe: train(recipe))
    outcome["bad image"] = trouble(lambda: train(small.shared(folder / "bad", folder / "run_bad")))
    outcome["shares"] = trouble(lambda: start(parts(data, folder / "shares", 2), resume=False))
    outcome["gradient"] = gradient(replace(parts(data, folder / "parts", 2), data=eight_images(data)))
    (folder / f"{rank()}.json").write_text(json.dumps(outcome))


def parts(data: Path, out: Path, count: int) -> Recipe:
    """Faster R-CNN, whose parts have as many regions each."""
    recipe = small.shared(data, out)
    model, optim = replace(recipe.model, mask=None), replace(recipe.optim, accumulation_steps=count, clip_norm=None)
    return replace(recipe, model=model, optim=optim, loss=small.recipe().loss)


def learned_norms(data: Path, out: Path) -> Recipe:
    """Batch norms that learn their statistics, and an average of the weights."""
    recipe = small.shared(data, out)
    model = replace(recipe.model, backbone=replace(recipe.model.backbone, fixed_norm=False))
    return replace(recipe, model=model, optim=replace(recipe.optim, epochs=2, milestones=(), ema_decay=0.8))


def eight_images(data: Path) -> DataConfig:
    """Two for each of four processes."""
    return replace(small.shared(data).data, batch_size=8)


def gradient(recipe: Recipe) -> list[float]:
    """The first step's gradient of every parameter: its norm."""
    run = start(recipe, resume=False)
    run.sampler.set_epoch(0)
    run.model.train()
    train_step(run, next(iter(run.loader)))
    return [float(value.grad.norm()) for value in run.model.parameters()]


def order(file: Path) -> list[int]:
    """Which process wrote its line when."""
    with main_process_first(), file.open("a") as lines:
        lines.write(f"{rank()}\n")
    barrier()
    return [int(line) for line in file.read_text().split()]


def failed_alone() -> None:
    with all_or_none():
        if rank() == 1:
            raise ValueError("repair this")


def unforeseen() -> None:
    with all_or_none():
        if rank() == 1:
            {}["absent"]


def trouble(work) -> str:
    try:
        work()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (whatever it is, it is what is looked at)
        return f"{type(error).__name__}: {error}"
    return "none"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined():
        assert gather_on_all(rank())[0] == 0
        assert is_main_process() == (rank() == 0)
        main(*map(Path, sys.argv[1:]))
    leave(0)
