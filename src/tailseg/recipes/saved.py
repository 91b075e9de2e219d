"""Recipes as JSON, so that a run can be tested, resumed and drawn without the command line that started it.

The file holds ``{"recipe": name, "resolved": {...}}``: every field of the recipe, nested as its dataclasses are. A
field that may hold one of several dataclasses (the loss) carries the chosen one's name under ``"type"``. A run keeps
the path of its folder beside them, under ``"folder"``: its data are found again by it, see `tailseg.recipes.places`.
"""

import contextlib
import dataclasses
import difflib
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.files import write_text
from tailseg.ranges import SettingError
from tailseg.recipes.recipe import Recipe, run_folder

Plain = dict[str, Any]
"""A recipe in JSON's types."""
DATA_PATHS = ("train", "val", "train_images", "val_images")
"""Fields of a recipe's data that are paths."""


def to_plain(recipe: Recipe) -> Plain:
    """The recipe in JSON's types; `from_plain` is its inverse."""
    return {"recipe": recipe.name, "resolved": _plain(recipe, Recipe)}


def from_plain(saved: object, *, base: Recipe | None = None, source: str = "the saved recipe") -> Recipe:
    """The recipe that `to_plain` wrote down.

    Fields that the file lacks (it was written by an older version) come from ``base``. A loss of your own is found
    through ``base`` only: nothing named in the file is imported.

    Args:
        saved: what `to_plain` returned.
        base: the recipe as its function returns it now; None calls the built-in recipe of that name, if there is one.
        source: how errors call the file.

    Raises:
        ValueError: an unknown key, a missing one, or a value of the wrong type or out of its range.
    """
    from tailseg.recipes import RECIPES  # the registry imports this module

    if not (
        isinstance(saved, dict) and isinstance(saved.get("resolved"), dict) and isinstance(saved.get("recipe"), str)
    ):
        raise ValueError(f'{source} is not a recipe: expected {{"recipe": name, "resolved": {{...}}}}')
    if base is None and saved["recipe"] in RECIPES:
        base = RECIPES[saved["recipe"]]()
    try:
        return cast("Recipe", _typed(saved["resolved"], Recipe, base, source))
    except SettingError as error:
        raise SettingError(
            f"{source}: {error}. An earlier version of tailseg took this setting without looking at it, and what was "
            "trained with it may be of no use: train again with another value"
        ) from None


def to_saved(recipe: Recipe) -> Plain:
    """What a run keeps of its recipe, in JSON's types."""
    return {**to_plain(with_absolute_paths(recipe)), "folder": str(run_folder(recipe).absolute())}


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with those paths made absolute that lead somewhere from the working directory.

    Others stay: they are looked for where the environment says (see `tailseg.recipes.build`).
    """
    data = {name: _absolute(getattr(recipe.data, name)) for name in DATA_PATHS}
    run = dataclasses.replace(recipe.run, start_from=_absolute(recipe.run.start_from))
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data), run=run)


def absolute(saved: Plain) -> Plain:
    """What a run keeps, its paths made absolute as `with_absolute_paths` does: earlier versions kept them as typed."""
    data, run = saved["resolved"].get("data", {}), saved["resolved"].get("run", {})
    data = {**data, **{name: _absolute(data[name]) for name in DATA_PATHS if name in data}}
    run = {**run, "start_from": _absolute(run.get("start_from"))}
    return {**saved, "resolved": {**saved["resolved"], "data": data, "run": run}}


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe of a run as JSON, whole or not at all."""
    write_text(path, json.dumps(to_saved(recipe), indent=2) + "\n")


def load_recipe(path: Path, *, base: Recipe | None = None) -> Recipe:
    """Reads what `save_recipe` wrote; see `from_plain` for ``base`` and the errors."""
    return load_saved(path, base=base)[0]


def load_saved(path: Path, *, base: Recipe | None = None) -> tuple[Recipe, Plain]:
    """Reads what `save_recipe` wrote, and returns it as it stands as well."""
    if not path.is_file():
        raise ValueError(f"no recipe at {path}: expected the recipe.json of a run")
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): expected the recipe.json of a run") from None
    return from_plain(saved, base=base, source=str(path)), saved


def differences(recipe: Recipe, saved: Plain) -> list[str]:
    """Fields in which a recipe differs from a saved one, as ``optim.lr: 0.01, saved 0.02``.

    A setting that came after the run was saved had its default there.
    """
    return _differences(to_plain(recipe)["resolved"], _with_defaults(saved["resolved"], recipe), "")


def _with_defaults(saved: object, value: object) -> Any:  # noqa: ANN401 - as JSON has it
    """The saved fields of ``value``, with the defaults of those that are not among them."""
    if not (isinstance(saved, dict) and dataclasses.is_dataclass(value)):
        return saved
    hints, filled = get_type_hints(type(value)), dict(saved)
    for field in dataclasses.fields(value):
        if field.name in saved:
            filled[field.name] = _with_defaults(saved[field.name], getattr(value, field.name))
        elif field.default is not dataclasses.MISSING:
            filled[field.name] = _plain(field.default, hints[field.name])
    return filled


def _absolute(path: str | None) -> str | None:
    if not path or is_tiny_tail(path) or not Path(path).exists():
        return path
    return str(Path(path).absolute())


def _plain(value: object, annotation: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        fields = {f.name: _plain(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value)}
        return fields if annotation is type(value) else {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [_plain(item, type(item)) for item in value]
    return value


def _typed(value: object, annotation: object, base: object, where: str) -> object:
    """``value`` from JSON as ``annotation`` says; ``base`` is the current value of the same field, or None."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(annotation), base, where)
    if dataclasses.is_dataclass(annotation):
        return _dataclass(value, cast("type", annotation), base, where)
    if origin is Literal:
        if value in get_args(annotation):
            return value
    elif origin is tuple:
        items = get_args(annotation)
        if isinstance(value, list) and (items[-1] is Ellipsis or len(value) == len(items)):
            kinds = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
            return tuple(_typed(item, kind, None, where) for item, kind in zip(value, kinds, strict=True))
    elif annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            return float(value)
    elif annotation is type(None) and value is None:
        return None
    elif type(value) is annotation:
        return value
    name = getattr(annotation, "__name__", str(annotation)) if origin is None else str(annotation)
    raise ValueError(f"{where}: expected {name}, got {value!r}")


def _one_of(value: object, members: tuple[Any, ...], base: object, where: str) -> object:
    if value is None and type(None) in members:
        return None
    classes = {member.__name__: member for member in members if dataclasses.is_dataclass(member)}
    if not classes:
        plain = [member for member in members if member is not type(None)]
        for member in plain[:-1]:  # a number or a word, such as the tail of DropLoss
            with contextlib.suppress(ValueError):
                return _typed(value, member, base, where)
        return _typed(value, plain[-1], base, where)
    if dataclasses.is_dataclass(base):  # a loss of the user's own comes with the recipe that holds it
        classes[type(base).__name__] = type(base)
        if isinstance(value, dict):  # an older version's field held one kind only and did not say which
            value = {"type": type(base).__name__, **value}
    name = value.get("type") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(name, str) or name not in classes:
        raise ValueError(
            f"{where}: expected one of {', '.join(sorted(classes))}, got {name!r}; if that is your own, "
            "name its recipe as module:function"
        )
    chosen = classes[name]
    fields = {key: item for key, item in value.items() if key != "type"}
    return _dataclass(fields, chosen, base if type(base) is chosen else None, where)


def _dataclass(value: object, kind: type, base: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected the fields of {kind.__name__}, got {value!r}")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
    for key in value.keys() - fields.keys():
        close = difflib.get_close_matches(str(key), fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{where}: {kind.__name__} has no field {key!r}{hint}")
    made = {}
    for name, field in fields.items():
        current = getattr(base, name, None)
        if name in value:
            made[name] = _typed(value[name], hints[name], current, f"{where}, {name}")
        elif base is not None:
            made[name] = current
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}: {kind.__name__} lacks {name}")
    return kind(**made)


def _differences(ours: Plain, theirs: Plain, prefix: str) -> list[str]:
    found: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += _differences(mine, other, f"{prefix}{key}.")
        elif mine != other:
            found.append(f"{prefix}{key}: {mine!r}, saved {other!r}")
    return found
