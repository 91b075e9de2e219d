"""Which third-party packages the light commands import: help, errors and lists come without torch, and so at once.

Each command runs in a process of its own under ``python -X importtime``, which tells every module that is imported.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tailseg.cli import COMMANDS

FILES = {"safetensors"}
"""`tailseg.files` knows its error; it takes a millisecond and imports nothing else."""
PARSER = FILES | {"docstring_parser", "rich", "typeguard", "typing_extensions", "tyro"}
ANNOTATIONS = PARSER | {"filelock", "jaxtyping", "msgspec", "numpy", "pycocotools"}
EVALUATION = ANNOTATIONS | {"hotcoco"}
REPORT = EVALUATION | {"PIL", "contourpy", "jinja2", "markupsafe"}


def imported(*arguments: str, code: int = 0) -> set[str]:
    """The third-party packages that ``python ARGUMENTS`` imports, beside those of ``python -c pass``.

    Args:
        arguments: of python.
        code: the exit code that is expected.
    """
    names = _imported(arguments, code) - _imported(("-c", "pass"), 0)
    # Names that were tried and are not there are listed as well.
    return {name for name in names if importlib.util.find_spec(name) is not None}


@cache
def _imported(arguments: tuple[str, ...], code: int) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")][1:]  # the first is the head
    names = {line.split("|")[2].strip().split(".")[0] for line in lines}
    return names - {"tailseg"} - set(sys.stdlib_module_names)


@pytest.fixture
def files(raw: dict[str, Any], write: Callable[..., Path]) -> dict[str, str]:
    """A small annotation file, its images (which nothing decodes), and results."""
    truth = write(raw)
    for image in raw["images"]:
        (truth.parent / image["file_name"]).touch()
    keys = ("image_id", "category_id", "bbox")
    found = [{key: record[key] for key in keys} | {"score": 0.5} for record in raw["annotations"]]
    results = write(found, name="results.json")
    return {
        "TRUTH": str(truth),
        "RESULTS": str(results),
        "MISSING": str(truth.with_name("missing.json")),
        "NEW": str(truth.with_name("new.json")),
    }


def test_the_packages_that_a_process_imports_are_found() -> None:
    assert imported("-c", "import PIL.Image") == {"PIL"}
    assert "torch" in imported("-c", "import tailseg.structures")


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
def test_the_program_itself_imports_nothing(arguments: tuple[str, ...]) -> None:
    assert imported("-m", "tailseg", *arguments, code=0 if arguments else 2) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_a_parser_alone(command: str) -> None:
    assert imported("-m", "tailseg", command, "--help") <= PARSER


OPTIONS = {"train": ("tiny_gumbel",), "data": ("check", "my.json")}
"""What stands before a command's options."""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_option_needs_a_parser_alone(command: str) -> None:
    assert imported("-m", "tailseg", command, *OPTIONS.get(command, ()), "--no-such-option", code=2) <= PARSER


@pytest.mark.parametrize(
    ("arguments", "code", "allowed"),
    [
        ("recipes", 0, PARSER),
        ("train tiny_gumbel --help", 0, PARSER),
        ("train no_such_recipe", 2, PARSER),
        ("data show TRUTH", 0, EVALUATION),
        ("data check TRUTH", 0, ANNOTATIONS),
        ("data check TRUTH --val TRUTH", 0, ANNOTATIONS),
        ("data check TRUTH --repair NEW", 0, ANNOTATIONS),
        ("eval TRUTH RESULTS", 0, EVALUATION),
        ("eval TRUTH RESULTS --train TRUTH", 0, EVALUATION),
        ("compare RESULTS RESULTS --annotations TRUTH --samples 10", 0, EVALUATION),
        ("report TRUTH RESULTS --images .", 0, REPORT),
        ("thresholds TRUTH RESULTS --samples 10", 0, EVALUATION),
    ],
)
def test_what_a_light_command_imports(arguments: str, code: int, allowed: set[str], files: dict[str, str]) -> None:
    given = [files.get(argument, argument) for argument in arguments.split()]
    assert imported("-m", "tailseg", *given, code=code) <= allowed


@pytest.mark.parametrize(
    ("arguments", "code", "allowed"),
    [
        ("train MISSING", 1, ANNOTATIONS),
        ("train tiny_gumbel --data.val MISSING", 1, ANNOTATIONS),
        ("train custom_small", 1, ANNOTATIONS),
        ("test MISSING", 1, PARSER),
        ("resume MISSING", 1, PARSER),
        ("predict MISSING TRUTH", 1, PARSER),
        ("export MISSING", 1, PARSER),
        ("predict MISSING MISSING", 2, PARSER),
        ("calibrate MISSING", 2, PARSER),
        ("report MISSING", 1, PARSER),
        ("thresholds MISSING", 1, PARSER),
        ("thresholds TRUTH MISSING", 2, EVALUATION),
        ("serve MISSING", 1, PARSER),
        ("convert MISSING out --recipe tiny_gumbel --classes TRUTH", 1, ANNOTATIONS),
        ("convert MISSING out.pth --to mmdet", 1, PARSER),
        ("data show MISSING", 1, ANNOTATIONS),
        ("data check MISSING", 1, ANNOTATIONS),
        ("eval MISSING RESULTS", 1, EVALUATION),
        ("eval TRUTH MISSING", 1, EVALUATION),
        ("compare MISSING RESULTS --annotations TRUTH", 2, PARSER),
        ("report TRUTH MISSING", 2, EVALUATION),
    ],
)
def test_a_missing_file_is_named_without_torch(
    arguments: str, code: int, allowed: set[str], files: dict[str, str]
) -> None:
    given = [files.get(argument, argument) for argument in arguments.split()]
    assert imported("-m", "tailseg", *given, code=code) <= allowed


@pytest.mark.parametrize("module", ["tailseg.losses", "tailseg.models", "tailseg.recipes", "tailseg.data.tiny_tail"])
def test_settings_come_without_third_parties(module: str) -> None:
    assert imported("-c", f"import {module}") <= FILES


def test_evaluation_as_a_library_imports_no_parser() -> None:
    assert imported("-c", "import tailseg.evaluation") <= EVALUATION - PARSER | FILES | {"rich", "typing_extensions"}


def test_the_losses_import_what_torch_and_the_shapes_import() -> None:
    """``torch._dynamo`` alone would bring sympy and seconds."""
    wanted = imported("-c", "import torch, numpy, jaxtyping")
    assert imported("-c", "from tailseg.losses import *") == wanted
