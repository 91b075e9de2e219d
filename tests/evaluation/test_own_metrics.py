"""Metrics of the user's own: names, figures, and errors that name them."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from tailseg.annotations.read import read_dataset
from tailseg.evaluation import evaluate
from tailseg.evaluation.own_metrics import compute_own_metrics


@dataclass(frozen=True)
class CountConfig:
    value: Any = None

    def build(self):
        return self

    def __call__(self, annotations, results):
        return {"mean": len(results) / annotations.num_images} if self.value is None else self.value


def test_figures_stand_under_the_name_of_the_class(write, raw):
    data = read_dataset(write(raw))
    figures = compute_own_metrics((CountConfig(), CountConfig({"most": 3})), data, [{}] * data.num_images)
    assert figures == {"Count": {"mean": 1.0}, "Count_2": {"most": 3.0}}
    metrics = replace(evaluate(data, [], iou_types=("bbox",)), extra=figures)
    assert metrics.describe_extra() == ["Count: mean 1", "Count_2: most 3"]
    assert '"extra"' in metrics.to_json()
    assert "Count: mean 1" in str(metrics.table().caption)


def test_without_metrics_the_file_is_as_before(write, raw):
    assert "extra" not in evaluate(read_dataset(write(raw)), [], iou_types=("bbox",)).to_json()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "the metric Count returned 3: expected a dict"),
        ({"mean": "3"}, "'mean': '3', expected a finite number"),
        ({"mean": float("nan")}, "'mean': nan, expected a finite number by name; leave out a figure"),
    ],
)
def test_what_is_no_figure_is_refused(write, raw, value, message):
    with pytest.raises(ValueError, match=message):
        compute_own_metrics((CountConfig(value),), read_dataset(write(raw)), [])


def test_an_error_names_the_metric(write, raw):
    @dataclass(frozen=True)
    class FailingConfig:
        def build(self):
            return lambda annotations, results: results[0]["score"]

    with pytest.raises(ValueError, match="the metric Failing failed: IndexError: list index out of range"):
        compute_own_metrics((FailingConfig(),), read_dataset(write(raw)), [])
