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
"""Port on the first machine of a job, where its machines meet."""


@dataclass(frozen=True)
class Submit:
    """Submit a training to SLURM. Write the arguments of `tailseg train` after `--`.

    Every machine runs torchrun with one process for each GPU. A job that is preempted, runs out of time or loses a
    process saves its state, queues again and continues. All machines must see the folder of the run. The command needs
    submitit: pip install 'tailseg[slurm]'.

    examples:
      tailseg submit --nodes 2 --devices 4 --partition gpu -- gumbel_mask_rcnn_r50_random_1x
      tailseg submit --devices 8 --hours 48 -- custom_r50 --data.train my.json --run.out runs/mine
    """

    nodes: Annotated[int, Range(ge=1)] = 1
    """Number of machines."""
    devices: Annotated[int, Range(ge=1)] = 8
    """GPUs of each machine; each has one process."""
    cpus: Annotated[int, Range(ge=1)] = 6
    """CPU cores for each process and its data loaders."""
    hours: Annotated[float, Range(gt=0)] = 24.0
    """Hours after which the job saves its state and queues again."""
    partition: str | None = None
    """Partition of SLURM; None uses the default of the cluster."""
    logs: Annotated[Path, Output("the job's output")] = Path("runs/slurm")
    """Folder for the output of the job."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local runs the job on this machine, for a try."""


@dataclass
class Training:
    """The work of one machine of a job: torchrun, which starts `tailseg train` in each process."""

    devices: int
    arguments: list[str]
    _torchrun: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        command = torchrun_command(self.devices, self.arguments, environment.hostnames, environment.job_id)
        self._torchrun = subprocess.Popen(command)  # noqa: S603 (our own command, no shell)
        if code := self._torchrun.wait():
            raise RuntimeError(f"the training ended with exit code {code}. The output above says why")

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Makes the processes save their state; submitit calls this when the job must end, and then queues it again."""
        import submitit

        if self._torchrun:
            self._torchrun.send_signal(signal.SIGTERM)
            # This runs in a signal handler, during the wait of __call__, which holds the lock that a second wait needs.
            with suppress(ChildProcessError):  # the process has ended already
                os.waitid(os.P_PID, self._torchrun.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Training(self.devices, self.arguments))


def torchrun_command(devices: int, arguments: Sequence[str], hosts: Sequence[str], job: str) -> list[str]:
    """Builds the command that starts torchrun on one machine of a job.

    Args:
        devices: processes on this machine.
        arguments: the arguments of ``tailseg train``.
        hosts: the machines of the job. They meet on the first one.
        job: the id of the job.

    Returns:
        The words of the command.
    """
    meeting = ["--standalone"]
    if len(hosts) > 1:
        endpoint = f"{hosts[0]}:{PORT}"
        meeting = ["--nnodes", str(len(hosts)), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", job]
    # restarts must not share the store, see docs/reliability.md
    start = ["env", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1", sys.executable, "-m", "torch.distributed.run", *meeting]
    processes = ["--nproc-per-node", str(devices), "--max-restarts", "3"]
    return [*start, *processes, "-m", "tailseg", "train", *arguments, "--resume"]


def run(arguments: Sequence[str]) -> None:
    """Submits the training and prints where its output is."""
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parse(Submit, arguments[:split], command="submit")
    training = list(arguments[split + 1 :])
    if not training:
        raise UsageError("name the recipe after --: tailseg submit --nodes 2 -- tiny_gumbel")
    check(options, {options.logs: None}, instead="name another folder (--logs)")
    job = submit(options, training)
    output().print(f"job {job.job_id} ({' '.join(training)}); the output is in {job.paths.stderr}", markup=False)


def submit(options: Submit, training: Sequence[str]) -> "submitit.Job[None]":
    """Queues the job.

    Args:
        options: the options of the command.
        training: the arguments of ``tailseg train``.

    Returns:
        The queued job.

    Raises:
        ValueError: submitit is not installed, or the options of the training are wrong.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("tailseg submit needs submitit: pip install 'tailseg[slurm]'") from None
    from tailseg.cli.train import check_run, train_options

    check_run(
        train_options(training[0], training[1:])
    )  # the user reads errors now, and not hours later in the output of the job
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
