"""A trained model on images.

    predictor = Predictor.from_run("runs/tiny_gumbel")
    detections = predictor("photo.jpg")          or a PIL image, a NumPy array, a tensor, or a list of them

`detect_all` detects in many images, while others are read and written. `calibrate` changes the scores of a trained run
by class frequency. `find_run_thresholds` finds a score threshold for each class. The names are imported when they are
used.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.inference.calibration import CalibrationResult, calibrate
    from tailseg.inference.images import ImageInput, to_rgb_tensor
    from tailseg.inference.pipeline import Outcome, detect_all
    from tailseg.inference.predictor import Calibration, Detections, InferenceConfig, Predictor, Setting
    from tailseg.inference.sources import list_images
    from tailseg.inference.thresholds import find_run_thresholds
    from tailseg.inference.tiles import TileConfig, TiledDetector
    from tailseg.inference.views import ViewsDetector
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "calibration": ("CalibrationResult", "calibrate"),
            "images": ("ImageInput", "to_rgb_tensor"),
            "predictor": ("Calibration", "Detections", "InferenceConfig", "Predictor", "Setting"),
            "pipeline": ("Outcome", "detect_all"),
            "sources": ("list_images",),
            "thresholds": ("find_run_thresholds",),
            "tiles": ("TileConfig", "TiledDetector"),
            "views": ("ViewsDetector",),
        },
    )

__all__ = [
    "Calibration",
    "CalibrationResult",
    "Detections",
    "ImageInput",
    "InferenceConfig",
    "Outcome",
    "Predictor",
    "Setting",
    "TileConfig",
    "TiledDetector",
    "ViewsDetector",
    "calibrate",
    "detect_all",
    "find_run_thresholds",
    "list_images",
    "to_rgb_tensor",
]
