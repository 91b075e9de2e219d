"""One of two processes that train losses on half of every batch: ``two_processes.py FOLDER RANK``.

Reads ``problems.pkl``, writes ``RANK.pt``: by name, the loss of every step and the state afterwards.
"""

import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tailseg.training.distributed import leave


def run(problems, rank, world_size):
    """Values of every step and the state afterwards, for part ``rank`` of every batch."""
    outcome = {}
    for name, (config, frequency, batches) in problems.items():
        loss = config.build(frequency)
        values = [
            sum(loss(logits.chunk(world_size)[rank], labels.chunk(world_size)[rank]).values())
            for logits, labels in batches
        ]
        outcome[name] = (torch.stack(values), loss.state_dict())
    return outcome


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(run(pickle.loads((folder / "problems.pkl").read_bytes()), rank, 2), folder / f"{rank}.pt")
    dist.destroy_process_group()
    leave(0)
