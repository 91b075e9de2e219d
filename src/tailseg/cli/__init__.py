"""The command line: `tailseg COMMAND ...`, one file for each command.

A command is imported when the user calls it. So help appears at once, without torch and without the model code.
Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import importlib
import os
import select
import sys
from collections.abc import Sequence

from tailseg.lazy import MissingPartError

COMMANDS = {
    "demo": "train a small Mask R-CNN on a long-tailed data set, and look at it: 5 minutes on two cores",
    "train": "train a recipe, or train on your own COCO- or LVIS-format file",
    "resume": "continue a run after an interruption, or train it for more epochs",
    "submit": "submit a training to a SLURM cluster (needs submitit)",
    "test": "evaluate a run on its validation set: AP, and AP of rare, common, frequent classes",
    "predict": "detect objects in images: a results file and pictures",
    "merge": "merge the parts of predict --part into the results of one call",
    "eval": "score a results file of any framework: AP by group, AP-fixed, errors, calibration",
    "compare": "is a run better than another, or was it chance? intervals by a paired bootstrap",
    "lab": "which loss, sampling and calibration suit your data? fits of each on one network's features",
    "calibrate": "raise the scores of rare classes of a run, without training",
    "thresholds": "find a score threshold for each class; predict and serve then use it",
    "report": "write one HTML page about runs, or about results of any framework: every class, with pictures",
    "serve": "show the report in a browser, and detect objects in images that you drop on a page",
    "convert": "convert checkpoints from mmdetection, detectron2 and torchvision, and to them",
    "export": "write a run as an ONNX or OpenVINO file with everything inside, and compare it with torch",
    "push": "publish a run on the Hugging Face Hub or in a folder: weights, recipe, classes, model card",
    "pull": "fetch a run that push published",
    "data": "show and check a data set: counts, frequency groups, sizes, examples",
    "recipes": "list the recipes",
}

_HELP = """\
usage: tailseg COMMAND [-h] [OPTIONS]

Long-tailed instance segmentation, around the Gumbel Optimised Loss.

commands:
{commands}

examples:
  tailseg demo                                       see it work
  tailseg data show my.json                          how long is the tail of my data?
  tailseg train my.json                              train on my data (a tenth of the images is held out)
  tailseg train my.json --loss gol --groups 5 30     with another loss, and other bounds of rare and common
  tailseg train tiny_gumbel --optim.lr 0.02          train a recipe, with one setting changed
  tailseg resume runs/tiny_gumbel                    continue after an interruption
  tailseg test runs/tiny_gumbel                      AP, APr, APc, APf
  tailseg predict runs/tiny_gumbel photo.jpg folder  results.json and pictures
  tailseg eval lvis_v1_val.json results.json         what is the AP of the rare classes?
  tailseg compare runs/tiny_sigmoid runs/tiny_gumbel is the difference larger than chance?
  tailseg lab my.json                                which loss suits my data?
  tailseg report runs/tiny_gumbel                    detections and misses of every class, in a browser
  tailseg report my.json predictions.json            the same for results of any framework
  tailseg serve runs/tiny_gumbel                     drop images on a page, see the detections
  tailseg convert published.pth runs/published --recipe NAME --classes lvis_v1_train.json
  tailseg export runs/custom_small                   an ONNX file, and a runner without torch
  tailseg push runs/custom_small me/my_model         publish weights, recipe and classes

`tailseg COMMAND --help` explains a command. --debug (or TAILSEG_DEBUG=1) shows the stack trace of an error.
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 1 if the reader of the output is gone, as behind ``| head``."""
    try:
        code = _main(arguments)
        sys.stdout.flush()
    except MissingPartError as error:  # the command line's own packages: without them the console is not there either
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # otherwise the rest of the output would fail again when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _nobody_reads() -> bool:
    """Whether the other end of standard output is closed."""
    try:
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
        return bool(waiting.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows has no poll, and a replaced stream has no file number
        return False


def _main(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("TAILSEG_DEBUG", "") not in ("", "0")
    given = [argument for argument in given if argument != "--debug"]
    if not given or given[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(_HELP.format(commands="\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())))
        return 0 if given else 2
    if given[0] == "--version":
        print(_describe_versions())
        return 0
    if given[0] not in COMMANDS:
        from tailseg.cli.common import print_error, suggestion

        print_error(f"no command {given[0]!r}{suggestion(given[0], COMMANDS)}. `tailseg --help` lists the commands")
        return 2
    code = _run(given[0], given[1:], debug=debug)
    if "WORLD_SIZE" in os.environ:
        from tailseg.training.distributed import is_under_torchrun, leave

        if is_under_torchrun():
            leave(code)
    return code


def _describe_versions() -> str:
    """The versions that a report of a bug needs, read from the metadata, because importing torch is slow."""
    import platform
    from importlib.metadata import version

    from tailseg import __version__

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
    return f"tailseg {__version__}\nPython {platform.python_version()}, {packages}, {platform.platform()}"


def _run(command: str, arguments: list[str], *, debug: bool) -> int:
    from tailseg.cli.common import UsageError, print_error

    try:
        importlib.import_module(f"tailseg.cli.{command}").run(arguments)
    except SystemExit as stop:  # tyro ends help with 0, wrong usage with 2
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as stop:
        print_error(str(stop) or "interrupted")
        return 130
    except UsageError as error:
        print_error(str(error))
        return 2
    except Exception as error:
        if debug or (isinstance(error, BrokenPipeError) and _nobody_reads()):
            raise
        from tailseg.cli.common import explain

        print_error(explain(error))
        return 1
    return 0
