"""Compiles losses into one graph each: ``compiled.py CONFIGS``, a pickle of configs by name and their frequencies.

Prints the names of those that agree with themselves as they were, and refuse labels out of range.
"""

import pickle
import sys
from pathlib import Path

import pytest
import torch

from tailseg.losses import BinaryLoss, bce_with_logits, focal_with_logits, gumbel_bce_with_logits


def value_and_gradient(loss, logits, labels):
    torch.manual_seed(0)
    logits = logits.clone().requires_grad_()
    value = sum(loss(logits, labels).values())
    return value.detach(), torch.autograd.grad(value, logits)[0]


def check_functions():
    """Compiles the functions of dynamic shapes; an ignored logit may be NaN."""
    for function in (bce_with_logits, gumbel_bce_with_logits, focal_with_logits):

        def cost(logits, target, function=function):
            return {"": function(logits, target, torch.ones(5), ignored=logits.isnan())}

        torch.compiler.reset()
        compiled = torch.compile(cost, fullgraph=True, backend="aot_eager", dynamic=True)
        for rows in (3, 4, 6):
            logits, target = torch.randn(rows, 5), torch.rand(rows, 5)
            logits[0, 0] = torch.nan
            torch.testing.assert_close(
                value_and_gradient(compiled, logits, target), value_and_gradient(cost, logits, target)
            )


if __name__ == "__main__":
    check_functions()
    configs, frequency = pickle.loads(Path(sys.argv[1]).read_bytes())
    for name, config in configs.items():
        torch.compiler.reset()  # which counts all losses of a class as one
        loss = config.build(frequency)
        compiled = torch.compile(config.build(frequency), fullgraph=True, backend="aot_eager")
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            logits = torch.randn(8, loss.num_logits, generator=generator)
            labels = torch.randint(0, loss.num_classes + 1, (8,), generator=generator)
            torch.testing.assert_close(
                value_and_gradient(compiled, logits, labels), value_and_gradient(loss, logits, labels)
            )
        if isinstance(loss, BinaryLoss):
            loss.eval()  # keeps the state
            quality = torch.rand(8)

            def dense(logits, labels, loss=loss, quality=quality):
                return {"": loss.dense(logits, labels, quality=quality)}

            torch.testing.assert_close(
                value_and_gradient(torch.compile(dense, fullgraph=True, backend="aot_eager"), logits, labels),
                value_and_gradient(dense, logits, labels),
            )
        for label in (-1, loss.num_classes + 1):
            with pytest.raises(RuntimeError, match=rf"labels must lie in 0 \.\. {loss.num_classes}"):
                compiled(logits, torch.full((8,), label))
        print(name)
