"""What the commands share: parsing, errors, recipes by name."""

import contextlib
import difflib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from rich.console import Console
from rich.markup import escape

from tailseg.cli.unknown_options import find_unknown_option, nearest_options, read_options
from tailseg.files import split_spec
from tailseg.lazy import MissingPartError, needs_extra
from tailseg.ranges import SettingError, check_ranges, describe, ranges_of

with needs_extra("train"):
    import tyro

if TYPE_CHECKING:
    from tailseg.recipes.recipe import Recipe

T = TypeVar("T")


class UsageError(Exception):
    """The command was called wrongly: exit code 2."""


def is_labels(path: Path) -> bool:
    """Whether a path leads to labels of any format, and not to the folder or to a file of a run."""
    place = split_spec(path)[0]
    if not place.exists() or place.suffix in (".pt", ".safetensors") or (place / "recipe.json").is_file():
        return False
    if place.is_file():
        return True
    from tailseg.annotations.formats.registry import exists

    return exists(place)


def parse(options: type[T], arguments: Sequence[str], *, command: str, default: T | None = None) -> T:
    """Reads the options of ``tailseg command``; help, and errors of the parser, end the program.

    The class's docstring is the help, with its examples as written.

    Args:
        options: a frozen dataclass with a field for each option.
        arguments: the arguments of the command, in this version's words or an earlier one's.
        command: its name, for help and errors.
        default: an object with the values of the options that are not given; None where the class has them all.

    Returns:
        An object of the class.

    Raises:
        UsageError: an option that the command does not have, or a number out of its range.
    """
    arguments = with_new_names(arguments, getattr(default, "recipe", None))

    def read(words: Sequence[str]) -> object:
        return tyro.cli(
            options,
            prog=f"tailseg {command}",
            description=(options.__doc__ or "").strip(),
            args=words,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed),
            default=tyro.MISSING_NONPROP if default is None else default,
            registry=with_ranges(),
        )

    with warnings.catch_warnings():
        # A recipe of the user's own may hold a config of the user's own: tyro reads it though no annotation names it.
        warnings.filterwarnings("ignore", message=".*does not match any type in Union")
        try:
            if {"-h", "--help"} & set(arguments):
                read(arguments)
            with contextlib.redirect_stderr(io.StringIO()):
                parsed = read(arguments)
        except SystemExit as stop:
            if stop.code:
                _require_known_options(arguments, read_options(lambda: read(["--help"])), command)
                read(arguments)  # the error again, this time in the parser's words
            raise
    try:
        check_ranges(parsed, ())
    except SettingError as error:
        raise UsageError(str(error)) from None
    return cast("T", parsed)


def _require_known_options(arguments: Sequence[str], options: Sequence[str], command: str) -> None:
    unknown = find_unknown_option(arguments, options)
    if unknown is None:
        return
    nearest = nearest_options(unknown, options)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"`tailseg {command} --help` lists the options"
    raise UsageError(f"{unknown} is not an option of `tailseg {command}`; {hint}")


def with_new_names(arguments: Sequence[str], recipe: "Recipe | None" = None) -> list[str]:
    """The arguments with today's names of settings; says on standard error which of them were old names.

    Args:
        arguments: as they were typed.
        recipe: the recipe that they change; its own fields keep their names.

    Returns:
        The arguments.
    """
    if not any(argument.startswith("--") and "." in argument for argument in arguments):
        return list(arguments)
    from tailseg.recipes.old_names import with_new_option

    current: list[str] = []
    for argument in arguments:
        replaced, new = with_new_option(argument, recipe)
        if new:
            print(f"note: {argument.partition('=')[0]} is now {new}", file=sys.stderr)
        current += replaced
    return current


def with_ranges() -> tyro.constructors.ConstructorRegistry:
    """What makes tyro's help say the range of a number, after the text of its field."""
    registry = tyro.constructors.ConstructorRegistry()
    inner: list[object] = []

    @registry.struct_rule
    def rule(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
        if not is_dataclass(info.type) or info.type in inner:
            return None
        inner.append(info.type)
        try:
            spec = registry.get_struct_spec(info)
        finally:
            inner.pop()
        if not isinstance(spec, tyro.constructors.StructConstructorSpec):
            return cast("None", spec)
        fields = (replace(each, helptext=with_range(info.type, each)) for each in spec.fields)
        return replace(spec, fields=tuple(fields))

    return registry


def with_range(kind: type, field: tyro.constructors.StructFieldSpec) -> Callable[[], str | None]:
    """The text of a field and its range, made when the help is printed."""

    def text() -> str | None:
        plain = cast("str | None", field.helptext() if callable(field.helptext) else field.helptext)
        if field.name not in ranges_of(kind):
            return plain
        allowed = describe(kind, field.name)
        return f"{plain or ''} {allowed[0].upper()}{allowed[1:]}.".lstrip()

    return text


def output() -> Console:
    """The console of a command's results."""
    return Console(highlight=False)


def print_error(message: str) -> None:
    """One red ``error:`` on standard error; one of several processes says which it is."""
    process = f" (process {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error{process}:[/] {escape(message)}")


def explain(error: Exception) -> str:
    """What a user can do with the error: our own messages as they are, a surprise with its kind and how to see more."""
    message, notes = str(error).strip(), "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, ValueError | OSError | FloatingPointError | MissingPartError) and message:
        return f"{message}{notes}"
    kind = type(error).__name__
    return f"{kind}: {message}\n(not an error that tailseg foresaw: --debug shows where it came from){notes}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean x?`` when a known word comes near, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def require_run(run: Path) -> None:
    """Says that a run is not there before torch is imported to open it, which takes seconds.

    Raises:
        ValueError: there is neither such a folder nor such a file.
    """
    if not run.exists():
        raise ValueError(
            f"no run in {run}: expected a folder that `tailseg train` or `tailseg convert` made, with checkpoints in it"
        )


def refuse_options(options: object, names: Sequence[str], reason: str) -> None:
    """Raises UsageError if an option is given that does not fit the kind of the first argument.

    Args:
        options: the options of the command.
        names: the options that do not fit, as fields.
        reason: what the option is for, which follows "is".
    """
    for name in names:
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} is {reason}")


def find_recipe(name: str) -> "Recipe":
    """The recipe called ``name``, or what the user's own ``module:function`` returns; looks in the working directory.

    Raises:
        UsageError: there is no such recipe or function.
    """
    from tailseg.recipes import get_recipe

    if ":" in name:
        import_from_working_directory()
    try:
        return get_recipe(name)
    except ValueError as error:
        hint = "" if ":" in name else ". `tailseg recipes` lists the recipes"
        raise UsageError(f"{error}{hint}") from error


def import_from_working_directory() -> None:
    """Lets Python find the user's own modules in the working directory."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def find_own_code(recipe: str | None, modules: tuple[str, ...]) -> "tuple[Recipe | None, tuple[str, ...]]":
    """Returns what opens a run with classes of the user's own: the arguments ``base`` and ``modules``.

    Args:
        recipe: ``module:function`` of the user's own recipe, or None.
        modules: names of the user's own modules.

    Returns:
        The recipe, and the modules, which Python can import now.

    Raises:
        UsageError: there is no such recipe.
    """
    if modules:
        import_from_working_directory()
    return find_recipe(recipe) if recipe else None, modules
