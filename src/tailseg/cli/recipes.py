"""`tailseg recipes`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from tailseg.cli.common import output, parse

if TYPE_CHECKING:
    from tailseg.recipes.recipe import Recipe

WIDTH = 110
"""Columns that the table needs. Its lines are not broken on a narrower terminal or in a pipe."""


@dataclass(frozen=True)
class Recipes:
    """List the recipes. Each is a complete run: `tailseg train NAME` trains it.

    examples:
      tailseg recipes
      tailseg train tiny_gumbel --help    every setting of one recipe, with its value
    """


def run(arguments: Sequence[str]) -> None:
    """Prints one line for each recipe, in groups of one detector on one data set."""
    parse(Recipes, arguments, command="recipes")
    from tailseg.recipes import GROUPS

    console = output()
    console.width = max(console.width, WIDTH)
    for title, group in GROUPS.items():
        console.print(f"[bold]{title}[/]")
        console.print(_table([make() for make in group]))
        console.print()
    console.print(
        "norm.: normalized predictors. RFS: repeat factor sampling; IRFS: by images and objects.\n"
        "AP: of masks, APr: of masks of rare classes; published figures in percent. ≈: read from a plot.\n"
        "`tailseg train NAME` trains a recipe. `tailseg train NAME --help` lists its settings. More in docs/recipes.md."
    )


def _table(recipes: "Sequence[Recipe]") -> Table:
    from tailseg.recipes import describe

    table = Table("recipe", "loss", "norm.", "sampling", "epochs", "AP", "APr", box=None, padding=(0, 2, 0, 0))
    for column, width in zip(table.columns, (43, 16, 5, 8, 6, 5, 4), strict=True):
        column.min_width = width  # each group is a table of its own; the columns of all tables are aligned
    for heading, members in describe.group_by_heading(recipes).items():
        table.add_row(f"[italic]{heading}[/]")
        for recipe in members:
            table.add_row(
                recipe.name,
                describe.loss(recipe.loss),
                describe.normalized(recipe.model),
                describe.sampling(recipe.data),
                str(recipe.optim.epochs),
                *describe.average_precision(recipe)[:2],
            )
    return table
