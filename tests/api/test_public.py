"""What is public: each name is there, `import tailseg` is light, and no name goes without a deprecation."""

import ast
import importlib
import importlib.resources
import subprocess
import sys
import warnings

import pytest

from tailseg.deprecated import fields_renamed_in

from .public_names import PACKAGES, find_public_names, read_list

LISTED = read_list()
PUBLIC = find_public_names()
packages = pytest.mark.parametrize("package", PACKAGES)


def is_deprecated(name: str) -> bool:
    """Whether a name that has gone is still accepted, with a FutureWarning."""
    path, _, parameter = name.removesuffix(")").partition("(")
    package, *parts = path.removeprefix("tailseg.").split(".")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            thing = importlib.import_module(f"tailseg.{package}")
            for part in parts:
                thing = getattr(thing, part)
        except AttributeError:
            owner = path.rpartition(".")[0]
            return "." in owner.removeprefix("tailseg.") and is_deprecated(owner)
    if any(issubclass(warning.category, FutureWarning) for warning in caught):
        return True
    return bool(parameter) and parameter in fields_renamed_in(thing)


def test_no_public_name_goes_without_a_deprecation() -> None:
    gone = [name for name in sorted(LISTED - PUBLIC) if not is_deprecated(name)]
    assert gone == [], (
        "these public names are gone. Keep each under its old name with a FutureWarning (src/tailseg/deprecated.py, "
        "docs/stability.md), or remove its line from tests/api/public_names.txt if its time is over"
    )


def test_new_public_names_are_listed() -> None:
    assert sorted(PUBLIC - LISTED) == [], "run `uv run python tests/api/public_names.py` and commit public_names.txt"


def test_a_renamed_setting_counts_as_deprecated() -> None:
    assert is_deprecated("tailseg.recipes.SGDConfig(steps)")
    assert is_deprecated("tailseg.models.TestConfig")
    assert is_deprecated("tailseg.models.TestConfig(score_threshold)")
    assert not is_deprecated("tailseg.models.NoSuchConfig")
    assert not is_deprecated("tailseg.recipes.SGDConfig(no_such)")


@packages
def test_every_name_of_a_package_is_there(package: str) -> None:
    module = importlib.import_module(f"tailseg.{package}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert module.__all__ == sorted(module.__all__, key=module.__all__.index)
    assert set(module.__all__) <= set(dir(module))
    assert module.__doc__


def run_python(code: str) -> str:
    """What a new process prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_tailseg_is_light_and_reaches_the_packages() -> None:
    code = """
import sys, tailseg
print(sorted({"torch", "numpy", "tyro", "rich"} & set(sys.modules)))
tailseg.recipes.get_recipe("tiny_gumbel"), tailseg.losses.GumbelCEConfig, tailseg.models.ModelConfig
tailseg.evaluate, tailseg.data.read_dataset
print("torch" in sys.modules)
from tailseg import Predictor, train, evaluate
print(Predictor.__name__, train.__name__, evaluate.__name__)
"""
    assert run_python(code).split("\n") == ["[]", "False", "Predictor train evaluate", ""]


def test_a_misspelled_name_is_an_attribute_error() -> None:
    import tailseg

    with pytest.raises(AttributeError, match="module 'tailseg' has no attribute 'Predict'"):
        _ = tailseg.Predict


def test_type_checkers_see_tailseg() -> None:
    assert importlib.resources.files("tailseg").joinpath("py.typed").is_file()
    tree = ast.parse(importlib.resources.files("tailseg").joinpath("__init__.py").read_text())
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(importlib.import_module("tailseg").__all__) <= seen
