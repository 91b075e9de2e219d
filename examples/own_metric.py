"""A metric of your own: how far the number of detections is from the number of objects, for each image."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tailseg.recipes import Recipe, get_recipe


@dataclass(frozen=True)
class CountingErrorConfig:
    """Mean and greatest difference; only detections above a score count."""

    score: float = 0.5

    def build(self) -> "CountingErrorConfig":
        return self

    def __call__(self, annotations: Any, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        detections = Counter(record["image_id"] for record in results if record["score"] >= self.score)
        errors = [
            abs(detections[image_id] - len(annotations.get_record(index)))
            for index, image_id in enumerate(annotations.image_ids.tolist())
        ]
        return {"mean": sum(errors) / len(errors), "most": max(errors)}


def recipe() -> Recipe:
    """`tailseg train own_metric:recipe`; the log, metrics.json and TensorBoard have CountingError/mean."""
    base = get_recipe("tiny_gumbel")
    return replace(base, name="own_metric:recipe", metrics=(CountingErrorConfig(), CountingErrorConfig(score=0.1)))
