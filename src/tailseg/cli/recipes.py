"""`tailseg recipes`."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from tailseg.cli.common import output, parse


@dataclass(frozen=True)
class Recipes:
    """List the recipes: each is a complete run that `tailseg train NAME` carries out.

    tailseg recipes
    tailseg train tiny_gumbel --help    every setting of one, with its value
    """


def run(arguments: Sequence[str]) -> None:
    """List the recipes, one line each."""
    parse(Recipes, arguments, command="recipes")
    from tailseg.recipes import RECIPES

    table = Table("recipe", "what it is", box=None, pad_edge=False)
    for name, recipe in RECIPES.items():
        what = (inspect.getdoc(recipe) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
        table.add_row(f"[bold]{name}[/]", escape(what))
    output().print(table)
