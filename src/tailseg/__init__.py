"""Long-tailed instance segmentation on PyTorch, around the Gumbel Optimised Loss (ECCV 2022).

    import tailseg
    metrics = tailseg.train(tailseg.get_recipe("tiny_gumbel"))
    predictor = tailseg.Predictor.from_run("runs/tiny_gumbel")
    scores = tailseg.evaluate("lvis_v1_val.json", "results.json")

``import tailseg`` is quick: each name is imported when it is first used, and torch only with a name that needs it. What
is public, and for how long a name stays, is written in docs/stability.md.
"""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg import data, evaluation, inference, interop, losses, models, ops, recipes, training
    from tailseg.evaluation import evaluate
    from tailseg.inference import Predictor
    from tailseg.recipes import Recipe, get_recipe
    from tailseg.training import train
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "evaluation": ("evaluate",),
            "inference": ("Predictor",),
            "recipes": ("Recipe", "get_recipe"),
            "training": ("train",),
        },
        packages=("data", "evaluation", "inference", "interop", "losses", "models", "ops", "recipes", "training"),
    )

__version__ = "0.2.0"  # the only place; pyproject.toml reads it from here

__all__ = [
    "Predictor",
    "Recipe",
    "data",
    "evaluate",
    "evaluation",
    "get_recipe",
    "inference",
    "interop",
    "losses",
    "models",
    "ops",
    "recipes",
    "train",
    "training",
]
