"""What an exported file says about itself."""

from typing import Any

from tailseg import __version__
from tailseg.export.formats import ExportPrecision, MaskForm
from tailseg.inference.predictor import Predictor
from tailseg.models.detector import TwoStageDetector

FORMAT = 1
"""Changes when a file of an earlier version can no longer be run in the same way."""


def describe_model(
    predictor: Predictor, *, precision: ExportPrecision = "float32", masks: MaskForm = "box"
) -> dict[str, Any]:
    """Describes a model for the metadata of the exported file, ready for JSON.

    Args:
        predictor: the model.
        precision: of the file.
        masks: the form of its masks.

    Returns:
        The description.

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
        "classes": [
            {"id": category.id, "name": category.name, "group": group}
            for category, group in zip(predictor.categories, predictor.groups, strict=True)
        ],
        "short_side": recipe.data.test_short_side,
        "max_long_side": recipe.data.max_long_side,
        "orientation": predictor.orientation,
        "max_detections": predictor.max_detections,
        "mask_threshold": model.config.postprocess.mask_threshold,
        "calibration": str(predictor.calibration.setting),
        "thresholds": None if thresholds is None else list(thresholds),
        "precision": precision,
        "masks": masks if predictor.model.has_masks else "none",
    }
