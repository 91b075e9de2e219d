"""A synthetic LVIS-style case of 200 images, made once, by the benchmark's own generator."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tailseg.evaluation import old_hotcoco

needs_new_hotcoco = pytest.mark.skipif(old_hotcoco.IS_OLD, reason="of hotcoco 1.2 and later")


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module benchmarks/synthetic_results.py."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "synthetic_results.py"
    spec = importlib.util.spec_from_file_location("synthetic_results", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def case(synthetic, tmp_path_factory):
    """Its files ``truth`` and ``results``: 200 images, 300 detections each, 120 classes."""
    return synthetic.write(tmp_path_factory.mktemp("synthetic"), images=200, num_classes=120)
