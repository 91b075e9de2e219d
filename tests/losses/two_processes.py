"""One of two processes that train losses on a part of every batch: ``two_processes.py FOLDER RANK``.

Reads ``problems.pkl``, writes ``RANK.pt``: by name, the loss and the gradient of every step and the state afterwards.
"""

import pickle
import sys
from itertools import accumulate
from pathlib import Path

import torch
import torch.distributed as dist

from tailseg.losses import drop_loss
from tailseg.losses.processes import compute_process_share
from tailseg.training.distributed import leave


def run(problems, rank, sizes):
    """Values and gradients of every step and the state afterwards, for part ``rank`` of every batch, cut to ``sizes``.

    Weighed as the heads do it: the values' and gradients' means over the processes are those of all regions.
    """
    here = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    outcome = {}
    for name, (config, frequency, batches) in problems.items():
        loss, values, gradients = config.build(frequency), [], []
        for logits, labels in batches:
            part = logits[here].clone().requires_grad_()
            value = sum(loss(part, labels[here]).values()) * compute_process_share(len(part), part.device)
            gradients.append(torch.autograd.grad(value, part)[0] / len(sizes))
            values.append(value.detach() / len(sizes))
        outcome[name] = (torch.stack(values), gradients, loss.state_dict())
    return outcome


def without_chance(rank, sizes):
    """DropLoss's draws for part ``rank`` of a batch: its rows of one table for all parts, whoever draws them."""
    starts = [0, *accumulate(sizes)]

    def draws(rows, columns, device):
        table = torch.randint(-(2**15), 2**15, (starts[-1], columns), generator=torch.Generator().manual_seed(1))
        return table.to(torch.int16)[starts[rank()] : starts[rank()] + rows].to(device)

    return draws


if __name__ == "__main__":
    folder, this = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=this, world_size=2)
    found, parts = pickle.loads((folder / "problems.pkl").read_bytes())
    drop_loss.draw_uniform = without_chance(lambda: this, parts)
    torch.save(run(found, this, parts), folder / f"{this}.pt")
    dist.destroy_process_group()
    leave(0)
