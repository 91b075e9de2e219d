"""`tailseg submit`: training on a SLURM cluster."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tailseg.cli.common import UsageError, output, parse
from tailseg.cli.outputs import check
from tailseg.files import Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    import submitit

PORT = 29400
"""Where the machines of a job meet on the first of them."""


@dataclass(frozen=True)
class Submit:
    """Hand a training to SLURM. What follows `--` is what `tailseg train` would get.

    Every machine runs torchrun, with one process a GPU. A job that is preempted or out of time saves, queues again and
    goes on; so does one that lost a process. The run's folder must be one that all machines see. Needs submitit:
    pip install 'tailseg[slurm]'.

    examples:
      tailseg submit --nodes 2 --devices 4 --partition gpu -- gumbel_mask_rcnn_r50_random_1x
      tailseg submit --devices 8 --hours 48 -- custom_r50 --data.train my.json --run.out runs/mine
    """

    nodes: Annotated[int, Range(ge=1)] = 1
    """Machines."""
    devices: Annotated[int, Range(ge=1)] = 8
    """GPUs, and processes, of each machine."""
    cpus: Annotated[int, Range(ge=1)] = 6
    """CPU cores for each process and its loaders."""
    hours: Annotated[float, Range(gt=0)] = 24.0
    """Time after which the job saves and queues again."""
    partition: str | None = None
    """SLURM's partition; None takes the cluster's default."""
    logs: Annotated[Path, Output("the job's output")] = Path("runs/slurm")
    """Folder of the job's output."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local runs the job on this machine, to try it out."""


@dataclass
class Training:
    """What one machine of the job does: torchrun, which starts `tailseg train` in its processes."""

    devices: int
    arguments: list[str]
    _torchrun: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        command = torchrun_command(self.devices, self.arguments, environment.hostnames, environment.job_id)
        self._torchrun = subprocess.Popen(command)  # noqa: S603 (our own command, no shell)
        if code := self._torchrun.wait():
            raise RuntimeError(f"the training ended with exit code {code}; its reason stands in the output above")

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Called by submitit when the job is to end: the processes save, and the job queues again."""
        import submitit

        if self._torchrun:
            self._torchrun.send_signal(signal.SIGTERM)
            # This runs in a signal's handler, above __call__'s wait, which holds the lock that another one would take.
            with suppress(ChildProcessError):  # it has ended, and was waited for
                os.waitid(os.P_PID, self._torchrun.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Training(self.devices, self.arguments))


def torchrun_command(devices: int, arguments: Sequence[str], hosts: Sequence[str], job: str) -> list[str]:
    """torchrun on one of the machines ``hosts``, which meet on the first one."""
    meeting = ["--standalone"]
    if len(hosts) > 1:
        endpoint = f"{hosts[0]}:{PORT}"
        meeting = ["--nnodes", str(len(hosts)), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", job]
    # see docs/reliability.md for the store, which restarts must not share
    start = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", sys.executable, "-m", "torch.distributed.run", *meeting]
    processes = ["--nproc-per-node", str(devices), "--max-restarts", "3"]
    return [*start, *processes, "-m", "tailseg", "train", *arguments, "--resume"]


def run(arguments: Sequence[str]) -> None:
    """Submit the training; say where its output is."""
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parse(Submit, arguments[:split], command="submit")
    training = list(arguments[split + 1 :])
    if not training:
        raise UsageError("what to train stands behind --: tailseg submit --nodes 2 -- tiny_gumbel")
    check(options, {options.logs: None}, instead="name another folder (--logs)")
    job = submit(options, training)
    output().print(f"job {job.job_id} ({' '.join(training)}); its output: {job.paths.stderr}", markup=False)


def submit(options: Submit, training: Sequence[str]) -> "submitit.Job[None]":
    """The job, queued.

    Raises:
        ValueError: submitit is not installed, or the training's options are wrong.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("tailseg submit needs submitit: pip install 'tailseg[slurm]'") from None
    from tailseg.cli.train import check_run, train_options

    check_run(train_options(training[0], training[1:]))  # wrong usage is told here, not hours later in a job's output
    executor = submitit.AutoExecutor(folder=options.logs, cluster=options.cluster)
    executor.update_parameters(
        name=f"tailseg {training[0]}",
        nodes=options.nodes,
        tasks_per_node=1,
        gpus_per_node=options.devices if options.cluster == "slurm" else 0,
        cpus_per_task=options.devices * options.cpus,
        timeout_min=round(options.hours * 60),
        slurm_partition=options.partition,
        slurm_signal_delay_s=120,
    )
    return executor.submit(Training(options.devices, list(training)))
