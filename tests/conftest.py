"""What every test shares: the data beside the repository, a browser, shape checks, one thread a worker."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

# Shapes and types of every annotated function are checked while the tests run (never for users). The hook has to be in
# place before the first import of tailseg, and wants its checker by name; an int passes for a float, as in ty.
_checker = ModuleType("tailseg_test_checker")
_checker.__dict__["check"] = beartype(conf=BeartypeConf(is_pep484_tower=True))
sys.modules[_checker.__name__] = _checker
jaxtyping.install_import_hook("tailseg", f"{_checker.__name__}.check")

import torch  # noqa: E402

from tailseg.losses import binary  # noqa: E402

from .raw_data import many, raw, write  # noqa: E402

__all__ = ["browser", "many", "one_thread", "raw", "shared", "write"]

# Checked functions are no code to compile: tests that compile do so in processes of their own.
binary.COMPILE_FROM.clear()

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the folder of the longest tests: no worker waits for one of them at the end."""
    first = Path(__file__).parent / "training"
    items.sort(key=lambda item: not item.path.is_relative_to(first))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository: data and golden files too large or not free enough to carry."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared beside the repository (test data that is not part of it)")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What is compared to the bit must not depend on how threads share a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium under playwright."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("needs playwright")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("needs Chromium (Debian and Ubuntu: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=executable, args=options)
        yield opened
        opened.close()
