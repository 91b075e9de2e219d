"""The JSON schema of results: results.schema.json, in draft 2020-12."""

import json
from importlib.resources import files
from typing import Any


def read_schema() -> dict[str, Any]:
    """Reads the schema of what `tailseg predict` writes and `tailseg serve` answers."""
    return json.loads(files("tailseg.inference").joinpath("results.schema.json").read_text(encoding="utf-8"))


def read_definitions(place: str) -> dict[str, Any]:
    """Reads the parts of the schema, which refer to each other at another place.

    Args:
        place: where the parts will be, such as ``#/components/schemas/``.

    Returns:
        Each part by its name.
    """
    return json.loads(json.dumps(read_schema()["$defs"]).replace("#/$defs/", place))
