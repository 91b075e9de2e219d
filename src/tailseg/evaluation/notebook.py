"""Results of an evaluation as text, as HTML for notebooks, and as pandas DataFrames."""

import importlib
import io
from typing import Any, Final

from rich.console import Console, RenderableType

WIDTH: Final = 100
"""Columns of a table in text."""


def to_text(*tables: RenderableType) -> str:
    """The tables as plain text."""
    return _print(*tables).export_text().rstrip("\n")


def to_html(*tables: RenderableType) -> str:
    """The tables as HTML, in a font of equal widths."""
    return _print(*tables).export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def import_pandas() -> Any:  # noqa: ANN401 - a module that need not be installed
    """The module pandas.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to_pandas() needs pandas, which tailseg does not install: pip install pandas. to_dict() needs nothing"
        ) from error


def _print(*tables: RenderableType) -> Console:
    console = Console(record=True, file=io.StringIO(), width=WIDTH, highlight=False)
    console.print(*tables)
    return console
