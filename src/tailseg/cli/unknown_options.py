"""Options that a command does not have: the error names the nearest ones that it has."""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

_OPTIONS_OF_LINE = re.compile(r"^[^\w\n-]{0,4}(--[\w.-]+(?:, --[\w.-]+)*)", re.MULTILINE)
"""The options that a line of the help begins with; texts about them begin further to the right."""
MIN_RATIO: Final = 0.6
"""Likeness, from 0 to 1, that a suggestion has at least."""
TIE: Final = 0.02
"""Options whose likeness is that near to the best one's are suggested, too."""


def find_unknown_option(arguments: Sequence[str], options: Iterable[str]) -> str | None:
    """Finds the first argument that is written like an option and is none; what follows ``--`` is not looked at.

    Args:
        arguments: the arguments of a command.
        options: the names of the options that it has.

    Returns:
        The option as it was written, without a value after ``=``, or None.
    """
    known = set(options)
    for argument in arguments:
        name = argument.partition("=")[0]
        if argument == "--":
            return None
        if name.startswith("--") and name.replace("_", "-") not in known:
            return name
    return None


def read_options(print_help: Callable[[], object]) -> list[str]:
    """Reads the names of all options from a command's help, such as ``--optim.lr``.

    Args:
        print_help: prints the help, and may end the program.

    Returns:
        The names in the order of the help.
    """
    text = io.StringIO()
    width = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"  # on a wide terminal the help has several columns
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            print_help()
    finally:
        os.environ.pop("COLUMNS") if width is None else os.environ.update(COLUMNS=width)
    return [name for match in _OPTIONS_OF_LINE.finditer(text.getvalue()) for name in match[1].split(", ")]


def nearest_options(word: str, options: Sequence[str]) -> list[str]:
    """Finds the options that somebody may have meant: the same last part or last word, or a similar spelling.

    Args:
        word: an option that does not exist.
        options: the options that exist.

    Returns:
        At most three options.

    Example:
        >>> nearest_options("--lr", ["--optim.lr", "--loss.weight"])
        ['--optim.lr']
    """
    wanted = word.replace("_", "-")
    last = wanted.strip("-").rpartition(".")[2]
    if same := [option for option in options if option.strip("-").rpartition(".")[2] == last]:
        return same[:3]
    if longer := [option for option in options if option.endswith(f"-{last}")]:
        return longer[:3]
    ratios = {option: difflib.SequenceMatcher(None, wanted, option).ratio() for option in options}
    best = max(ratios.values(), default=0.0)
    return [option for option, ratio in ratios.items() if ratio >= max(MIN_RATIO, best - TIE)][:3]
