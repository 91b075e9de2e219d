"""The fused pass of the binary family: the ways it can go give one result."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tailseg.losses import ClassFactors, EntryCost, Gumbel, NormalCDF, Sigmoid, binary
from tailseg.losses.binary import Dropped, _Columns, _Rows, binary_cost
from tailseg.losses.links import PublishedGumbel

LINKS = {"gumbel": Gumbel(), "sigmoid": Sigmoid(), "normal": NormalCDF()}
every_link = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())


def problem(num_regions, num_logits, dtype=torch.float32):
    """Logits of a detector, most of them far below zero; labels, background among them; some entries dropped."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(num_regions, num_logits, generator=generator) - 2
    labels = torch.randint(0, num_logits + 1, (num_regions,), generator=generator)
    regions = torch.rand(num_regions, num_logits, generator=generator) < 0.5
    return logits.to(dtype), labels, Dropped(regions, torch.arange(num_logits) % 3 > 0)


def value_and_gradient(logits, labels, link, dropped=None, scale=1.0):
    logits = logits.clone().requires_grad_()
    value = binary_cost(logits, labels, link, dropped=dropped)
    return value.detach(), torch.autograd.grad(scale * value, logits)[0]


def by_autograd(logits, labels, link, dropped):
    """All costs apart, [R, L], in float64."""
    q = logits.double().requires_grad_()
    positive = labels.unsqueeze(1) == torch.arange(q.shape[1])
    costs = -torch.where(positive, link.log_probability(q), link.log_complement(q))
    if dropped is not None:
        costs = costs * (positive | ~(dropped.regions & dropped.classes))
    value = costs.sum() / len(q)
    return value.detach(), torch.autograd.grad(value, q)[0]


@every_link
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_blocks_of_any_size_give_the_cost_of_all_entries(link, drops, block, monkeypatch):
    monkeypatch.setattr(binary, "BLOCK", block)
    logits, labels, dropped = problem(37, 11, torch.float64)
    dropped = dropped if drops else None
    torch.testing.assert_close(
        value_and_gradient(logits, labels, link, dropped), by_autograd(logits, labels, link, dropped)
    )


@every_link
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_gradient_kept_is_the_gradient_computed_again(link, dtype):
    """The first backward pass may take the forward pass's gradient; a second one has to compute it."""
    logits, labels, dropped = problem(20, 7, dtype)
    logits.requires_grad_()
    value = binary_cost(logits, labels, link, dropped=dropped)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    first.mul_(7)  # whoever receives a gradient may write into it
    (second,) = torch.autograd.grad(value, logits)
    rounding = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(first, 7 * second, rtol=rounding, atol=0)


ENTRIES = [
    (Gumbel(), ClassFactors()),
    (Sigmoid(), ClassFactors(negative=torch.tensor([0.75]))),
    (EntryCost(NormalCDF()), ClassFactors(negative=torch.tensor([0.5]), gamma=torch.tensor([2.0]))),
    (EntryCost(Gumbel(), constant_factor=True), ClassFactors(gamma=torch.tensor([1.5]))),
]


@pytest.mark.parametrize(("link", "factors"), ENTRIES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_costs_from_the_table_of_half_precision_are_the_computed_ones(link, factors, dtype, monkeypatch):
    """To the bit: of all finite logits, infinite ones, and with drops."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    logits = every[~every.isnan()].view(-1, 2)
    labels = torch.arange(len(logits)) % 3
    dropped = Dropped(labels.unsqueeze(1) == 1, torch.tensor([True, False]))
    table = binary._add_table(EntryCost(Gumbel()), _Columns(ClassFactors(), None), logits, _Rows(labels, *[None] * 5))
    assert table.table is not None  # else nothing is tested here

    def run():
        q = logits.clone().requires_grad_()
        value = binary_cost(q, labels, link, dropped=dropped, factors=factors)
        return value.detach(), torch.autograd.grad(value, q)[0]

    looked_up = run()
    monkeypatch.setattr(binary, "_add_table", lambda _entry, columns, _q, _rows: columns)
    torch.testing.assert_close(looked_up, run(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("link", "factors", "dtype"),
    [
        (Gumbel(), ClassFactors(negative=torch.ones(3)), torch.bfloat16),  # a number for each class
        (Gumbel(), ClassFactors(), torch.float32),
        (PublishedGumbel(), ClassFactors(), torch.bfloat16),
    ],
)
def test_no_table_where_a_cost_depends_on_more_than_65536_logits(link, factors, dtype):
    columns = _Columns(factors, None)
    rows = _Rows(torch.zeros(2, dtype=torch.int64), *[None] * 5)
    assert binary._add_table(EntryCost(link), columns, torch.zeros(2, 3, dtype=dtype), rows) is columns


def test_small_gradients_in_float16_live_through_a_scaler():
    """p = 6e-9 of a region of 512, below float16's least step (6e-8), times a scaler's 65,536."""
    logits = torch.full((512, 3), -2.94, dtype=torch.float16)
    labels = torch.full((512,), 3)
    _, gradient = value_and_gradient(logits, labels, Gumbel(), scale=65536.0)
    _, expected = value_and_gradient(logits.double(), labels, Gumbel(), scale=65536.0)
    assert expected.max() > 6e-8
    torch.testing.assert_close(gradient.double(), expected, rtol=0.1, atol=0)
    assert value_and_gradient(logits, labels, Gumbel())[1].abs().max() == 0


def test_without_a_gradient_none_is_made():
    logits, labels, _ = problem(4, 3)
    assert binary_cost(logits, labels, Gumbel()).grad_fn is None
    with torch.no_grad():
        assert not binary_cost(logits.requires_grad_(), labels, Gumbel()).requires_grad


COMPILED = """
import sys
import torch
from tailseg.losses import ClassFactors, EntryCost, Gumbel, NormalCDF, Sigmoid, binary, binary_cost
sys.path.insert(0, sys.argv[1])
from test_binary import by_autograd, problem, value_and_gradient

binary.COMPILE_FROM = {"cpu": 1, "cuda": 1}
half, single = torch.float16, torch.float32  # half precision computes its gradient again
cases = [(Gumbel(), 37, single), (Gumbel(), 50, single), (Gumbel(), 50, half), (Gumbel(), 50, torch.bfloat16)]
for link, num_regions, dtype in [*cases, (Sigmoid(), 50, single), (NormalCDF(), 50, single)]:
    logits, labels, dropped = problem(num_regions, 11, dtype)
    for drop in (None, dropped):
        value, gradient = value_and_gradient(logits, labels, link, drop)
        expected = by_autograd(logits, labels, link, drop)
        torch.testing.assert_close(value.double(), expected[0], rtol=1e-6, atol=0)
        rounding = 2 * torch.finfo(dtype).eps + 1e-5
        torch.testing.assert_close(gradient.double(), expected[1], rtol=rounding, atol=6e-8)

logits, labels, _ = problem(50, 11)
factors = ClassFactors(*(torch.rand(3, 11) + 0.5))
options = {"factors": factors, "weights": torch.rand(50, 11), "ignored": torch.rand(50, 11) < 0.2}
indices = {"labels": labels, "quality": torch.rand(50)}
for targets in (indices, {"labels": (torch.rand(50, 11) - 0.5).relu()}):
    results = []
    for binary.COMPILE_FROM in ({"cpu": 1}, {}):
        q = logits.clone().requires_grad_()
        value = binary_cost(q, link=EntryCost(Gumbel()), **targets, **options)
        results.append((value.detach(), torch.autograd.grad(value, q)[0]))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)
print(len(binary._FAILURES))
"""


def run(code, folder, **environment):
    """In a process of its own: the tests' checks of shapes are no code to compile."""
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning:tailseg", "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )


@pytest.fixture
def here(request):
    return request.path.parent


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler")
def test_compiled_it_gives_the_cost_of_all_entries(here, environment):
    done = run(COMPILED, here, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"]


UNCOMPILED = """
import sys, warnings
import torch
from tailseg.losses import Gumbel, binary
sys.path.insert(0, sys.argv[1])
from test_binary import by_autograd, problem, value_and_gradient

binary.COMPILE_FROM = {"cpu": 1, "cuda": 1}
logits, labels, dropped = problem(37, 11)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        value, gradient = value_and_gradient(logits, labels, Gumbel(), dropped)
torch.testing.assert_close(value.double(), by_autograd(logits, labels, Gumbel(), dropped)[0], rtol=1e-6, atol=0)
print([str(w.message) for w in caught if "the loss runs uncompiled" in str(w.message)])
"""


@pytest.mark.slow
def test_without_a_compiler_it_says_so_once_and_works(here, environment):
    done = run(UNCOMPILED, here, **{**environment, "CXX": "no-such-compiler"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the loss runs uncompiled and slower") == 1, done.stdout
