"""Trackers of experiments: Weights & Biases and MLflow get the lines of the run's log.

The run's folder remembers its runs there in ``trackers.json``, so that a resumed run goes on with them. A tracker that
fails, such as one whose server is away, ends no training: it is left out from then on.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from tailseg.files import write_text
from tailseg.ranges import SettingError
from tailseg.recipes.recipe import Recipe, TrackerName
from tailseg.recipes.saved import to_plain

PROJECT: Final = "tailseg"
"""The project in Weights & Biases and the experiment in MLflow, unless their own variables name others."""
FILE: Final = "trackers.json"
MAX_PARAMETER: Final = 500
"""Longest value of a setting in MLflow, in characters; earlier servers refuse longer ones."""


class Tracker(Protocol):
    """A run in a tracker; ``key`` finds it again."""

    key: str

    def write(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class WandbTracker:
    """A run of Weights & Biases, in the project of ``WANDB_PROJECT``. ``WANDB_MODE=offline`` sends nothing.

    Only the log and the settings are sent: no console output and no code.
    """

    def __init__(self, recipe: Recipe, folder: Path, key: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=key,
            resume="allow",
            dir=str(folder),
            config=to_plain(recipe)["resolved"],
            settings=wandb.Settings(console="off", save_code=False, disable_git=True, silent=True),
        )
        self._run.define_metric("*", step_metric="step")  # a row with wandb's own step is written after the next one
        self.key = self._run.id

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Sends figures."""
        self._run.log({**values, "step": step})

    def close(self, *, failed: bool) -> None:
        """Ends the run."""
        self._run.finish(exit_code=int(failed))


class MLflowTracker:
    """A run of MLflow, where ``MLFLOW_TRACKING_URI`` says, in the experiment of ``MLFLOW_EXPERIMENT_NAME``."""

    def __init__(self, recipe: Recipe, folder: Path, key: str | None) -> None:
        from mlflow.entities import Param
        from mlflow.tracking.client import MlflowClient

        self._client = MlflowClient()
        if key is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            key = self._client.create_run(experiment, run_name=folder.name).info.run_id
            settings = _flatten(to_plain(recipe)["resolved"])
            params = [Param(name, str(value)[:MAX_PARAMETER]) for name, value in settings.items()]
            for start in range(0, len(params), 100):  # more are refused
                self._client.log_batch(key, params=params[start : start + 100])
        else:
            self._client.update_run(key, status="RUNNING")
        self.key = key

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Sends figures."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self.key, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, *, failed: bool) -> None:
        """Ends the run."""
        self._client.set_terminated(self.key, status="FAILED" if failed else "FINISHED")


TRACKERS: Final[Mapping[TrackerName, type[WandbTracker] | type[MLflowTracker]]] = {
    "wandb": WandbTracker,
    "mlflow": MLflowTracker,
}


class Trackers:
    """The trackers of a run. Without any, nothing is done.

    Args:
        recipe: its ``run.trackers`` names them.
        folder: of the run; None has no trackers, for the processes other than the main one.
        resumed: whether the run goes on, and with it the trackers' runs.
        say: called with a line for the user.
    """

    def __init__(self, recipe: Recipe, folder: Path | None, *, resumed: bool, say: Callable[[str], None]) -> None:
        self._say = say
        self._open: dict[TrackerName, Tracker] = {}
        if folder is None or not recipe.run.trackers:
            return
        file = folder / FILE
        keys = json.loads(file.read_text()) if resumed and file.is_file() else {}
        for name in recipe.run.trackers:
            self._try(name, lambda name=name: self._open.update({name: TRACKERS[name](recipe, folder, keys.get(name))}))
        write_text(file, json.dumps(keys | {name: tracker.key for name, tracker in self._open.items()}) + "\n")

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Sends finite figures by name."""
        for name, tracker in [*self._open.items()]:
            self._try(name, lambda tracker=tracker: tracker.write(values, step))

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the runs, as failed ones after an error."""
        for name, tracker in [*self._open.items()]:
            self._try(name, lambda tracker=tracker: tracker.close(failed=error is not None))

    def _try(self, name: TrackerName, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the training is worth more
            self._open.pop(name, None)
            text = str(error).strip().split("\n")[0]
            self._say(f"{name} failed, and gets no more of this run ({type(error).__name__}: {text:.200})")


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Checks before the work that trackers are installed.

    Raises:
        SettingError: one is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise SettingError(f"run.trackers names {name}, which is not installed: pip install 'tailseg[{name}]'")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``optim.lr`` and so on."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
