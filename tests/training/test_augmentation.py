"""Jitter, copy-paste and clean epochs in a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tailseg.data.settings import ColorConfig, CopyPasteConfig, JitterConfig
from tailseg.recipes import Recipe, get_recipe
from tailseg.structures import Batch
from tailseg.training.interrupt import StopRequest
from tailseg.training.loop import iterate_batches, make_console
from tailseg.training.run import Run, is_clean_epoch, start


def make_recipe(data: Path, folder: Path, **settings: Any) -> Recipe:
    recipe = get_recipe("tiny_gumbel")
    steps = {"jitter": JitterConfig(size=96), "color": ColorConfig(), "paste": CopyPasteConfig(probability=1)}
    files = {"train": str(data / "train.json"), "val": str(data / "val.json")}
    return replace(
        recipe,
        data=replace(recipe.data, **files, short_sides=(64,), max_long_side=80, workers=0, **{**steps, **settings}),
        optim=replace(recipe.optim, epochs=3, milestones=()),
        run=replace(recipe.run, out=str(folder)),
    )


def list_batches(run: Run, epoch: int, step: int = 0) -> list[Batch]:
    run.progress.epoch, run.progress.step_in_epoch = epoch, step
    batches = []
    with StopRequest() as stop, make_console(run) as console:
        for batch in iterate_batches(run, stop, console):
            batches.append(batch)
            run.progress.step_in_epoch += 1
    return batches


def test_the_last_epochs_are_clean(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "home"))
    recipe = make_recipe(data, tmp_path / "run", clean_epochs=1)
    run = start(recipe, resume=False)
    plain = start(make_recipe(data, tmp_path / "plain", jitter=None, color=None, paste=None), resume=False)
    for epoch in range(3):
        batches, others = list_batches(run, epoch), list_batches(plain, epoch)
        pasted = [target.frames is not None for batch in batches for target in batch.targets]
        if epoch < 2:
            assert {tuple(image.shape) for batch in batches for image in batch.images} == {(3, 96, 96)}
            assert sum(pasted) > len(pasted) / 2
        else:
            assert not any(pasted)
            pairs = zip(batches, others, strict=True)
            assert all(all(map(torch.equal, a.images, b.images)) for a, b in pairs)
            assert [t.boxes.tolist() for b in batches for t in b.targets] == [
                t.boxes.tolist() for b in others for t in b.targets
            ]
    again = list_batches(run, 0, step=1)  # as a resumed run
    for batch, other in zip(list_batches(run, 0)[1:], again, strict=True):
        assert all(map(torch.equal, batch.images, other.images))
        assert [target.frames for target in batch.targets] == [target.frames for target in other.targets]


def test_an_extended_run_has_its_clean_epochs_at_the_new_end(data: Path, tmp_path: Path) -> None:
    recipe = make_recipe(data, tmp_path, clean_epochs=2)
    assert [is_clean_epoch(recipe, epoch) for epoch in range(3)] == [False, True, True]
    longer = replace(recipe, optim=replace(recipe.optim, epochs=5))
    assert [is_clean_epoch(longer, epoch) for epoch in range(5)] == [False, False, False, True, True]
    none = make_recipe(data, tmp_path)
    assert not any(is_clean_epoch(none, epoch) for epoch in range(3))
