"""Recipes as JSON. A run can be tested, resumed and reported without the command line that started it.

The file holds ``{"recipe": name, "resolved": {...}}``: every field of the recipe, nested like its dataclasses. If a
field may hold one of several dataclasses (the loss), the name of the class is stored under ``"type"``. A run also
stores the path of its folder, under ``"folder"``. `tailseg.recipes.places` uses it to find the data after the run has
moved.
"""

import contextlib
import dataclasses
import difflib
import json
import types
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.files import split_spec, write_text
from tailseg.ranges import SettingError
from tailseg.recipes.old_names import with_new_fields, with_new_names
from tailseg.recipes.recipe import Recipe, run_folder

Plain = dict[str, Any]
"""A recipe in JSON's types."""
DATA_PATHS = ("train", "val", "train_images", "val_images")
"""Fields of a recipe's data that are paths."""


def to_plain(recipe: Recipe) -> Plain:
    """Converts a recipe to JSON's types; `from_plain` is the inverse."""
    return {"recipe": recipe.name, "resolved": _plain(recipe, Recipe)}


def from_plain(
    saved: object, *, base: Recipe | None = None, modules: Sequence[str] = (), source: str = "the saved recipe"
) -> Recipe:
    """Reads the recipe that `to_plain` wrote, in this version or in an earlier one.

    Fields that the file lacks (an earlier version wrote it) come from ``base``. A config of your own, such as a loss,
    comes from ``base`` or from a module in ``modules``: no module is imported because the file names it.

    Args:
        saved: what `to_plain` returned.
        base: the recipe as its function returns it now; None calls the built-in recipe of that name, if there is one.
        modules: your own modules, by name, that hold classes of the recipe's settings.
        source: what errors call the file.

    Returns:
        The recipe.

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
        return cast("Recipe", _Reader(tuple(modules)).typed(with_new_names(saved)["resolved"], Recipe, base, source))
    except SettingError as error:
        raise SettingError(
            f"{source}: {error}. An earlier version of tailseg did not check this setting, so the weights that were "
            "trained with it may be useless: train again with another value"
        ) from None


def to_saved(recipe: Recipe) -> Plain:
    """Converts the recipe of a run to the content of its ``recipe.json``, with absolute paths."""
    return {**to_plain(with_absolute_paths(recipe)), "folder": str(run_folder(recipe).absolute())}


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Makes the paths absolute that exist from the working directory.

    Other paths stay: they are searched in the folders of the environment variables (see `tailseg.recipes.build`).
    """
    data = {name: _absolute(getattr(recipe.data, name)) for name in DATA_PATHS}
    run = dataclasses.replace(recipe.run, init_from=_absolute(recipe.run.init_from))
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data), run=run)


def make_saved_paths_absolute(saved: Plain) -> Plain:
    """Makes the paths of a saved recipe absolute like `with_absolute_paths`: earlier versions saved them as typed."""
    data, run = saved["resolved"].get("data", {}), saved["resolved"].get("run", {})
    data = {**data, **{name: _absolute(data[name]) for name in DATA_PATHS if name in data}}
    run = {**run, "init_from": _absolute(run.get("init_from"))}
    return {**saved, "resolved": {**saved["resolved"], "data": data, "run": run}}


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe of a run as JSON: the whole file or nothing."""
    write_text(path, json.dumps(to_saved(recipe), indent=2) + "\n")


def load_recipe(path: Path, *, base: Recipe | None = None, modules: Sequence[str] = ()) -> Recipe:
    """Reads a recipe that `save_recipe` wrote.

    Args:
        path: a run's ``recipe.json``.
        base: see `from_plain`.
        modules: see `from_plain`.

    Returns:
        The recipe.

    Raises:
        ValueError: there is no such file, or see `from_plain`.
    """
    return load_saved(path, base=base, modules=modules)[0]


def load_saved(path: Path, *, base: Recipe | None = None, modules: Sequence[str] = ()) -> tuple[Recipe, Plain]:
    """Reads a file that `save_recipe` wrote, as a recipe and as JSON.

    Args:
        path: a run's ``recipe.json``.
        base: see `from_plain`.
        modules: see `from_plain`.

    Returns:
        The recipe, and the content of the file with the present names of the settings.
    """
    if not path.is_file():
        raise ValueError(f"no recipe at {path}: expected the recipe.json of a run")
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): expected the recipe.json of a run") from None
    recipe = from_plain(saved, base=base, modules=modules, source=str(path))
    return recipe, with_new_names(saved)


def list_differences(recipe: Recipe, saved: Plain) -> list[str]:
    """Lists the fields in which a recipe differs from a saved one, as ``optim.lr: 0.01, saved 0.02``.

    A setting that was added after the run was saved counts as its default.
    """
    return _list_differences(to_plain(recipe)["resolved"], _with_defaults(saved["resolved"], recipe), "")


def _with_defaults(saved: object, value: object) -> Any:  # noqa: ANN401 - as JSON has it
    """Adds the defaults of the fields of ``value`` that were not saved."""
    if not (isinstance(saved, dict) and dataclasses.is_dataclass(value)):
        return saved
    if saved.get("type", type(value).__name__) not in (type(value).__name__, _get_saved_name(type(value))):
        return saved  # of another class, whose defaults are others
    hints, filled = get_type_hints(type(value)), with_new_fields(saved, type(value))
    for field in dataclasses.fields(value):
        if field.name in filled:
            filled[field.name] = _with_defaults(filled[field.name], getattr(value, field.name))
        elif field.default is not dataclasses.MISSING:
            filled[field.name] = _plain(field.default, hints[field.name])
    return filled


def _absolute(path: str | None) -> str | None:
    if not path or is_tiny_tail(path) or not split_spec(Path(path))[0].exists():
        return path
    return str(Path(path).absolute())


def _plain(value: object, annotation: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value))
        fields = {f.name: _plain(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(value)}
        return fields if _default_kind(annotation) is type(value) else {"type": _get_saved_name(type(value)), **fields}
    if isinstance(value, tuple | list):
        item_types = get_args(annotation)[:1]  # of a tuple[X, ...]; if all items have one type, it is not written
        return [_plain(item, item_types[0] if item_types else type(item)) for item in value]
    return value


def _default_kind(annotation: object) -> object:
    """The class of a field's value if the saved recipe does not state one: the only built-in class."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    classes = [member for member in members if not getattr(member, "_is_protocol", False)]
    return classes[0] if len(classes) == 1 else None


def _get_saved_name(kind: type) -> str:
    """The name that a class is saved by, with its module if the class is not part of tailseg."""
    is_own = kind.__module__.partition(".")[0] != "tailseg"
    return f"{kind.__module__}:{kind.__qualname__}" if is_own else kind.__name__


@dataclass(frozen=True)
class _Reader:
    """Converts values from JSON to the types of the fields.

    In all methods ``base`` is the current value of the same field, or None, and ``where`` the field's name in errors.

    Attributes:
        modules: the user's modules that classes may come from.
    """

    modules: tuple[str, ...]

    def typed(self, value: object, annotation: object, base: object, where: str) -> object:
        origin = get_origin(annotation)
        if isinstance(value, dict) and "type" in value and origin is not Union and origin is not types.UnionType:
            return self._one_of(value, (annotation,), base, where)
        if origin in (Union, types.UnionType):
            return self._one_of(value, get_args(annotation), base, where)
        if dataclasses.is_dataclass(annotation):
            return self._dataclass(value, cast("type", annotation), base, where)
        if origin is Literal:
            if value in get_args(annotation):
                return value
        elif origin is tuple:
            items = get_args(annotation)
            if isinstance(value, list) and (items[-1] is Ellipsis or len(value) == len(items)):
                kinds = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
                return tuple(
                    self.typed(item, kind, _find_of_kind(item, base), where)
                    for item, kind in zip(value, kinds, strict=True)
                )
        elif annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                return float(value)
        elif annotation is type(None) and value is None:
            return None
        elif type(value) is annotation:
            return value
        name = getattr(annotation, "__name__", str(annotation)) if origin is None else str(annotation)
        raise ValueError(f"{where}: expected {name}, got {value!r}")

    def _one_of(self, value: object, members: tuple[Any, ...], base: object, where: str) -> object:
        if value is None and type(None) in members:
            return None
        classes = {member.__name__: member for member in members if dataclasses.is_dataclass(member)}
        if not classes and not isinstance(value, dict):
            plain = [member for member in members if member is not type(None)]
            for member in plain[:-1]:  # a number or a string, such as the tail of DropLoss
                with contextlib.suppress(ValueError):
                    return self.typed(value, member, base, where)
            return self.typed(value, plain[-1], base, where)
        if dataclasses.is_dataclass(base):  # the recipe that holds the user's own config also has its class
            kind = cast("type", type(base))
            classes |= {kind.__name__: kind, _get_saved_name(kind): kind}
            if isinstance(value, dict):  # earlier versions: one class only, not named
                value = {"type": _get_saved_name(kind), **value}
        if isinstance(value, dict) and "type" not in value and len(classes) == 1:
            value = {"type": next(iter(classes)), **value}
        name = value.get("type") if isinstance(value, dict) else value
        if isinstance(name, str) and name not in classes and ":" in name:
            classes[name] = self._own_class(name, where)
        if not isinstance(value, dict) or not isinstance(name, str) or name not in classes:
            raise ValueError(
                f"{where}: expected one of {', '.join(sorted(classes))}, got {name!r}. If this is a class of yours, "
                "name its recipe as module:function"
            )
        chosen = classes[name]
        fields = {key: item for key, item in value.items() if key != "type"}
        return self._dataclass(fields, chosen, base if type(base) is chosen else None, where)

    def _own_class(self, name: str, where: str) -> type:
        """A class of settings from a module that the user has named."""
        module, _, path = name.partition(":")
        if module not in self.modules:
            raise ValueError(
                f"{where}: {name} is not part of tailseg, and no code is loaded because a file names it. If you trust "
                f"the module {module}, name it (--module {module}, or modules=({module!r},) in Python), or name your "
                "recipe as module:function"
            )
        kind: Any = import_module(module)
        for part in path.split("."):
            kind = getattr(kind, part, None)
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise ValueError(f"{where}: the module {module} has no dataclass {path}, with which the run was saved")
        return kind

    def _dataclass(self, value: object, kind: type, base: object, where: str) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected the fields of {kind.__name__}, got {value!r}")
        hints = get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
        value = with_new_fields(value, kind)
        for key in value.keys() - fields.keys():
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{where}: {kind.__name__} has no field {key!r}{hint}")
        settings = {}
        for name, field in fields.items():
            current = getattr(base, name, None)
            if name in value:
                settings[name] = self.typed(value[name], hints[name], current, f"{where}, {name}")
            elif base is not None:
                settings[name] = current
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ValueError(f"{where}: {kind.__name__} lacks {name}")
        return kind(**settings)


def _find_of_kind(item: object, base: object) -> object:
    """The first value in ``base`` of the class that a saved item of a tuple names, such as a metric of the user's."""
    kind = item.get("type") if isinstance(item, dict) else None
    values = base if isinstance(base, tuple) else ()
    return next((value for value in values if kind is not None and _get_saved_name(type(value)) == kind), None)


def _is_bare_name(saved: object, name: object) -> bool:
    """Whether an earlier version saved the user's own class without its module."""
    return isinstance(name, str) and ":" in name and name.partition(":")[2].rpartition(".")[2] == saved


def _list_differences(current: Plain, saved: Plain, prefix: str) -> list[str]:
    lines: list[str] = []
    for key in sorted(current.keys() | saved.keys()):
        value, saved_value = current.get(key), saved.get(key)
        if isinstance(value, dict) and isinstance(saved_value, dict):
            lines += _list_differences(value, saved_value, f"{prefix}{key}.")
        elif value != saved_value and not (key == "type" and _is_bare_name(saved_value, value)):
            lines.append(f"{prefix}{key}: {value!r}, saved {saved_value!r}")
    return lines
