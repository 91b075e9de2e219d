"""Training: `train` runs a recipe; `Callback` is the base class of what you do meanwhile.

    from tailseg.recipes import get_recipe
    from tailseg.training import train

    metrics = train(get_recipe("tiny_gumbel"))

docs/how-to/train-from-python.md shows callbacks, and data sets, augmentations, optimizers and metrics of your own.
The names are imported when they are asked for, so that the light commands need not import torch.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.training.callbacks import Callback, TrainingState
    from tailseg.training.checkpoint import CheckpointError
    from tailseg.training.distributed import ProcessLostError
    from tailseg.training.finite import NonFiniteLossError
    from tailseg.training.interrupt import StopTraining, TrainingStopped
    from tailseg.training.loop import train
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "callbacks": ("Callback", "TrainingState"),
            "checkpoint": ("CheckpointError",),
            "distributed": ("ProcessLostError",),
            "finite": ("NonFiniteLossError",),
            "interrupt": ("StopTraining", "TrainingStopped"),
            "loop": ("train",),
        },
    )

__all__ = [
    "Callback",
    "CheckpointError",
    "NonFiniteLossError",
    "ProcessLostError",
    "StopTraining",
    "TrainingState",
    "TrainingStopped",
    "train",
]
