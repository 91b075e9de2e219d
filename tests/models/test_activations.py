"""AGLU and APA as layers: their values, derivatives, memory and types. The authors' values: tests/parity."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tailseg.losses import binary
from tailseg.models import activations
from tailseg.models.activations import AGLU, APA, LEAST_LAMBDA, aglu, apa


def direct(z, lambda_, kappa, gated):
    """The definition, in float64."""
    p = (1 + lambda_ * torch.exp(-kappa * z)) ** (-1 / lambda_)
    return z * p if gated else p


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("lambda_", [0.02, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("kappa", [-0.7, 0.0, 1.3])
def test_the_formula_and_its_three_derivatives(kappa, lambda_, gated):
    z = torch.linspace(-6, 6, 61, dtype=torch.float64, requires_grad=True)
    numbers = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (lambda_, kappa)]
    results = []
    for value in ((aglu if gated else apa)(z, *numbers), direct(z, *numbers, gated)):
        results.append((value, *torch.autograd.grad((value * z.detach().cos()).sum(), (z, *numbers))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_derivatives_twice():
    z, raw, kappa = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (7, 1, 1))
    for function in (aglu, apa):
        assert torch.autograd.gradcheck(lambda z, r, k, f=function: f(z, r.exp(), k), (z, raw, kappa))
        assert torch.autograd.gradgradcheck(lambda z, r, k, f=function: f(z, r.exp(), k), (z, raw, kappa))


def test_limits():
    z = torch.linspace(-8, 8, 65, dtype=torch.float64)
    one, least = torch.ones(1, dtype=torch.float64), torch.full((1,), 1e-9, dtype=torch.float64)
    torch.testing.assert_close(aglu(z, one, one), nn.functional.silu(z), rtol=1e-12, atol=0)
    torch.testing.assert_close(apa(z, least, one), torch.exp(-torch.exp(-z)), rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize("num_parameters", [1, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_blocks_in_any_order_of_memory(num_parameters, memory_format, monkeypatch):
    """A block of 16 elements or one image at a time, against float64 at once."""
    monkeypatch.setattr("tailseg.models.activations.BLOCK", 16)
    layer = AGLU(num_parameters)
    z = torch.randn(3, 5, 4, 6).to(memory_format=memory_format).requires_grad_()
    out = layer(z)
    assert out.stride() == z.stride()
    cotangent = torch.randn(3, 5, 4, 6)  # in another order than z
    ours = torch.autograd.grad(out, (z, *layer.parameters()), cotangent)
    double = AGLU(num_parameters).double()
    double.load_state_dict(layer.state_dict())
    wide = z.detach().double().requires_grad_()
    shape = (num_parameters, 1, 1)
    expected = direct(wide, double.lambda_.view(shape), double.kappa.view(shape), True)
    theirs = torch.autograd.grad(expected, (wide, *double.parameters()), cotangent.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def test_a_strided_input():
    z = torch.randn(4, 6)[:, ::2]
    torch.testing.assert_close(AGLU(lambda_range=(1, 1), kappa_range=(1, 1))(z), nn.functional.silu(z))


def kept(layer, z):
    """Bytes that the layer keeps for the backward pass, without its parameters."""
    total = 0

    def count(tensor):
        nonlocal total
        total += tensor.nbytes if tensor.numel() > 1 else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        layer(z)
    return total


def test_it_keeps_as_much_as_silu():
    z = torch.randn(2, 8, 16, 16, requires_grad=True)
    assert kept(AGLU(), z) == kept(nn.SiLU(), z) == z.nbytes
    assert kept(AGLU(8), z) < z.nbytes + 8 * 32, "and what softplus keeps of 8 lambdas"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type(dtype):
    z = torch.linspace(-20, 20, 41).to(dtype).requires_grad_()
    layer = AGLU()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(z)
    assert out.dtype == dtype
    grads = torch.autograd.grad(out.sum(), (z, *layer.parameters()))
    assert grads[0].dtype == dtype
    assert all(grad.isfinite().all() for grad in grads)
    torch.testing.assert_close(out.float(), layer(z.detach().float()), rtol=1e-2, atol=1e-5)


def test_nothing_overflows():
    z = torch.tensor([-3e38, -1e4, -200.0, 0.0, 200.0, 1e4], requires_grad=True)
    for lambda_ in (1e-4, 1.0, 100.0):
        for kappa in (-1.0, 0.0, 1.0):
            numbers = [torch.tensor([x], requires_grad=True) for x in (lambda_, kappa)]
            value = apa(z, *numbers)
            assert all(x.isfinite().all() for x in (value, *torch.autograd.grad(value.sum(), (z, *numbers))))


def test_a_dead_lambda_is_dead_as_published_only():
    z = torch.randn(50, requires_grad=True)
    for positive, moves in (("clamp", False), ("softplus", True)):
        layer = AGLU(positive=positive)
        with torch.no_grad():
            layer.raw_lambda.fill_(-0.2)
        (gradient,) = torch.autograd.grad(layer(z).sum(), layer.raw_lambda)
        assert bool(gradient != 0) == moves
        assert layer.lambda_.item() >= LEAST_LAMBDA * (1 - 1e-6)


def test_starts_in_its_ranges():
    torch.manual_seed(0)
    layer = APA(1000, lambda_range=(0.2, 0.4))
    assert layer.lambda_.min() >= 0.2 - 1e-6
    assert layer.lambda_.max() <= 0.4 + 1e-6
    assert layer.kappa.min() >= -1
    assert layer.kappa.max() <= 0
    assert AGLU().no_weight_decay() == {name for name, _ in AGLU().named_parameters()}


@pytest.mark.parametrize("num_parameters", [1, 3])
@pytest.mark.parametrize("kind", [AGLU, APA])
def test_torch_func_follows_it(kind, num_parameters):
    """Derivatives by torch.func, also of each image, and a tangent."""
    layer, z = kind(num_parameters), torch.randn(2, 3, 4)

    def total(z, state):
        return torch.func.functional_call(layer, state, (z,)).square().sum()

    state = {name: value.detach() for name, value in layer.named_parameters()}
    by_z, by_state = torch.func.grad(total, argnums=(0, 1))(z, state)
    total(z.requires_grad_(), dict(layer.named_parameters())).backward()
    torch.testing.assert_close(by_z, z.grad)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(by_state[name], parameter.grad)
    each = torch.vmap(torch.func.grad(total), in_dims=(0, None))(z.detach()[:, None], state)
    torch.testing.assert_close(each[:, 0], z.grad)
    _, tangent = torch.func.jvp(lambda z: total(z, state), (z.detach(),), (torch.ones_like(z),))
    torch.testing.assert_close(tangent, z.grad.sum())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_follows_it():
    """As tools that count operations or draw a graph make it."""
    layer, z = nn.Sequential(AGLU(), APA(3)), torch.randn(2, 3, 4)
    traced = torch.jit.trace(layer, z)
    torch.testing.assert_close(traced(z[:1] * 2), layer(z[:1] * 2))


def test_fake_tensors_give_shapes():
    """What estimates of memory run on."""
    with FakeTensorMode():
        layer, z = AGLU(num_parameters=8), torch.randn(4, 8, requires_grad=True)
        layer(z).sum().backward()
        assert z.grad is not None
        assert z.grad.shape == (4, 8)
        assert layer.kappa.grad.shape == (8,)


def test_whole_numbers_are_refused():
    with pytest.raises(TypeError, match=r"AGLU and APA take floating point numbers, got torch\.int64"):
        activations._apply(torch.arange(5), torch.ones(1), torch.ones(1), True)


COMPILED = """
import torch
from tailseg.losses import APA, DropLoss
from tailseg.models.activations import AGLU
from tailseg.structures import ClassFrequency

def check(function, inputs):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    ours, theirs = (torch.autograd.grad(f(), inputs) for f in (compiled, function))
    torch.testing.assert_close(ours, theirs)

z, layer = torch.randn(3, 4, requires_grad=True), AGLU()
check(lambda: layer(z).square().sum(), (z, *layer.parameters()))
counts, labels = torch.arange(1, 7), torch.tensor([0, 6, 3, 3, 5])
q = torch.randn(5, 6, requires_grad=True)
for link in (APA(0.3), APA(torch.rand(6) + 0.1, learns=True)):
    loss = DropLoss(ClassFrequency.from_counts(counts, counts, 100), tail=0.0, link=link)
    check(lambda: loss(q, labels)["loss_cls"], (q, *loss.parameters()))
"""


@pytest.mark.slow
def test_compiled_in_one_graph():
    """The layer, and a loss over the link; in a process of its own, because the tests check types."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_its_own_kernel(monkeypatch):
    """As large inputs run: compiled by the layer itself."""
    layer, z = AGLU(), torch.randn(3, 4, 5, requires_grad=True)
    theirs = torch.autograd.grad(layer(z).square().sum(), (z, *layer.parameters()))
    monkeypatch.setitem(binary.COMPILE_FROM, "cpu", 1)
    ours = torch.autograd.grad(layer(z).square().sum(), (z, *layer.parameters()))
    assert not binary._FAILURES
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"AGLU has 3 lambdas and expects 3 channels \[B, C, \.\.\.\], got \[2, 4\]"):
        AGLU(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="num_parameters is at least 1"):
        AGLU(0)
    with pytest.raises(ValueError, match="lambda_range is two numbers that increase"):
        APA(lambda_range=(0.5, 0.2))
