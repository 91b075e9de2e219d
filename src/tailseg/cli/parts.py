"""Parts of a recipe by name: ``--loss gol``, ``--optim adamw``, ``--backbone timm:NAME``, ``--loss my_module:config``.

A part is put into the recipe before the other options are parsed, because its own settings are options too: ``--loss
gol --loss.tail r``. The same holds for parts that a recipe may lack, such as steps of the augmentation:
``--data.paste`` adds copy-paste, ``--data.paste.scale 0.5 2`` adds it with this scale, and ``--data.no-paste`` removes
it. ``--model.mask.normalized`` makes the mask predictor a normalized one.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

from tailseg.cli.common import UsageError, import_from_working_directory, suggestion
from tailseg.data.settings import ColorConfig, CopyPasteConfig, CropConfig, JitterConfig
from tailseg.losses.settings import LOSSES
from tailseg.models.config import BACKBONES, NormalizedConfig, SEConfig, WrappedCauchyConfig, backbone_named
from tailseg.ranges import SettingError
from tailseg.recipes.recipe import OPTIMIZERS, Recipe, ScheduleConfig

OWN = "module:function"
"""How a user names a config of their own."""


@dataclass(frozen=True)
class Part:
    """A part of a recipe that an option exchanges.

    Attributes:
        noun: its name in messages.
        path: the fields of the recipe that lead to it.
        built_in: returns the config for a short name, or None if there is no such name.
        names: the short names.
        signature: the method that a config has.
    """

    noun: str
    path: tuple[str, ...]
    signature: str
    built_in: Callable[[str], Any | None] = lambda _: None
    names: tuple[str, ...] = ()


def _backbone(name: str) -> Any | None:  # noqa: ANN401 - the config of any backbone
    return backbone_named(name) if name in BACKBONES or name.startswith("timm:") else None


PARTS: Mapping[str, Part] = {
    "--loss": Part("loss", ("loss",), "build(frequency)", LOSSES.get, tuple(LOSSES)),
    "--optim": Part(
        "optimizer",
        ("optim",),
        "build(model)",
        lambda name: OPTIMIZERS[name]() if name in OPTIMIZERS else None,  # ty: ignore[missing-argument]
        tuple(OPTIMIZERS),
    ),
    "--backbone": Part("backbone", ("model", "backbone"), "build()", _backbone, (*BACKBONES, "timm:NAME")),
    "--detector": Part("detector", ("model",), "build(loss, *, load_weights=True)"),
    "--source": Part("data set", ("data", "source"), "build()"),
    "--augmentation": Part("augmentation", ("data", "augmentation"), "build(data)"),
    "--metrics": Part("metric", ("metrics",), "build()"),
}
"""The options that exchange a part of the recipe."""

OPTIONAL: Mapping[tuple[str, ...], Any] = {
    ("data", "crop"): CropConfig(),
    ("data", "jitter"): JitterConfig(),
    ("data", "color"): ColorConfig(),
    ("data", "paste"): CopyPasteConfig(),
    ("model", "backbone", "se"): SEConfig(),
    ("model", "box", "normalized"): NormalizedConfig(temperature=5.0),
    ("model", "box", "wrapped_cauchy"): WrappedCauchyConfig(),
    ("model", "mask", "normalized"): NormalizedConfig(),
}
"""Parts that a recipe may lack: the fields that lead to them, and their first settings."""

NO_KEPT_MAPS = {"--data.no-keep-maps", "--data.no-keep_maps"}


def with_optional(recipe: Recipe, arguments: Sequence[str]) -> tuple[Recipe, list[str]]:
    """Adds the optional parts that the options name, with their first settings, and removes others.

    Args:
        recipe: the recipe that the options change.
        arguments: all options of the command.

    Returns:
        The recipe, and the options without ``--data.paste``, ``--data.no-paste`` and the like. The settings of a part,
        such as ``--data.paste.scale``, stay.

    Raises:
        UsageError: two parts that exclude each other.
    """
    if NO_KEPT_MAPS & set(arguments):  # at once, because kept maps exclude parts that are added here
        recipe = _replaced(recipe, ("data", "keep_maps"), False)
    rest: list[str] = []
    for argument in _spell_removals(arguments):
        named = _find_optional(argument)
        if named is None or not _has(recipe, named[0]):
            rest.append(argument)
            continue
        path, removed = named
        value = None if removed else _get(recipe, path) or OPTIONAL[path]
        try:
            recipe = _replaced(recipe, path, value)
        except SettingError as error:
            raise UsageError(f"{argument}: {error}") from None
        if not removed and argument not in _spellings(path):
            rest.append(argument)
    return recipe, rest


def _spell_removals(arguments: Sequence[str]) -> list[str]:
    """Writes ``--model.mask.normalized None``, or with an equals sign, as ``--model.mask.no-normalized``."""
    words = list(arguments)
    for index in reversed(range(len(words))):
        option, equals, value = words[index].partition("=")
        end = index + (1 if equals else 2)
        if _is_optional(option) and ([value] if equals else words[index + 1 : end]) == ["None"]:
            holder, _, name = option.rpartition(".")
            words[index:end] = [f"{holder}.no-{name}"]
    return words


def _is_optional(option: str) -> bool:
    return any(option in _spellings(path) for path in OPTIONAL)


def _spellings(path: Sequence[str]) -> set[str]:
    option = "--" + ".".join(path)
    return {option, option.replace("_", "-")}


def _find_optional(argument: str) -> tuple[tuple[str, ...], bool] | None:
    """The optional part that an option names, and whether the option removes it; None if it names none."""
    for path in OPTIONAL:
        removing = (*path[:-1], f"no_{path[-1]}")
        if argument in _spellings(removing):
            return path, True
        if any(argument == option or argument.startswith((f"{option}.", f"{option}=")) for option in _spellings(path)):
            return path, False
    return None


def _has(recipe: Recipe, path: Sequence[str]) -> bool:
    holder = _get(recipe, path[:-1])
    return is_dataclass(holder) and path[-1] in {field.name for field in fields(holder)}


def _get(recipe: Recipe, path: Sequence[str]) -> Any:  # noqa: ANN401 - a part of a recipe
    return reduce(lambda holder, name: getattr(holder, name, None), path, recipe)


def with_parts(recipe: Recipe, arguments: Sequence[str]) -> Recipe:
    """Puts the parts that the options name into the recipe.

    Args:
        recipe: the recipe that the options change.
        arguments: all options of the command; those of other kinds are left alone.

    Returns:
        The recipe with the named parts and with all other settings as they were.

    Raises:
        UsageError: a name that is unknown, or a part that does not fit.
    """
    for option, names in _read_names(arguments):
        part = PARTS[option]
        configs = tuple(_find_config(option, part, name) for name in names)
        value: Any = configs
        if option == "--optim" and names[0] in part.names:
            value = _with_schedule(configs[0], recipe.optim)
        elif option != "--metrics":
            value = configs[0]
        try:
            recipe = _replaced(recipe, part.path, value)
        except SettingError as error:
            raise UsageError(f"{option} {' '.join(names)}: {error}") from None
    return recipe


def read_option(arguments: Sequence[str], option: str) -> str | None:
    """Reads the last value of an option; None if it is not given, or has no value (the parser names that error)."""
    values = [following for word, following in pairwise(arguments) if word == option and following[:1] != "-"]
    values += [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]
    return values[-1] if values else None


def _read_names(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The options of parts with their values; an option without a value is left to the parser, which names it."""
    options: list[tuple[str, list[str]]] = []
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in PARTS:
            continue
        names = [value] if equals else []
        for word in () if equals else arguments[index + 1 :]:
            if word.startswith("-") or (names and option != "--metrics"):
                break
            names.append(word)
        if names:
            options.append((option, names))
    order = list(PARTS)  # a detector before its backbone
    return sorted(options, key=lambda pair: (pair[0] != "--detector", order.index(pair[0])))


def _find_config(option: str, part: Part, name: str) -> Any:  # noqa: ANN401 - any config
    config = part.built_in(name)
    if config is not None:
        return config
    if ":" not in name:
        names = f" tailseg has {', '.join(part.names)}." if part.names else ""
        hint = suggestion(name, part.names)
        raise UsageError(
            f"{option}: no {part.noun} is called {name!r}{hint or '.'}{names} Name one of your own as {OWN}"
        )
    config = call_own(name, noun=part.noun)
    if isinstance(config, type) or not (is_dataclass(config) and callable(getattr(config, "build", None))):
        raise UsageError(
            f"{option} {name} gave an object of the class {type(config).__name__}, which is not a config: expected a "
            f"frozen dataclass with a method {part.signature}. Name a function that returns one, or the class itself; "
            "docs/how-to/own-parts.md has examples"
        )
    return config


def call_own(name: str, *, noun: str) -> Any:  # noqa: ANN401 - any object of the user's own
    """Imports the module of ``module:function`` and calls the function, which may be a class.

    Args:
        name: module and function. The module is also looked for in the working directory.
        noun: what is expected, for messages.

    Returns:
        What the function returned. A name that holds a config already is returned unchanged.

    Raises:
        UsageError: there is no such module or function, or the function needs arguments.
    """
    module_name, _, function_name = name.partition(":")
    import_from_working_directory()
    try:
        value = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        from tailseg.recipes import explain_missing_module

        raise UsageError(f"{noun} {name}: {explain_missing_module(name, error)}") from None
    except AttributeError:
        raise UsageError(f"{noun} {name}: the module {module_name} has no {function_name!r}") from None
    if not callable(value):
        return value
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise UsageError(f"{noun} {name}: {error}. tailseg calls {function_name} without arguments") from None
    return value()


def _with_schedule(config: ScheduleConfig, earlier: ScheduleConfig) -> ScheduleConfig:
    """A built-in optimizer with the recipe's schedule; its learning rate is its own, which suits it alone."""
    if type(config) is type(earlier):
        return earlier
    schedule = {field.name for field in fields(ScheduleConfig)} - {"lr"}
    return replace(config, **{name: getattr(earlier, name) for name in schedule})


def _replaced(holder: Any, path: Sequence[str], value: object) -> Any:  # noqa: ANN401 - a part of a recipe
    field, *rest = path
    if field not in {each.name for each in fields(holder)}:
        raise SettingError(f"{type(holder).__name__}, the recipe's own detector, has no {field}")
    return replace(holder, **{field: _replaced(getattr(holder, field), rest, value) if rest else value})
