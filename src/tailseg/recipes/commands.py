"""The commands with which a user goes on with a run, ready to paste into a shell. Nothing here imports torch."""

import shlex
from dataclasses import fields, is_dataclass
from typing import Any

from tailseg.recipes.recipe import Recipe, run_folder


def make_run_command(name: str, recipe: Recipe, *words: str) -> str:
    """Writes a command on the run of a recipe, such as ``tailseg resume 'my runs/a' --module own_loss``.

    Args:
        name: the command.
        recipe: its run folder is the first argument; the modules of its own classes are named at the end.
        *words: the arguments between them.

    Returns:
        The command, quoted for a shell.
    """
    modules = [word for module in list_own_modules(recipe) for word in ("--module", module)]
    folder = str(run_folder(recipe))
    if folder.startswith("-"):  # else it would be an option
        folder = f"./{folder}"
    return shlex.join(["tailseg", name, folder, *words, *modules])


def list_own_modules(config: Any) -> list[str]:  # noqa: ANN401 - any part of a recipe
    """Lists the modules outside tailseg that classes of a recipe come from: ``--module`` names them to open the run."""
    module = type(config).__module__
    modules = [] if module.partition(".")[0] in ("tailseg", "builtins") else [module]
    for field in fields(config):
        value = getattr(config, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part):
                modules += list_own_modules(part)
    return list(dict.fromkeys(modules))
