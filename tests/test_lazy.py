"""Packages whose names are imported when they are asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from tailseg.lazy import MissingPartError, needs_extra, on_demand
from tailseg.losses import LossConfig

PACKAGES = (
    "tailseg.annotations",
    "tailseg.losses",
    "tailseg.models",
    "tailseg.inference",
    "tailseg.interop",
    "tailseg.data.tiny_tail",
)
every_package = pytest.mark.parametrize("package", [importlib.import_module(name) for name in PACKAGES], ids=PACKAGES)


def for_type_checkers(package: ModuleType) -> dict[str, str]:
    """The names that the package imports under TYPE_CHECKING from its own modules, with the module of each."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    (block,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    imports = [
        node for node in block if isinstance(node, ast.ImportFrom) and str(node.module).startswith(package.__name__)
    ]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


@every_package
def test_every_public_name_is_there_and_is_listed(package: ModuleType) -> None:
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package.__all__) <= set(dir(package))


@every_package
def test_type_checkers_see_what_users_get(package: ModuleType) -> None:
    seen = for_type_checkers(package)
    assert seen
    for name, module in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)


@every_package
def test_a_misspelt_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Gumble'"):
        _ = package.Gumble


def test_a_star_takes_every_name() -> None:
    names: dict[str, object] = {}
    exec("from tailseg.losses import *", names)
    assert set(importlib.import_module("tailseg.losses").__all__) <= names.keys()


def test_a_name_is_imported_once_and_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "parcel").mkdir()
    (tmp_path / "parcel" / "__init__.py").write_text("")
    (tmp_path / "parcel" / "content.py").write_text("thing = object()")
    monkeypatch.syspath_prepend(tmp_path)
    parcel = importlib.import_module("parcel")
    find, names = on_demand("parcel", {"content": ("thing",)})
    assert "thing" in names()
    assert "parcel.content" not in sys.modules
    thing = find("thing")
    assert parcel.__dict__["thing"] is thing
    monkeypatch.delitem(sys.modules, "parcel.content")
    monkeypatch.delitem(sys.modules, "parcel")


@pytest.mark.parametrize("config", get_args(LossConfig), ids=lambda config: config.__name__)
def test_the_settings_of_a_loss_stand_in_its_module_as_well(config: type) -> None:
    """Recipes of users name them there: that was their place once."""
    losses = importlib.import_module("tailseg.losses")
    loss = getattr(losses, config.__name__.removesuffix("Config"))
    assert getattr(sys.modules[loss.__module__], config.__name__) is config
    assert getattr(losses, config.__name__) is config


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    message = r"needs the package no_such_package.*pip install 'tailseg\[train\]'"
    with pytest.raises(MissingPartError, match=message), needs_extra("train"):
        importlib.import_module("no_such_package.part")
    with pytest.raises(ImportError, match="cannot import name"), needs_extra("train"):
        from math import no_such_name  # noqa: F401, another error stays as it is


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("tyro", "from tailseg.cli import main; sys.exit(main(['recipes']))"),
        ("contourpy", "import tailseg.report.thumbnails"),
    ],
)
def test_each_part_names_the_extra_train(missing: str, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules[{missing!r}] = None; {code}"], capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f"needs the package {missing}, which is not installed: pip install 'tailseg[train]'")
    assert (done.stderr == f"{last}\n") == (missing == "tyro"), "a command prints no stack trace"
