"""Metrics of your own, in addition to AP.

    @dataclass(frozen=True)
    class FewDetections:
        most: int = 10

        def build(self):
            return self

        def __call__(self, annotations, results):
            counts = Counter(record["image_id"] for record in results)
            return {"share": sum(count <= self.most for count in counts.values()) / annotations.num_images}

A recipe names it with ``metrics=(FewDetections(),)``. Every evaluation of a run and `tailseg test` compute it:

    annotations   `tailseg.annotations.dataset.Annotations`: num_images, image_ids, categories, record(i) ...
    results       COCO-style records: image_id, category_id, bbox (x, y, width, height), score, and segmentation
                  (run lengths) where the model finds masks

It returns figures by name. They are printed, logged and written to metrics.json under the name of the config's class.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tailseg.annotations.dataset import Annotations

Metric = Callable[[Annotations, Sequence[Mapping[str, Any]]], Mapping[str, float]]


def compute_own_metrics(
    configs: Sequence[object], annotations: Annotations, results: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """The figures of each metric, under the name of its config's class without ``Config``.

    Args:
        configs: their ``build()`` returns a function of annotations and results.
        annotations: the validation set.
        results: the result records of all its images.

    Returns:
        Name of the metric -> name of the figure -> value.

    Raises:
        ValueError: a metric fails, or returns something else than numbers by name; names the metric.
    """
    figures: dict[str, dict[str, float]] = {}
    for config in configs:
        name = get_metric_name(config, taken=figures)
        try:
            values = config.build()(annotations, results)  # ty: ignore[missing-attribute] - the recipe checked it
        except Exception as error:
            raise ValueError(f"the metric {name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(values, Mapping):
            raise ValueError(
                f"the metric {name} returned {values!r:.80}: expected a dict of numbers, such as {{'mean': 1.0}}"
            )
        for key, value in values.items():
            if not (isinstance(key, str) and isinstance(value, numbers.Real) and math.isfinite(value)):
                raise ValueError(
                    f"the metric {name} returned {key!r}: {value!r:.80}, expected a finite number by name; leave out a "
                    "figure that is not defined"
                )
        figures[name] = {key: float(value) for key, value in values.items()}
    return figures


def get_metric_name(config: object, taken: Mapping[str, object]) -> str:
    """``DetectionCount`` for a ``DetectionCountConfig``; with a number where a recipe has several of one class."""
    name = type(config).__name__.removesuffix("Config")
    return name if name not in taken else f"{name}_{sum(other.startswith(name) for other in taken) + 1}"
