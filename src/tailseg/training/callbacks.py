"""Callbacks: what a user's code does during a training, at its start, after steps and epochs, and at its end."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from tailseg.annotations.dataset import Annotations
from tailseg.evaluation import Metrics
from tailseg.recipes.recipe import Recipe
from tailseg.training.distributed import all_or_none, is_main_process
from tailseg.training.interrupt import StopTraining
from tailseg.training.run import Run


class TrainingState:
    """What a callback may read of a run, and a line for the user.

    Attributes:
        recipe: the recipe of the run, with the settings that the run decided itself.
        folder: the run's folder.
        device: where the model is.
        model: the detector that is trained. A callback may read its weights, and must not change them.
        train_data: annotations of the training set.
        val_data: annotations of the validation set.
        steps_per_epoch: steps of the optimizer in an epoch.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self.recipe: Recipe = run.recipe
        self.folder: Path = run.folder
        self.device: torch.device = run.device
        self.model: nn.Module = run.model
        self.train_data: Annotations = run.train_data
        self.val_data: Annotations = run.val_data
        self.steps_per_epoch: int = run.sampler.steps_per_epoch

    @property
    def step(self) -> int:
        """Steps done since the start of the run, those before a resumption included."""
        return self._run.progress.step

    @property
    def epoch(self) -> int:
        """Epochs done, their evaluation included."""
        return self._run.progress.epoch

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated and saved: with ``optim.ema_decay`` the average of the weights, else `model`."""
        return self._run.evaluated

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files; of several processes the first one is."""
        return is_main_process()

    def say(self, line: str) -> None:
        """Prints a line above the progress bar, in the main process."""
        self._say(line)


class Callback:
    """Base class of callbacks. Override the hooks that you need; the others do nothing.

    Under torchrun every process calls the hooks, with its own images' losses averaged over all processes. A hook that
    writes a file asks `TrainingState.is_main_process` first. An error in a hook of one process ends all of them.

    Every hook may raise `StopTraining` to end the run. Any other error ends `train`; the checkpoints stay as they are.
    """

    def on_start(self, run: TrainingState) -> None:
        """Before the first step, also of a resumed run."""

    def on_step(self, run: TrainingState, losses: Mapping[str, float]) -> None:
        """After a step of the optimizer.

        Args:
            run: the run; ``run.step`` counts this step already.
            losses: the losses of the step by name, averaged over its images.
        """

    def on_epoch(self, run: TrainingState, metrics: Metrics | None) -> None:
        """After an epoch, its evaluation and its checkpoint.

        Args:
            run: the run; ``run.epoch`` counts this epoch already.
            metrics: figures of the evaluation; None if the epoch was not evaluated (``run.eval_every``).
        """

    def on_end(self, run: TrainingState, metrics: Metrics) -> None:
        """At the end of a run, also of one that `StopTraining` ended; not after an error or a signal.

        Args:
            run: the run.
            metrics: figures of the last evaluation.
        """


class Hooks:
    """The callbacks of a run, called one after the other. Without callbacks a call does nothing.

    Args:
        callbacks: of the user.
        state: what they get.
    """

    def __init__(self, callbacks: Sequence[Callback], state: TrainingState) -> None:
        self._callbacks, self._state = callbacks, state

    def start(self) -> None:
        """Calls ``on_start``."""
        self._call("on_start")

    def step(self, losses: Mapping[str, float]) -> None:
        """Calls ``on_step``."""
        if self._callbacks:
            self._call("on_step", losses)

    def epoch(self, metrics: Metrics | None) -> None:
        """Calls ``on_epoch``."""
        self._call("on_epoch", metrics)

    def end(self, metrics: Metrics) -> None:
        """Calls ``on_end``."""
        with suppress(StopTraining):  # it ends anyway
            self._call("on_end", metrics)

    def _call(self, name: str, *arguments: object) -> None:
        for callback in self._callbacks:
            with all_or_none():
                try:
                    getattr(callback, name)(self._state, *arguments)
                except StopTraining:
                    raise
                except Exception as error:
                    error.add_note(f"raised in {type(callback).__name__}.{name}")
                    raise


def check_callbacks(callbacks: object) -> None:
    """Checks the callbacks before the work.

    Raises:
        TypeError: they are no list, or one is a class or no `Callback`.
    """
    if not isinstance(callbacks, Sequence):
        raise TypeError(f"callbacks: expected a list of callbacks, got a {type(callbacks).__name__}: write [callback]")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            what = f"the class {callback.__name__}" if isinstance(callback, type) else f"a {type(callback).__name__}"
            raise TypeError(f"callbacks: expected objects of subclasses of tailseg.training.Callback, got {what}")
