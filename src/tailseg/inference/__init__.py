"""A trained model on images.

    predictor = Predictor.from_run("runs/tiny_gumbel")
    detections = predictor("photo.jpg")          or a PIL image, a NumPy array, a tensor, or a list of them

`calibrate` changes the scores of a trained run by class frequency. `find_run_thresholds` finds a score threshold for
each class. The names are imported when they are used.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.inference.calibration import CalibrationResult, calibrate
    from tailseg.inference.images import ImageInput, to_rgb_tensor
    from tailseg.inference.predictor import Calibration, Detections, InferenceConfig, Predictor, Setting
    from tailseg.inference.thresholds import find_run_thresholds
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "calibration": ("CalibrationResult", "calibrate"),
            "images": ("ImageInput", "to_rgb_tensor"),
            "predictor": ("Calibration", "Detections", "InferenceConfig", "Predictor", "Setting"),
            "thresholds": ("find_run_thresholds",),
        },
    )

__all__ = [
    "Calibration",
    "CalibrationResult",
    "Detections",
    "ImageInput",
    "InferenceConfig",
    "Predictor",
    "Setting",
    "calibrate",
    "find_run_thresholds",
    "to_rgb_tensor",
]
