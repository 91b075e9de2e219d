"""What an exported file says about itself."""

from typing import Any

from tailseg import __version__
from tailseg.inference.predictor import Predictor
from tailseg.models.detector import TwoStageDetector

FORMAT = 1
"""Changes when a file of an earlier version can no longer be run in the same way."""


def describe_model(predictor: Predictor) -> dict[str, Any]:
    """Describes a model for the metadata of the exported file, ready for JSON.

    Raises:
        ValueError: the stored thresholds are of other classes.
    """
    recipe, thresholds, model = predictor.recipe, predictor.thresholds, predictor.model
    assert isinstance(model, TwoStageDetector)
    return {
        "format": FORMAT,
        "version": __version__,
        "recipe": recipe.name,
        "step": predictor.checkpoint.progress.step,
        "classes": [{"id": category.id, "name": category.name} for category in predictor.categories],
        "short_side": recipe.data.test_short_side,
        "max_long_side": recipe.data.max_long_side,
        "orientation": recipe.data.orientation,
        "mask_threshold": model.config.postprocess.mask_threshold,
        "calibration": str(predictor.calibration.setting),
        "thresholds": None if thresholds is None else list(thresholds),
        "precision": "float32",
    }
