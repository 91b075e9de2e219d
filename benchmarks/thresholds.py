"""What are score thresholds by class worth? F1 on unseen images, against one threshold, over folds and seeds.

    uv run python benchmarks/thresholds.py val.json results.json --train train.json --name tiny_tail
    uv run python benchmarks/thresholds.py ../shared/data/coco_tail/val.json \\
        ../shared/cases/wild/centernet_mbv3_coco_tail_val_results.json \\
        --train ../shared/data/coco_tail/train.json --name coco_tail

Each part of the images is judged with thresholds found on all others, as in `tailseg thresholds`. Five ways to choose
them are compared: 0.3; one threshold with the best micro F1; one with the best macro F1; for each class the threshold
with the best F1 on its own objects; and those of `tailseg.evaluation.thresholds`. "Seen" is the last but one on the
images that it was found on: more cannot be reached. The table is written to benchmarks/results.
"""

import datetime as dt
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from tailseg.evaluation.average_precision import MAX_DETECTIONS
from tailseg.evaluation.detections import match_results, select_best_of_each_image
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.reading import read_sources
from tailseg.evaluation.sources import get_sources, open_annotations, read_truth
from tailseg.evaluation.thresholds import (
    _compute_f1,
    _compute_part_f1,
    _count,
    _Counted,
    _Curves,
    _fit,
    _split_images,
    find_from_matches,
)

RESULTS = Path(__file__).parent / "results"
BARELY = 1e-6
"""Objects that a class borrows: only to decide where its own do not."""


@dataclass(frozen=True)
class Options:
    """What to compare."""

    annotations: Annotated[Path, tyro.conf.Positional]
    results: Annotated[Path, tyro.conf.Positional]
    train: Path
    name: str
    folds: tuple[int, ...] = (2, 5)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: Path = RESULTS


def find_best_macro(curves: _Curves) -> np.ndarray:
    """One threshold for all classes: that of the best macro F1."""
    rows = curves.num_objects > 0
    f1 = _compute_f1(curves.found, curves.kept, curves.num_objects[:, None] + np.zeros_like(curves.kept))
    return np.full(len(curves.groups), curves.grid[f1[rows].mean(0).argmax()])


def list_ways(rng: np.random.Generator) -> dict[str, Callable[[_Counted], np.ndarray]]:
    """The ways to choose thresholds ``[K]`` on some images."""
    return {
        "0.3": lambda data: np.full(data.num_classes, 0.3),
        "one, best micro F1": lambda data: _Curves.of_data(data).find(np.inf, np.inf),
        "one, best macro F1": lambda data: find_best_macro(_Curves.of_data(data)),
        "by class, own objects only": lambda data: _Curves.of_data(data).find(BARELY, BARELY),
        "by class, shrunk": lambda data: _fit(data, rng).values,
    }


def judge(data: _Counted, kept: np.ndarray, members: dict[str, np.ndarray]) -> np.ndarray:
    """Macro and micro F1 of each part of the classes, ``[parts, 2]``."""
    ones = np.ones((data.num_images, 1), dtype=np.float32)
    return _compute_part_f1(*_count(data, kept, ones), data.num_objects[:, None], members)[..., 0]


def main() -> None:
    """Compares, prints and writes."""
    options = tyro.cli(Options)
    opened = open_annotations(options.annotations)
    sources = get_sources(options.results, None, opened)
    kind: IouType = "segm" if "segm" in sources else "bbox"
    truth = read_truth(opened, masks=kind == "segm", train=options.train)
    cap = MAX_DETECTIONS[truth.protocol]
    found = read_sources({kind: sources[kind]}, truth, cap=cap)[kind]
    matches = match_results(truth, found, select_best_of_each_image(found, truth, cap), kind)
    data = _Counted.of_matches(matches, truth.class_groups)
    members = {
        "all": np.ones(data.num_classes, dtype=bool),
        "rare": data.groups == 0,
    }
    counts = [
        f"{int(data.num_objects[rows].sum()):,} objects of {int((data.num_objects[rows] > 0).sum())} classes"
        for rows in members.values()
    ]
    lines = [
        f"# Thresholds by class: {options.name}, {dt.datetime.now(tz=dt.UTC).date()}",
        "",
        f"`uv run python benchmarks/thresholds.py {shlex.join(sys.argv[1:])}`",
        "",
        f"F1 at IoU 0.5 ({kind}) in percent, on images that the thresholds were not found on; mean of "  # noqa: ISC004
        f"{len(options.seeds)} seeds. {data.num_images} images; {counts[0]}, of them rare: {counts[1]}.",
    ]
    for folds in options.folds:
        table: dict[str, list[np.ndarray]] = {}
        for seed in options.seeds:
            rng = np.random.default_rng(seed)
            parts = _split_images(data, folds, rng)
            for name, choose in list_ways(rng).items():
                kept = np.zeros(len(data.scores), dtype=bool)
                for part in range(folds):
                    values = choose(data.select(parts != part))
                    kept |= (parts[data.images] == part) & (data.scores >= values[data.classes])
                table.setdefault(name, []).append(judge(data, kept, members))
        values = list_ways(np.random.default_rng(0))["by class, own objects only"](data)
        table["seen: by class, own objects"] = [judge(data, data.scores >= values[data.classes], members)]
        lines += ["", f"## {folds} parts", "", "| Thresholds | macro, all | macro, rare | micro, all | micro, rare |"]
        lines += ["|---|---|---|---|---|"]
        for name, figures in table.items():
            mean = 100 * np.mean(figures, axis=0)
            lines.append(f"| {name} | {mean[0, 0]:.1f} | {mean[1, 0]:.1f} | {mean[0, 1]:.1f} | {mean[1, 1]:.1f} |")
        for base in ("one, best micro F1", "one, best macro F1"):
            gains = 100 * (np.array(table["by class, shrunk"]) - np.array(table[base]))
            cells = [
                f"{gains[:, i, j].mean():+.1f} ({gains[:, i, j].min():+.1f} .. {gains[:, i, j].max():+.1f})"
                for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))
            ]
            lines.append(f"| gain over {base} (lowest .. highest seed) | {' | '.join(cells)} |")
        result = find_from_matches(matches, truth, kind, folds=folds, seed=options.seeds[0])
        cells = []
        for average in ("macro", "micro"):
            for part in ("all", "r"):
                entry = result.f1[part][average]
                interval = "-" if entry.low is None else f"{100 * entry.low:+.1f} .. {100 * entry.high:+.1f}"
                cells.append(interval)
        lines.append(f"| 95 % interval of the first seed's gain over micro | {' | '.join(cells)} |")
        strengths = f"a = {result.class_strength:g}, b = {result.group_strength:g}"
        lines += ["", f"Chosen on all images with the first seed: {strengths} objects."]
    text = "\n".join(lines) + "\n"
    print(text)
    (options.out / f"thresholds-{options.name}-{dt.datetime.now(tz=dt.UTC).date()}.md").write_text(text)


if __name__ == "__main__":
    main()
