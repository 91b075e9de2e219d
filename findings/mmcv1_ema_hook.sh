#!/usr/bin/env bash
# The EMAHook of mmcv 1 stores all weights twice. Which of the two is the average depends on the hook's priority, and
# the file does not say it.
#
# Versions: Python 3.11, mmcv 1.7.2 (without compiled operators), torch 2.8.0, torchvision 0.23.0, numpy 1.26.4.
#
# Guess before the run: the weights under the network's names are the average, as with mmengine, so that a file tests as
# the log of the training says.
#
# Behavior: the copy of box_head.weight is named ema_box_head_weight. After each epoch the hook exchanges the two. The
# evaluation comes after that, with the average. The checkpoint is written
# - before the exchange, if the hook has mmcv's own priority (NORMAL): the network's names hold the last weights, and
#   the average is under ema_;
# - after it with ABOVE_NORMAL: the network's names hold the average.
# Loading by the network's names (load_checkpoint) ignores the copies.
#
# Who meets it: whoever tests, converts or publishes a checkpoint of mmdetection 2 that was trained with the hook as it
# is: the model is another one than that of the log.
#
# Output seen on 2026-11-30: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.8.0 torchvision==0.23.0 numpy==1.26.4 \
    setuptools==80.9.0 wheel==0.45.1
MMCV_WITH_OPS=0 venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation mmcv==1.7.2

cat > try.py <<'PYTHON'
import logging
import tempfile
import warnings

warnings.filterwarnings("ignore")
import torch
from mmcv.runner import EpochBasedRunner, Hook
from torch import nn

logger = logging.getLogger("quiet")
logger.setLevel(logging.CRITICAL)


class Network(nn.Module):
    """One weight, which begins at 0 and loses 1 in each step."""

    def __init__(self):
        super().__init__()
        self.box_head = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.box_head.weight)

    def train_step(self, batch, optimizer):
        return {"loss": self.box_head(batch).sum(), "log_vars": {}, "num_samples": 1}


class Evaluation(Hook):
    """At the place of mmdetection's evaluation: after the epoch, with low priority."""

    def after_train_epoch(self, runner):
        print(f"  evaluated: {runner.model.box_head.weight.item()}")


def train(priority):
    print(priority or "mmcv's own priority")
    network = Network()
    hook = {"type": "EMAHook", "momentum": 0.5, "warm_up": 1}
    with tempfile.TemporaryDirectory() as folder:
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        runner = EpochBasedRunner(network, optimizer=optimizer, work_dir=folder, logger=logger, max_epochs=1)
        runner.register_training_hooks(
            lr_config={"policy": "fixed"},
            optimizer_config={"grad_clip": None},
            checkpoint_config={"interval": 1},
            log_config=None,
            custom_hooks_config=[hook | ({"priority": priority} if priority else {})],
        )
        runner.register_hook(Evaluation(), priority="LOW")
        runner.run([[torch.ones(1, 1)] * 4], [("train", 1)])
        state = torch.load(f"{folder}/epoch_1.pth", weights_only=False)["state_dict"]
    for name in sorted(state, reverse=True):
        print(f"  {name}: {state[name].item()}")


train(None)
train("ABOVE_NORMAL")
PYTHON
cat > expected <<'TEXT'
mmcv's own priority
  evaluated: -3.0625
  ema_box_head_weight: -3.0625
  box_head.weight: -4.0
ABOVE_NORMAL
  evaluated: -3.0625
  ema_box_head_weight: -4.0
  box_head.weight: -3.0625
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-30, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-30."
