"""One of two processes that evaluate together: ``loop_processes.py FOLDER RANK``; writes ``FOLDER/RANK.json``.

The second gets an image of the first and its own last one again, as samplers fill up a batch. A call that fails on the
main process fails on both.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))

import loop_data

from tailseg.evaluation import Evaluator


def main(folder: Path, rank: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", world_size=2, rank=rank)
    outputs = loop_data.draw()[1]
    own = [*outputs][rank::2]
    own += [next(iter(outputs)), own[-1]] if rank else []
    evaluator = Evaluator(folder / "truth.json", labels="from_1")
    for start in range(0, len(own), 4):
        ids = own[start : start + 4]
        evaluator.update([outputs[key] for key in ids], image_ids=ids)
    metrics = evaluator.compute()
    evaluator.reset()
    try:
        evaluator.compute()
    except ValueError as error:
        message = str(error)
    (folder / f"{rank}.json").write_text(json.dumps({"metrics": metrics.to_dict(), "message": message}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
