"""Results of an evaluation as text, HTML for notebooks, Markdown, CSV, and pandas DataFrames."""

import csv
import importlib
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH: Final = 100
"""Columns of a table in text."""


def to_text(*tables: RenderableType) -> str:
    """The tables as plain text."""
    return _print(*tables).export_text().rstrip("\n")


def to_html(*tables: RenderableType) -> str:
    """The tables as HTML, in a font of equal widths."""
    return _print(*tables).export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def to_markdown(*tables: Table | str) -> str:
    """The tables in Markdown, with their titles and notes; a text is a paragraph of its own."""
    return "\n\n".join(
        paragraph for table in tables for paragraph in ([table] if isinstance(table, str) else _to_paragraphs(table))
    )


def to_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, the header first; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def escape_markdown(text: str) -> str:
    """The text with a backslash before what Markdown takes for markup."""
    return re.sub(r"([\\`*<|\[\]~$&]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


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


def _to_paragraphs(table: Table) -> list[str]:
    rows = [[column.header for column in table.columns], *zip(*(column.cells for column in table.columns), strict=True)]
    header, *lines = (f"| {' | '.join(map(_to_cell, row))} |" for row in rows)
    sides = "".join("--:|" if column.justify == "right" else "---|" for column in table.columns)
    title, caption = (_to_plain(part) for part in (table.title, table.caption))
    notes = [f"- {escape_markdown(line)}" for line in caption.splitlines()]
    return [
        *([f"**{escape_markdown(title)}**"] if title else []),
        "\n".join([header, f"|{sides}", *lines]),
        *filter(None, ["\n".join(notes)]),
    ]


def _to_cell(value: object) -> str:
    """A cell of several lines on one line: Markdown's tables have no others."""
    return " / ".join(map(escape_markdown, _to_plain(value).splitlines()))


def _to_plain(value: object) -> str:
    return value.plain if isinstance(value, Text) else str(value or "")
