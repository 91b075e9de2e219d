"""Moved to `tailseg.detection.calibration`: evaluation imports no torch. This name still works, with a warning."""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module has
    value = getattr(importlib.import_module("tailseg.detection.calibration"), name)
    warnings.warn(
        f"tailseg.evaluation.calibration has moved: import {name} from tailseg.detection.calibration",
        DeprecationWarning,
        stacklevel=2,
    )
    return value
