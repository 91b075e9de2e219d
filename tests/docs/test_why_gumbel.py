"""The page on gradients says what the links do: its table is the script's, its claims hold."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from tailseg.losses import Gumbel

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/explain/why-gumbel.md"

spec = importlib.util.spec_from_file_location("plot_link_gradients", ROOT / "tools/plot_link_gradients.py")
plot = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plot)

P = torch.tensor([1e-9, *plot.PROBABILITIES], dtype=torch.float64)


def test_the_table_is_the_scripts():
    assert plot.table() in PAGE.read_text()


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_picture_can_be_drawn(ending, tmp_path):
    plot.draw(tmp_path / f"picture.{ending}")
    assert (tmp_path / f"picture.{ending}").stat().st_size > 10_000


@pytest.mark.parametrize("curve", plot.CURVES, ids=lambda curve: curve.name)
def test_at_equal_probability_no_link_changes_the_balance(curve):
    up, down = plot.gradients(curve.link, plot.logit_of(curve.link, P))
    torch.testing.assert_close(up / down, (1 - P) / P, rtol=1e-6, atol=0)


def test_gumbel_pulls_with_minus_log_p_and_pushes_with_less_than_1():
    up, down = plot.gradients(Gumbel(), plot.logit_of(Gumbel(), P))
    torch.testing.assert_close(up, -P.log(), rtol=1e-6, atol=0)
    assert (down < 1).all()
    assert f"{-math.log(0.001):.1f} at p = 0.001" in PAGE.read_text()


def test_the_published_dead_zones_are_those_of_the_page():
    low, high = plot.dead_zones()
    assert low == pytest.approx(-3.5, abs=0.05)
    assert high == pytest.approx(10, abs=0.01)
