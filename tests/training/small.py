"""The smallest recipe that has every part, for tests that train: in their own process, or as `small:recipe` in others.

tiny_tail's test preset has 16 images, which repeat factor sampling makes 5 steps of an epoch.
"""

import contextlib
import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tailseg.losses import EQLv2Config, GumbelCE, GumbelCEConfig
from tailseg.models.config import BoxHeadConfig, FPNConfig, MaskHeadConfig, ModelConfig, ResNetConfig, RPNConfig
from tailseg.recipes.recipe import DataConfig, Recipe, RunConfig, SGDConfig

STEPS_PER_EPOCH = 5


def recipe(data: str | Path = "", out: str | Path = "") -> Recipe:
    """Images of several sizes, three epochs, evaluated after the second and the third."""
    return Recipe(
        name="small:recipe",
        data=DataConfig(
            train=str(Path(data) / "train.json"),
            val=str(Path(data) / "val.json"),
            short_sides=(64, 72, 80),
            test_short_side=64,
            max_long_side=128,
            batch_size=4,
            workers=0,
            repeat_threshold=0.1,
        ),
        model=ModelConfig(
            backbone=ResNetConfig(depth=18, base_width=8, weights="none", frozen_stages=0),
            fpn=FPNConfig(channels=16),
            rpn=RPNConfig(anchors_per_image=32, train_pre_nms=50, train_post_nms=30, test_pre_nms=30, test_post_nms=30),
            box=BoxHeadConfig(hidden=32, rois_per_image=16),
            mask=MaskHeadConfig(channels=8, num_convs=1),
        ),
        loss=GumbelCEConfig(),
        optim=SGDConfig(lr=0.02, epochs=3, milestones=(2,), warmup_iterations=3, clip_norm=10.0),
        run=RunConfig(out=str(out), device="cpu", log_every=1, eval_every=2),
    )


def shared(data: str | Path = "", out: str | Path = "", seed: int = 1) -> Recipe:
    """The same for several processes: four epochs, images of one size, a loss that counts what all processes see.

    A process pads its images to the largest of its own, so that only images of one size are padded alike. With some
    seeds an input of a ReLU lies so near zero, or two proposals so near each other, that rounding decides, and what is
    equal otherwise parts by a thousandth: the seeds are such that none does.
    """
    made = recipe(data, out)
    return replace(
        made,
        name="small:shared",
        data=replace(made.data, short_sides=(64,), max_long_side=64),
        loss=EQLv2Config(),
        optim=replace(made.optim, epochs=4, milestones=(3,)),
        run=replace(made.run, eval_every=0, seed=seed),
    )


@dataclass(frozen=True)
class TroublesomeConfig(GumbelCEConfig):
    """The Gumbel loss, and a trouble in call ``call`` of process ``rank`` as long as ``file`` exists.

    The file says which: ``nan``, ``nan gradient``, ``kill loaders``, ``kill host`` (this process and who started it),
    ``delete PATH``, ``fill PATH`` (write until the disk is full), or the number of a signal that the process sends
    itself. A kill comes once.
    """

    file: str = ""
    call: int = 0
    rank: int = 0

    def build(self, frequency):
        return Troublesome(self, frequency.num_classes)


class Troublesome(GumbelCE):
    def __init__(self, config: TroublesomeConfig, num_classes: int) -> None:
        super().__init__(num_classes)
        self.config, self.calls = config, 0

    def forward(self, logits, labels):
        losses = super().forward(logits, labels)
        file, here = Path(self.config.file), int(os.environ.get("RANK", "0"))
        if self.calls == self.config.call and here == self.config.rank and file.exists():
            trouble = file.read_text()
            if trouble == "nan":
                losses = {"loss_cls": losses["loss_cls"] * torch.nan}
            elif trouble == "nan gradient":  # the root's slope at 0 is infinite, and 0 times that is no number
                losses = {"loss_cls": losses["loss_cls"] + (logits.float() * 0).sum().abs().sqrt() * 0}
            elif trouble == "kill loaders":
                file.unlink()
                for loader in multiprocessing.active_children():
                    loader.kill()
            elif trouble == "kill host":
                file.unlink()
                for process in (os.getppid(), os.getpid()):
                    os.kill(process, signal.SIGKILL)
            elif trouble.startswith("delete "):
                Path(trouble.removeprefix("delete ")).unlink(missing_ok=True)
            elif trouble.startswith("fill "):
                with contextlib.suppress(OSError), Path(trouble.removeprefix("fill ")).open("wb", buffering=0) as full:
                    while full.write(b"x" * 1024):
                        pass
            else:
                if int(trouble) == signal.SIGKILL:
                    file.unlink()
                os.kill(os.getpid(), int(trouble))
        self.calls += 1
        return losses


def troublesome() -> Recipe:
    """`shared` with a trouble that the command line chooses."""
    return replace(shared(), name="small:troublesome", loss=TroublesomeConfig())


def numbered() -> Recipe:
    """`shared`, into a folder that the recipe names and the command does not."""
    return shared(out="runs/two")
