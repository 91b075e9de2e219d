"""The trainings behind the claims on rare classes: the plan, the state of each training, and the tables.

    uv run python benchmarks/study.py add tiny gol --recipe tiny_gol --why "the loss alone"
    uv run python benchmarks/study.py run --parallel 2
    uv run python benchmarks/study.py report

One file, benchmarks/results/study/plan.json, has every training: what it trains and why, its state, command, commit and
seconds, and its figures as soon as it ends. ``run`` takes the trainings in the order of their priority, each in one
thread. A stopped training is resumed: stop with Ctrl-C, or create the file runs/study/stop, and no new one begins.
A training ends at 30 minutes of CPU time (``--minutes``), and photographs are trained on 60 times at most.

Data sets are ``tiny_tail`` with its presets, and two sets of photographs in ``--shared``, which are not part of the
project: ``trashcan``, and ``coco_tail:0`` to ``coco_tail:4``, five folds of coco_tail. Each fold is tested on a fifth
of the images, and the detections of the five folds are scored together (``pooled`` in the file).
"""

import fcntl
import json
import os
import platform
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import tyro
from seeds import COLUMNS, format_difference, format_mean, read_figures

from tailseg.evaluation import compare, evaluate

Record = dict[str, Any]

ROOT = Path(__file__).parents[1]
PHOTOGRAPHS = ("trashcan", "coco_tail")
MAX_PHOTOGRAPH_TRAININGS = 60
FOLDS = 5
FEW_IMAGES = 60
"""APfew is the mean AP of the classes with at most this many training images."""
STATES = ("planned", "running", "stopped", "done", "failed", "out of time")


@dataclass(frozen=True)
class Files:
    """Where things are."""

    plan: Path = ROOT / "benchmarks/results/study/plan.json"
    """The plan, the states and the figures."""
    runs: Path = Path("runs/study")
    """Folder of the runs and of the folds."""
    shared: Path = Path("../shared/data")
    """Folder of the photographs."""


# ---- the plan


@contextmanager
def open_plan(files: Files, *, write: bool = True) -> Iterator[list[Record]]:
    """Reads the trainings, and writes them back if ``write``; one process at a time."""
    files.plan.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(files.plan.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        content = json.loads(files.plan.read_text()) if files.plan.exists() else {"trainings": []}
        yield content["trainings"]
        if write:
            temporary = files.plan.with_suffix(".tmp")
            lines = ",\n".join(json.dumps(record) for record in content["trainings"])
            temporary.write_text(f'{{"trainings": [\n{lines}\n]}}\n')
            temporary.rename(files.plan)
    finally:
        os.close(folder)


@dataclass(frozen=True)
class Add(Files):
    """Plan the trainings of a variant, one for each seed (and fold)."""

    study: Annotated[str, tyro.conf.Positional] = ""
    """Name of the table, such as tiny."""
    variant: Annotated[str, tyro.conf.Positional] = ""
    """Name of the row, such as paste."""
    recipe: str = "tiny_gol"
    """A recipe of tailseg or, as study_recipes:NAME, of study_recipes.py."""
    data: str = "tiny_tail"
    """tiny_tail with its presets, trashcan, or coco_tail (which plans five folds)."""
    options: str = ""
    """More options of ``tailseg train``: --options="--data.flip=0 --optim.epochs=2"."""
    seeds: tuple[int, ...] = (0, 1, 2)
    priority: int = 5
    """The trainings with the lowest number are first."""
    calibrate: bool = False
    """Also choose a calibration on one half of the validation images, and measure it on the other half."""
    why: str = ""
    """What the training should show."""


def add(options: Add) -> None:
    """Adds the trainings that the plan does not have yet."""
    folds = [f"coco_tail:{fold}" for fold in range(FOLDS)] if options.data == "coco_tail" else [options.data]
    with open_plan(options) as trainings:
        names = {record["name"] for record in trainings}
        for seed in options.seeds:
            for data in folds:
                fold = data.removeprefix("coco_tail:") if len(folds) > 1 else ""
                name = "/".join(filter(None, [options.study, options.variant, str(seed), fold]))
                if name not in names:
                    trainings.append(
                        {
                            "name": name,
                            "study": options.study,
                            "variant": options.variant,
                            "seed": seed,
                            "data": data,
                            "recipe": options.recipe,
                            "options": shlex.split(options.options),
                            "calibrate": options.calibrate,
                            "priority": options.priority,
                            "why": options.why,
                            "state": "planned",
                        }
                    )


def is_photographs(record: Record) -> bool:
    """Whether the training counts towards the budget of trainings on photographs."""
    return record["data"].split(":")[0] in PHOTOGRAPHS


# ---- data


def find_data(files: Files, data: str) -> tuple[str, str, list[str]]:
    """Finds the annotation files of a data set; makes the folds of coco_tail.

    Args:
        files: where things are.
        data: the name of the data set.

    Returns:
        The training and the validation file (or the name of the drawn set), and options of ``tailseg train``.
    """
    name, _, fold = data.partition(":")
    if name == "tiny_tail":
        return data, data, []
    folder = files.shared / name
    if not fold:
        return str(folder / "train.json"), str(folder / "val.json"), []
    paths = make_folds(files, folder)
    images = str(folder / "images")
    train, val = paths[int(fold)]
    return str(train), str(val), [f"--data.train-images={images}", f"--data.val-images={images}"]


def make_folds(files: Files, folder: Path) -> list[tuple[Path, Path]]:
    """Splits all images of a data set into `FOLDS` parts; each part is the validation set of a fold.

    Image i of the sorted ids is in part i mod `FOLDS`, so that the folds are always the same.

    Args:
        files: where things are.
        folder: the folder of the data set, with train.json and val.json that share their categories.

    Returns:
        The training and the validation file of each fold. The file of all images is next to them (`all_images`).
    """
    parts = [json.loads((folder / f"{split}.json").read_text()) for split in ("train", "val")]
    images = sorted((image for part in parts for image in part["images"]), key=lambda image: image["id"])
    annotations = [annotation for part in parts for annotation in part["annotations"]]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    out = files.runs / "folds" / folder.name
    out.mkdir(parents=True, exist_ok=True)
    fold_numbers = {image["id"]: i % FOLDS for i, image in enumerate(images)}

    def write(path: Path, folds: set[int]) -> Path:
        content = {
            "images": [image for image in images if fold_numbers[image["id"]] in folds],
            "annotations": [one for one in annotations if fold_numbers[one["image_id"]] in folds],
            "categories": parts[0]["categories"],
        }
        text = json.dumps(content)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path

    every = set(range(FOLDS))
    write(all_images(files, folder.name), every)
    return [
        (write(out / f"train_{fold}.json", every - {fold}), write(out / f"val_{fold}.json", {fold}))
        for fold in range(FOLDS)
    ]


def all_images(files: Files, name: str) -> Path:
    """Returns the path of the annotation file with the images of all folds."""
    return files.runs / "folds" / name / "all.json"


# ---- running


@dataclass(frozen=True)
class Run(Files):
    """Run the planned trainings, those with the lowest priority number first."""

    only: tuple[str, ...] = ()
    """Only trainings whose name begins with one of these, such as tiny/paste."""
    parallel: int = 1
    """Trainings at a time, each in one thread."""
    minutes: float = 30
    """CPU time of a training after which it is ended."""
    retry: bool = False
    """Also run trainings that failed."""


class Runner:
    """Runs trainings in processes of their own until none is left or a stop is asked for."""

    def __init__(self, options: Run) -> None:
        self.options = options
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.is_stopping = False

    def stop(self, *_: object) -> None:
        """Asks each training to save its state and end."""
        self.is_stopping = True
        for process in self.processes:
            process.send_signal(signal.SIGINT)

    def run(self) -> None:
        """Runs all trainings."""
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self.stop)
        with ThreadPoolExecutor(self.options.parallel) as pool:
            for worker in [pool.submit(self._work) for _ in range(self.options.parallel)]:
                worker.result()

    def _work(self) -> None:
        while not self.is_stopping and not (self.options.runs / "stop").exists():
            with open_plan(self.options) as trainings:
                taken = self._take(trainings)
            if taken is None:
                return
            record, lock = taken
            try:
                changes = self._train(record, lock.fileno())
            except Exception as error:  # noqa: BLE001 - the state says what happened; the other trainings go on
                changes = {"state": "failed", "note": f"{type(error).__name__}: {error}"}
            with open_plan(self.options) as trainings:
                record = next(one for one in trainings if one["name"] == record["name"])
                record.update(changes)
                pool_folds(self.options, trainings, record)
            lock.close()
            print(time.strftime("%H:%M:%S"), record["name"], record["state"], record.get("figures", ""), flush=True)

    def _take(self, trainings: list[Record]) -> tuple[Record, Any] | None:
        """Takes the next training that nothing else runs, and says so in the plan."""
        wanted = {"planned", "running", "stopped"} | ({"failed"} if self.options.retry else set())
        begun = sum(is_photographs(record) and record["state"] != "planned" for record in trainings)
        for record in sorted(trainings, key=lambda record: record["priority"]):
            if record["state"] not in wanted or not record["name"].startswith(self.options.only or ""):
                continue
            if is_photographs(record) and record["state"] == "planned" and begun >= MAX_PHOTOGRAPH_TRAININGS:
                continue
            folder = self.options.runs / record["name"]
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_suffix(".lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process trains it
                lock.close()
                continue
            record["state"] = "running"
            return record, lock
        return None

    def _train(self, record: Record, lock: int) -> Record:
        """Trains one model. The training holds the lock, too, so that it stays taken if this process is killed."""
        options, folder = self.options, self.options.runs / record["name"]
        train, val, extra = find_data(options, record["data"])
        command = ["tailseg", "train", record["recipe"], f"--data.train={train}", f"--data.val={val}", *extra]
        command += [f"--run.out={folder}", f"--run.seed={record['seed']}", "--data.workers=0", "--no-report"]
        command += record["options"]
        changes = {"command": shlex.join(command), "commit": read_commit(), "machine": platform.machine()}
        if (folder / "recipe.json").exists():
            command.append("--resume")
        begun = time.time()
        with folder.with_suffix(".log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "benchmarks")},
            )
            self.processes.add(process)
            spent = record.get("cpu_seconds", 0)
            limit = max(1, int(60 * options.minutes - spent))
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, limit + 30))
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.processes.discard(process)
        changes["seconds"] = round(record.get("seconds", 0) + time.time() - begun)
        changes["cpu_seconds"] = round(spent + usage.ru_utime + usage.ru_stime)
        if process.returncode == -signal.SIGXCPU:
            return {**changes, "state": "out of time"}
        if process.returncode == 130 or self.is_stopping:
            return {**changes, "state": "stopped"}
        if process.returncode:
            last = folder.with_suffix(".log").read_text().strip().splitlines()[-1:]
            return {**changes, "state": "failed", "note": f"exit code {process.returncode}: {' '.join(last)}"}
        return {**changes, **collect(options, record, folder)}


def collect(files: Files, record: Record, folder: Path) -> Record:
    """Reads the figures of a finished run."""
    changes: Record = {"state": "done", "figures": round_figures(read_figures(folder))}
    if record["data"] == "trashcan":
        changes["figures"] |= round_figures(score_few(files.shared / "trashcan/train.json", folder))
    if record["calibrate"]:
        changes["calibrated"] = calibrate_run(folder)
    return changes


def round_figures(figures: dict[str, float]) -> dict[str, float]:
    """Rounds percentages to two digits."""
    return {name: round(value, 2) for name, value in figures.items()}


def score_few(train: Path, folder: Path) -> dict[str, float]:
    """Computes the mean AP of the classes with 1 to `FEW_IMAGES` training images that the validation set has."""
    pairs = {(one["category_id"], one["image_id"]) for one in json.loads(train.read_text())["annotations"]}
    counts = Counter(category for category, _ in pairs)
    per_class = json.loads((folder / "metrics.json").read_text())["per_class"]
    figures = {}
    for column, kind in (("APfew", "segm"), ("APbfew", "bbox")):
        values = [
            one["AP"]
            for one in per_class.get(kind, [])
            if one["AP"] is not None and 0 < counts[one["category_id"]] <= FEW_IMAGES
        ]
        if values:
            figures[column] = 100 * mean(values)
    return figures


def calibrate_run(folder: Path) -> Record:
    """Chooses a calibration on one half of the validation images; returns it and the figures on the other half."""
    from tailseg.inference import calibrate

    tested = calibrate(folder).tested
    before, after = (
        {name: 100 * analysis.metrics["segm"][name] for name in ("AP", "APr", "APc", "APf")}
        for analysis in (tested[0][1], tested[-1][1])
    )
    return {
        "setting": str(tested[-1][0].setting),
        "before": round_figures(before),
        "after": round_figures(after),
    }


def pool_folds(files: Files, trainings: list[Record], record: Record) -> None:
    """Scores the detections of all folds of a variant and a seed together and notes it in ``record``, the last fold.

    The groups come from the number of images of each class in all folds.
    """
    names = [f"{Path(record['name']).parent}/{fold}" for fold in range(FOLDS)]
    folders = [files.runs / name for name in names]
    done = {one["name"] for one in trainings if one["state"] == "done"}
    if not record["data"].startswith("coco_tail:") or not done.issuperset(names):
        return
    if not all((folder / "results.json").exists() for folder in folders):  # a fold was trained elsewhere
        return
    pooled = [one for folder in folders for one in json.loads((folder / "results.json").read_text())]
    path = folders[0].parent / "pooled.json"
    path.write_text(json.dumps(pooled))
    truth = all_images(files, "coco_tail")
    metrics = evaluate(truth, path, train=truth)
    figures = {
        column: 100 * value
        for column, (kind, name) in COLUMNS.items()
        if (value := metrics.scores.get(kind, {}).get(name)) is not None
    }
    record["pooled"] = round_figures(figures)


def read_commit() -> str:
    """Returns the commit of the code that trains."""
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


# ---- adopting a run, and the report


@dataclass(frozen=True)
class Adopt(Files):
    """Take the figures of a run that something else trained with the settings of a planned training."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """Name of the training."""
    folder: Annotated[Path, tyro.conf.Positional] = Path()
    """Folder of the finished run."""
    note: str = ""
    """Who trained it, and how."""
    commit: str = ""
    """The commit that trained it."""


def adopt(options: Adopt) -> None:
    """Marks the training as done, with the figures of the run."""
    with open_plan(options) as trainings:
        record = next(one for one in trainings if one["name"] == options.name)
        record |= collect(options, record, options.folder)
        record |= {"note": options.note, "commit": options.commit}


@dataclass(frozen=True)
class Report(Files):
    """Write the tables of all figures so far."""

    bases: tuple[str, ...] = ("gol", "softmax", "sigmoid", "seesaw")
    """The variants that the others are compared with, if a study has trained them; else its first one."""


def report(options: Report) -> None:
    """Writes report.md next to the plan."""
    with open_plan(options, write=False) as trainings:
        studies = {
            record["study"]: [one for one in trainings if one["study"] == record["study"]] for record in trainings
        }
        parts = [make_state_table(trainings)]
        for name, records in studies.items():
            parts += [f"## {name}", make_table(records, options.bases, options)]
    path = options.plan.with_name("report.md")
    path.write_text(
        "# The trainings of the study\n\n`uv run python benchmarks/study.py report`. Percent. Masks; APb and "
        "APbfew are of boxes. Mean ± standard deviation over seeds, and the paired difference from one variant "
        "with its 95 % interval (paired t) where there are two seeds or more.\n\n" + "\n\n".join(parts) + "\n"
    )
    print(path.read_text())


def make_state_table(trainings: list[Record]) -> str:
    """Counts the trainings by study and state."""
    counts = Counter((record["study"], record["state"]) for record in trainings)
    photographs = sum(is_photographs(record) and record["state"] != "planned" for record in trainings)
    lines = ["| Study | " + " | ".join(STATES) + " | CPU hours |", "|---|" + "---|" * (len(STATES) + 1)]
    for study in dict.fromkeys(record["study"] for record in trainings):
        hours = sum(record.get("cpu_seconds", 0) for record in trainings if record["study"] == study) / 3600
        lines.append(f"| {study} | " + " | ".join(str(counts[study, state]) for state in STATES) + f" | {hours:.1f} |")
    return "\n".join([*lines, "", f"Trainings on photographs so far: {photographs} of {MAX_PHOTOGRAPH_TRAININGS}."])


def make_table(records: list[Record], bases: tuple[str, ...], files: Files) -> str:
    """Makes the table of a study: one row for each variant, and the differences from each of the bases."""
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        values = record.get("pooled") if record["data"].startswith("coco_tail:") else record.get("figures")
        by_seed = figures.setdefault(record["variant"], {})
        if values:
            by_seed[record["seed"]] = values
    bases = tuple(name for name in bases if figures.get(name)) or (next(iter(figures)),)
    names = sorted(figures, key=lambda name: name != bases[0])
    columns = dict.fromkeys(column for by_seed in figures.values() for one in by_seed.values() for column in one)
    lines = ["| Variant | seeds | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for name in names:
        cells = [format_mean([one[column] for one in figures[name].values() if column in one]) for column in columns]
        lines.append(f"| {name} | {len(figures[name])} | " + " | ".join(cells) + " |")
    for base in bases:
        lines += ["", f"| minus {base} | seeds | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
        for name in (name for name in names if name != base):
            pairs = [(one, figures[base][seed]) for seed, one in figures[name].items() if seed in figures[base]]
            cells = [
                format_difference(
                    [one[column] - other[column] for one, other in pairs if column in one and column in other]
                )
                for column in columns
            ]
            lines.append(f"| {name} | {len(pairs)} | " + " | ".join(cells) + " |")
    reasons = {record["variant"]: record["why"] for record in records if record["why"]}
    lines += ["", *(f"- {name}: {why}" for name, why in reasons.items())]
    if any(record["data"].startswith("coco_tail:") for record in records):
        lines += compare_pooled(records, names, files)
    if any("calibrated" in record for record in records):
        lines += ["", *make_calibration_lines(records)]
    return "\n".join(lines)


def make_calibration_lines(records: list[Record]) -> list[str]:
    """Makes the table of the calibrations, measured on the half of the images that they were not chosen on."""
    lines = ["| Training | calibration | AP | APr | APc | APf |", "|---|---|" + "---|" * 4]
    for record in records:
        if "calibrated" in record:
            before, after = record["calibrated"]["before"], record["calibrated"]["after"]
            cells = [f"{before[column]:.1f} to {after[column]:.1f}" for column in ("AP", "APr", "APc", "APf")]
            lines.append(f"| {record['name']} | {record['calibrated']['setting']} | " + " | ".join(cells) + " |")
    return lines


def compare_pooled(records: list[Record], names: list[str], files: Files) -> list[str]:
    """Compares pooled detections by a paired bootstrap over the images, where the runs are on this machine."""
    lines = []
    study, truth = records[0]["study"], all_images(files, "coco_tail")
    seeds = sorted({record["seed"] for record in records})
    for name in names[1:]:
        for seed in seeds:
            first, second = (files.runs / study / one / str(seed) / "pooled.json" for one in (names[0], name))
            if first.exists() and second.exists():
                changes = ", ".join(
                    f"{column} {100 * figure.difference:+.1f} ({100 * figure.low:.1f} .. {100 * figure.high:.1f})"
                    for column, figure in compare(truth, first, second, train=truth)["segm"].figures.items()
                    if figure.difference is not None and figure.low is not None and figure.high is not None
                )
                lines += [
                    "",
                    f"{name} minus {names[0]}, seed {seed}, bootstrap over the images of all folds: {changes}",
                ]
    return lines


def main(command: Add | Run | Adopt | Report) -> None:
    """Does what the command says."""
    if isinstance(command, Run):
        Runner(command).run()
    elif isinstance(command, Add):
        add(command)
    elif isinstance(command, Adopt):
        adopt(command)
    else:
        report(command)


if __name__ == "__main__":
    main(tyro.cli(Add | Run | Adopt | Report))  # ty: ignore[no-matching-overload]
