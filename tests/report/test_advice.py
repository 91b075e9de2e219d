"""The report of a finished run whose model learned nothing says what to try."""

from types import SimpleNamespace
from typing import Any

import pytest

from tailseg.evaluation.metrics import Metrics
from tailseg.recipes import get_recipe
from tailseg.report import page
from tailseg.report.evaluated import EvaluatedRun


@pytest.mark.parametrize(
    ("epochs", "score", "has_recipe", "advised"),
    [(24, 0.0, True, True), (23, 0.0, True, False), (24, 0.2, True, False), (24, 0.0, False, False)],
)
def test_advice_is_for_finished_runs_that_learned_nothing(
    epochs: int, score: float, has_recipe: bool, advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ({"kind": "train", "epoch": 3, "step": 160}, {"kind": "val", "epoch": epochs, "step": 168})
    metrics = Metrics({"bbox": {"AP": score}}, {"bbox": ()}, "lvis", 300, 1, 0)
    run = object.__new__(EvaluatedRun)  # what the notes do not read is not there
    fields = {
        "name": "mine",
        "log": log,
        "recipe": get_recipe("custom_small") if has_recipe else None,
        "analysis": SimpleNamespace(metrics=metrics, slices=None),
        "annotations": None,
        "frequency": object(),
        "train": object(),
    }
    for name, value in fields.items():
        object.__setattr__(run, name, value)
    monkeypatch.setattr(page, "explain_no_learning", explain)
    notes = page._collect_notes([run])
    assert notes == (["mine: bbox 0.0 after 168"] if advised else [])


def explain(recipe: Any, metrics: Metrics, annotations: Any, *, steps: int) -> str:
    del recipe, annotations
    score = metrics["bbox"]["AP"] or 0.0
    return f"bbox {score} after {steps}" if score < 0.1 else ""
