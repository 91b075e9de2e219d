"""Recipes: functions that return a complete run."""

import difflib
import importlib
from collections.abc import Callable

from tailseg.recipes.activations import (
    gumbel_mask_rcnn_r50_random_1x,
    sigmoid_mask_rcnn_r50_random_1x,
    softmax_mask_rcnn_r50_random_1x,
)
from tailseg.recipes.custom import custom_r50, custom_small
from tailseg.recipes.recipe import DataConfig, OptimConfig, Recipe, RunConfig
from tailseg.recipes.tiny import (
    demo_gumbel,
    tiny_bags,
    tiny_balanced_softmax,
    tiny_class_relative,
    tiny_droploss,
    tiny_ecm,
    tiny_eql,
    tiny_eql_v2,
    tiny_federated,
    tiny_focal,
    tiny_gol,
    tiny_gumbel,
    tiny_ldam,
    tiny_seesaw,
    tiny_sigmoid,
    tiny_softmax,
)

__all__ = ["RECIPES", "DataConfig", "OptimConfig", "Recipe", "RunConfig", "get_recipe"]

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        tiny_gumbel,
        tiny_sigmoid,
        tiny_softmax,
        tiny_gol,
        tiny_droploss,
        tiny_eql,
        tiny_class_relative,
        tiny_focal,
        tiny_eql_v2,
        tiny_seesaw,
        tiny_bags,
        tiny_federated,
        tiny_balanced_softmax,
        tiny_ecm,
        tiny_ldam,
        demo_gumbel,
        custom_small,
        custom_r50,
        gumbel_mask_rcnn_r50_random_1x,
        sigmoid_mask_rcnn_r50_random_1x,
        softmax_mask_rcnn_r50_random_1x,
    )
}
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
        close = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(RECIPES)}."
        raise ValueError(f"no recipe is called {name!r}: {hint} A recipe of your own is named module:function")
    return RECIPES[name]()


def _own_recipe(name: str) -> Recipe:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"recipe {name!r}: no module named {error.name!r}; is its folder on PYTHONPATH?") from None
    except AttributeError:
        raise ValueError(f"recipe {name!r}: {module_name} has no {function_name!r}") from None
    recipe = function()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe {name!r}: expected the function to return a Recipe, got {type(recipe).__name__}")
    return recipe
