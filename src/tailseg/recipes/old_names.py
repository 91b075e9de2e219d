"""Settings under their old names, in recipe.json files and on the command line.

The old names stand with the settings, see `tailseg.deprecated.renamed_fields`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

from tailseg.deprecated import Renamed, fields_renamed_in
from tailseg.ranges import Settings, option

OLD_CLASSES = {"NormalisedConfig": "NormalizedConfig"}
"""Classes of settings by their old name, as recipes were saved with it."""


def with_new_names(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved recipe with the names that its settings have now.

    Args:
        saved: ``{"recipe": name, "resolved": {...}}`` of this version or of an earlier one.

    Returns:
        The same in a new dictionary; values that changed with the name are converted. Settings of a class of the
        user's own are left alone, for their names are the user's: `with_new_fields` renames those that it inherits.
    """
    return {**saved, "resolved": _renamed(saved["resolved"], (), _old_names(), _class_names())}


def with_new_fields(saved: dict[str, Any], kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass
    """The saved settings of one class with the names that its fields have now; a field of the class itself stays."""
    known = {field.name for field in dataclasses.fields(kind)}
    fields = {}
    for key, value in saved.items():
        new = Renamed(key) if key in known else fields_renamed_in(kind).get(key, Renamed(key))
        fields[new.field] = new.convert(value)
    return fields


def with_new_option(argument: str, settings: object = None) -> tuple[list[str], str]:
    """One argument of a command line, in today's words.

    Args:
        argument: as it was typed, ``--optim.steps`` or ``--optim.steps=8``.
        settings: what the options change; a field that has the old name, as a class of the user's own may, stays.

    Returns:
        The arguments that replace it, and the new option where its name was an old one, else "".
    """
    name, equals, value = argument.partition("=")
    path = name.removeprefix("--").replace("-", "_")
    if not name.startswith("--") or "." not in path:
        return [argument], ""
    known, places = _old_names(), path.split(".")
    negated = places[-1].startswith("no_")
    if negated:
        places[-1] = places[-1].removeprefix("no_")
    renamed, convert = [], None
    for place in places:
        new = None if _has_field(settings, place) else known.get((*_without_numbers(renamed), place))
        settings = getattr(settings, place if new is None else new.field, None)
        renamed.append(place if new is None else new.field)
        convert = None if new is None else new.convert
    if renamed == places:
        return [argument], ""
    if convert is Renamed.convert or convert is None:
        new_name = option(".".join([*renamed[:-1], f"{'no_' * negated}{renamed[-1]}"]))
        return [new_name + equals + value], new_name
    new_name = option(".".join(renamed))  # a flag became an option with a value
    return [new_name, str(convert(not negated and value.lower() not in ("false", "0")))], new_name


def _renamed(value: object, place: tuple[str, ...], known: dict[tuple[str, ...], Renamed], classes: set[str]) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return [_renamed(item, (*place, "N"), known, classes) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if isinstance(kind, str) and kind not in classes:
        return value
    fields = {}
    for key, item in value.items():
        new = known.get((*place, key), Renamed(key))
        fields[new.field] = _renamed(new.convert(item), (*place, new.field), known, classes)
    return {**fields, "type": OLD_CLASSES[kind]} if isinstance(kind, str) and kind in OLD_CLASSES else fields


def _class_names() -> set[str]:
    """The names that tailseg's classes of settings are saved by."""
    return {kind.__name__ for kind in _subclasses(Settings) if kind.__module__.startswith("tailseg.")} | {*OLD_CLASSES}


def _has_field(settings: object, name: str) -> bool:
    return dataclasses.is_dataclass(settings) and name in {field.name for field in dataclasses.fields(settings)}


def _old_names() -> dict[tuple[str, ...], Renamed]:
    """The old names of all settings of a recipe, by their place: ``("optim", "steps")``."""
    return {
        (*place.split("."), old): new
        for kind in _subclasses(Settings)
        for place in kind.places
        for old, new in fields_renamed_in(kind).items()
    }


def _subclasses(kind: type[Settings]) -> Iterator[type[Settings]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _without_numbers(places: list[str]) -> list[str]:
    return ["N" if place.isdigit() else place for place in places]
