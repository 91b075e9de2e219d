"""The claim of the paper on photographs: losses fitted on the lab's features of a network, several seeds, paired.

    uv run python benchmarks/lab_photographs.py trashcan runs/study/trashcan/gol/0
    uv run python benchmarks/lab_photographs.py coco_tail runs/study/coco_tail/gol/0/{0..4}

Each run is a network that was trained on photographs, such as those of benchmarks/study.py. Several runs are the folds
of a data set: each loss is fitted on the features of every fold, and the detections of all folds are scored together.
A loss is compared with the first one named: same seeds, same batches, same images. APfew is the AP of the classes with
at most ``--few`` training images that the validation images hold. The table is written to benchmarks/results.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from measure import table, write
from study import FEW_IMAGES

from tailseg.annotations.read import read_dataset
from tailseg.annotations.types import Group
from tailseg.detection.recalibration import Setting
from tailseg.evaluation.results import Results
from tailseg.evaluation.sources import read_truth
from tailseg.lab import LabSettings
from tailseg.lab.lab import open_bench
from tailseg.lab.ranking import Entry, Gain, rank
from tailseg.lab.trials import Bench, Candidate, Outcome, Trial

COLUMNS = {"AP": "AP", "APfew": "APr", "AP of the others": "APf"}
"""The columns of the table, and the groups of the lab that stand for them."""


@dataclass(frozen=True)
class Options:
    """What to compare."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of the data, for the table."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folder of the trained network, or of that of each fold."""
    losses: tuple[str, ...] = ("sigmoid", "softmax", "gumbel", "gol", "ecm")
    """Names of `LOSSES`."""
    seeds: int = 3
    few: int = FEW_IMAGES
    out: Path = Path("runs/lab_photographs")
    """Folder of the features."""


def main(options: Options) -> None:
    settings = LabSettings(workers=1)
    folders = [options.out / options.name / str(i) for i in range(len(options.runs))]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    benches = [open_bench(run, folder, settings, say=print) for run, folder in zip(options.runs, folders, strict=True)]
    judge = join_truths(benches, options)
    began = time.process_time()
    outcomes = []
    for seed in range(options.seeds):
        for loss in options.losses:
            trial = Trial(Candidate(loss), seed)
            results = join_results([bench.detect(trial)[0] for bench in benches])
            outcomes.append(Outcome(trial.candidate, seed, Setting(), *judge.measure(results)))
            print(f"{loss} {seed}: {100 * outcomes[-1].figures['AP']:.2f} AP, {time.process_time() - began:.0f} s")
    text = describe(outcomes, benches, options)
    title = f"Losses on the lab's features of {options.name}"
    write("lab_photographs", title, text, threads=torch.get_num_threads(), file=f"lab-{options.name}")


def join_truths(benches: list[Bench], options: Options) -> Bench:
    """Returns the first bench; it scores the validation images of all, in the groups of `COLUMNS`."""
    first = benches[0]
    files = [json.loads(bench.val.path.read_text()) for bench in benches]
    merged = {
        "images": [image for file in files for image in file["images"]],
        "annotations": [one for file in files for one in file["annotations"]],
        "categories": files[0]["categories"],
    }
    path = options.out / options.name / "val.json"
    path.write_text(json.dumps(merged))
    counts = np.mean([bench.frequency.image_counts.numpy() for bench in benches], axis=0)
    groups: dict[int, Group] = {
        category.id: "r" if count <= options.few else "f"
        for category, count in zip(first.train.categories, counts, strict=True)
        if count
    }
    first.truth = read_truth(read_dataset(path), masks=False, groups=groups)
    return first


def join_results(parts: list[Results]) -> Results:
    """Joins the detections of several folds."""
    return Results(
        image_ids=np.concatenate([part.image_ids for part in parts]),
        category_ids=np.concatenate([part.category_ids for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts if part.boxes is not None]),
        scores=np.concatenate([part.scores for part in parts]),
        mask_areas=None,
        runs=None,
        source="the fits",
    )


def describe(outcomes: list[Outcome], benches: list[Bench], options: Options) -> str:
    """Makes the text of the results file."""
    baseline = Candidate(options.losses[0])
    entries = rank(outcomes, baseline, "AP")
    truth = benches[0].truth
    held = set(np.unique(truth.objects.classes[~truth.objects.crowds]).tolist())
    few = [place for place, group in enumerate(truth.groups.get(each) for each in truth.categories) if group == "r"]
    text = (
        f"Networks: {', '.join(str(run) for run in options.runs)}. {benches[0].steps} steps a fit, "
        f"{options.seeds} seeds, {len(truth.sizes)} validation images; {len(held & set(few))} of their {len(held)} "
        f"classes have at most {options.few} training images (APfew). AP of boxes, percent, mean over the seeds. The "
        "interval is paired: same seeds, batches and images (docs/how-to/lab.md).\n\n"
    )
    text += table(["loss", *COLUMNS], [[entry.name, *show_figures(entry)] for entry in entries]) + "\n\n"
    others = [entry for entry in entries if entry.gains]
    return text + table([f"minus {baseline}", *COLUMNS], [[entry.name, *show_gains(entry)] for entry in others])


def show_figures(entry: Entry) -> list[str]:
    return [f"{100 * entry.figures[name]:.2f}" for name in COLUMNS.values()]


def show_gains(entry: Entry) -> list[str]:
    return [show_gain(entry.gains[name]) for name in COLUMNS.values()]


def show_gain(gain: Gain) -> str:
    return f"{100 * gain.mean:+.2f} ({100 * gain.low:.2f} .. {100 * gain.high:.2f})"


if __name__ == "__main__":
    main(tyro.cli(Options))
