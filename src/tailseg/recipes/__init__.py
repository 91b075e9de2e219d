"""Recipes: functions that return a complete run."""

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path

from tailseg.recipes.activations import ACTIVATIONS
from tailseg.recipes.custom import custom_frozen, custom_r50, custom_small
from tailseg.recipes.gol import GOL
from tailseg.recipes.later import LATER
from tailseg.recipes.recipe import (
    OPTIMIZERS,
    AdamWConfig,
    DataConfig,
    OptimConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    SGDConfig,
)
from tailseg.recipes.rivals import RIVALS
from tailseg.recipes.strong import custom_strong, gol_strong, tiny_strong
from tailseg.recipes.tiny import TINY_CASCADES, TINY_LOSSES, TINY_RIVALS, demo_gumbel

__all__ = [
    "GROUPS",
    "OPTIMIZERS",
    "RECIPES",
    "AdamWConfig",
    "DataConfig",
    "OptimConfig",
    "Recipe",
    "RunConfig",
    "SGDConfig",
    "ScheduleConfig",
    "get_recipe",
]

GROUPS: dict[str, tuple[Callable[[], Recipe], ...]] = {
    "tiny_tail: every loss on the embedded data set, on two CPU cores": TINY_LOSSES,
    "tiny_tail: rivals since 2021": TINY_RIVALS,
    "tiny_tail: cascades": TINY_CASCADES,
    "tiny_tail: a strong recipe": (tiny_strong,),
    "the demo, and your own files": (demo_gumbel, custom_small, custom_frozen, custom_strong, custom_r50),
    "LVIS, a strong recipe": (gol_strong,),
    "LVIS, published folder activations": ACTIVATIONS,
    "LVIS, published folder gol": GOL,
    "LVIS, published later by the authors of GOL": LATER,
    "LVIS, published by the authors of other losses": RIVALS,
}
"""The built-in recipes by what they are for."""

RECIPES: dict[str, Callable[[], Recipe]] = {recipe().name: recipe for recipes in GROUPS.values() for recipe in recipes}
"""The built-in recipes by name."""


def get_recipe(name: str) -> Recipe:
    """A built-in recipe by name, or ``module:function``, which imports the module and calls the function.

    Raises:
        ValueError: no such recipe (the message names close matches), no such module or function, or the function
            returned something else.
    """
    if ":" in name:
        return _own_recipe(name)
    if name not in RECIPES:
        if "/" in name or "." in name:
            raise ValueError(
                f"{name!r} is no recipe, and no annotation file either: the name of an annotation file ends in .json"
            )
        close = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
        some = ", ".join(list(RECIPES)[:3])
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {some} and {len(RECIPES) - 3} more."
        raise ValueError(f"no recipe is called {name!r}: {hint} A recipe of your own is named module:function")
    return RECIPES[name]()


def explain_missing_module(name: str, error: ModuleNotFoundError) -> str:
    """Says what to do if the module of ``module:function`` cannot be imported."""
    module, _, function = name.partition(":")
    is_file = module.endswith(".py")
    problem = f"write it as {Path(module).stem}:{function}" if is_file else f"no module is called {error.name!r}"
    return f"{problem}. Start tailseg in the folder of the module, or add that folder to PYTHONPATH"


def _own_recipe(name: str) -> Recipe:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"recipe {name}: {explain_missing_module(name, error)}") from None
    except AttributeError:
        raise ValueError(f"recipe {name!r}: {module_name} has no {function_name!r}") from None
    recipe = function()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe {name!r}: expected the function to return a Recipe, got {type(recipe).__name__}")
    return recipe
