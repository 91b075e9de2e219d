"""The ledger of reproductions, docs/reproductions.md: what was published, what anyone has measured, and the verdict.

    uv run python benchmarks/reproduce.py train gol_mask_rcnn_r50_rfs_2x --devices 8
    uv run python benchmarks/reproduce.py line runs/gol_mask_rcnn_r50_rfs_2x
    uv run python benchmarks/reproduce.py add runs/gol_mask_rcnn_r50_rfs_2x --by "Your name"
    uv run python benchmarks/reproduce.py page

``train`` trains a recipe, evaluates it, and prints its line for the ledger. All options after the name are those of
`tailseg train`. ``line`` prints the line of a finished run. ``add`` adds the line to docs/reproductions.json and writes
the page again. ``page`` writes the page from the recipes and this file.
"""

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tailseg.recipes import GROUPS, Recipe, describe, get_recipe
from tailseg.recipes.published import PUBLISHED, Figures
from tailseg.recipes.saved import list_differences, load_recipe, load_saved

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "docs/reproductions.json"
PAGE = ROOT / "docs/reproductions.md"
BAND = {"AP": 0.5, "APr": 1.5, "APc": 0.7, "APf": 0.7, "APb": 0.5}
"""How far a figure may be from the published one, in percentage points."""
PLOT_ERROR = 0.1
"""What is added to the band of a figure that was read from a plot."""
SCORES = {"AP": ("segm", "AP"), "APr": ("segm", "APr"), "APc": ("segm", "APc"), "APf": ("segm", "APf")}
SCORES["APb"] = ("bbox", "AP")
# Where a run is and how it is divided among devices does not change what is trained.
FREE_SETTINGS = ("run.", "data.train", "data.val", "data.workers", "optim.accumulation_steps", "name")

TEMPLATE = """\
# Reproductions

Every recipe, its published figures, and what was measured with tailseg. `benchmarks/reproduce.py page` writes this page
from the recipes and from [reproductions.json](reproductions.json). **An empty line means that nobody has trained this
recipe with tailseg.** Figures are in percent, on the validation set; ≈: read from a plot.

## Add a line

One command trains a recipe, evaluates it and prints its line. It needs LVIS and a GPU
([where the files go](recipes.md#run-one)):

<!-- skip: needs LVIS -->
```bash
uv run python benchmarks/reproduce.py train gol_mask_rcnn_r50_rfs_2x --devices 8
uv run python benchmarks/reproduce.py add runs/gol_mask_rcnn_r50_rfs_2x --by "Your name"
```

The options after the name are those of `tailseg train`. Then open a pull request with `docs/reproductions.json` and
this page.

## When a run counts as a reproduction

Every published figure of the recipe must be within its band: {band}; {plot} more for a
figure that was read from a plot. The band is a decision of this project: the authors published one training of each
configuration, without an interval. A rare class has few objects, so the band of APr is wide. A run whose settings
differ from the recipe's is listed with the differences and gets no verdict.

{tables}

## Recipes without published figures

{others}

Figures of the recipes for tiny_tail, with several seeds, are in the [benchmarks](benchmarks.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a recipe, evaluate it and print its line")
    train.add_argument("recipe")
    for name in ("line", "add"):
        command = commands.add_parser(name, help="print the line of a run, or add it to the ledger")
        command.add_argument("run", type=Path)
        command.add_argument("--by", default="", help="who trained it")
    commands.add_parser("page", help="write docs/reproductions.md")
    options, rest = parser.parse_known_args()
    if rest and options.command != "train":
        parser.error(f"unknown options: {' '.join(rest)}")
    match options.command:
        case "train":
            words = [part for word in rest for part in word.split("=", 1)]  # --run.out FOLDER or --run.out=FOLDER
            out = words[words.index("--run.out") + 1] if "--run.out" in words else f"runs/{options.recipe}"
            command = [sys.executable, "-m", "tailseg", "train", options.recipe, *rest]
            if code := subprocess.run(command, check=False).returncode:  # it has said why
                sys.exit(code)
            print(format_line(read_run(Path(out))))
        case "line":
            print(format_line(read_run(options.run, by=options.by)))
        case "add":
            entry = read_run(options.run, by=options.by)
            LEDGER.write_text(json.dumps([*read_ledger(), entry], indent=1) + "\n")
            PAGE.write_text(format_page(read_ledger()))
            print(format_line(entry))
        case "page":
            PAGE.write_text(format_page(read_ledger()))
            print(PAGE)


def read_ledger() -> list[dict[str, Any]]:
    """Reads the measured runs."""
    return json.loads(LEDGER.read_text())


def read_run(folder: Path, *, by: str = "") -> dict[str, Any]:
    """Reads the entry of a finished run: its recipe, changed settings, figures, and where and when it was trained."""
    metrics = folder / "metrics.json"
    if not metrics.exists():
        raise SystemExit(f"{folder} has no metrics.json: let the training end, or run `tailseg test {folder}`")
    recipe = load_recipe(folder / "recipe.json")
    scores = json.loads(metrics.read_text())["scores"]
    values = {name: scores.get(kind, {}).get(key) for name, (kind, key) in SCORES.items()}
    return {
        "recipe": recipe.name,
        "changed": list_changes(folder / "recipe.json"),
        "figures": {name: round(100 * value, 2) for name, value in values.items() if value is not None},
        "seed": recipe.run.seed,
        "precision": recipe.run.precision,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "date": dt.datetime.fromtimestamp(metrics.stat().st_mtime, tz=dt.UTC).date().isoformat(),
        "by": by,
    }


def list_changes(path: Path) -> list[str]:
    """Lists the settings in which a saved recipe differs from that of its name; of paths only the last part."""
    recipe, saved = load_saved(path)
    changes = list_differences(get_recipe(recipe.name), saved)
    return [re.sub(r"'[^']*/", "'", change) for change in changes if not change.startswith(FREE_SETTINGS)]


def judge(entry: dict[str, Any]) -> str:
    """Says whether the figures of a run are within the band of the published ones."""
    figures = get_figures(entry["recipe"])
    if figures is None:
        return ""
    if entry["changed"]:
        return "other settings"
    wrong = []
    for name, reach in BAND.items():
        published, measured = getattr(figures, name.lower()), entry["figures"].get(name)
        if published is None:
            continue
        if measured is None:
            wrong.append(f"{name} not measured")
        elif abs(measured - published) > reach + PLOT_ERROR * figures.approximate + 1e-9:
            wrong.append(f"{name} {measured - published:+.1f}")
    return ", ".join(wrong) or "reproduced"


def get_figures(recipe: str) -> Figures | None:
    """Returns the published figures of a recipe."""
    published = PUBLISHED.get(recipe)
    return published.figures if published else None


def format_line(entry: dict[str, Any]) -> str:
    """Returns the entry as a row of the page."""
    figures = [f"{entry['figures'][name]:.1f}" if name in entry["figures"] else "" for name in BAND]
    where = f"{entry['device']}, torch {entry['torch']}, {entry['precision']}, seed {entry['seed']}"
    notes = "; ".join(filter(None, [where, *entry["changed"], entry["by"]]))
    cells = [f"`{entry['recipe']}`", "measured", *figures, judge(entry), entry["date"], notes]
    return f"| {' | '.join(cells)} |"


def format_page(ledger: list[dict[str, Any]]) -> str:
    """Returns the text of the page."""
    recipes = [item.make() for item in PUBLISHED.values() if item.figures]
    tables, others = [], []
    for heading, members in describe.group_by_heading(recipes).items():
        tables.append(f"## {heading}\n\n{format_table(members, ledger)}")
    for title, group in GROUPS.items():
        names = [make.__name__ for make in group if get_figures(make.__name__) is None]
        lines = [format_line(entry) for entry in ledger if entry["recipe"] in names]
        if names:
            others.append(f"**{title}**: {', '.join(f'`{name}`' for name in names)}.")
        if lines:
            others.append("\n".join([*HEAD, *lines]))
    return TEMPLATE.format(
        band=", ".join(f"{name} ±{reach}" for name, reach in BAND.items()),
        plot=PLOT_ERROR,
        tables="\n\n".join(tables),
        others="\n\n".join(others),
    )


HEAD = (f"| Recipe | | {' | '.join(BAND)} | Verdict | Date | Where |", f"|{'---|' * (len(BAND) + 5)}")


def format_table(recipes: list[Recipe], ledger: list[dict[str, Any]]) -> str:
    """Returns the published figures of each recipe, and below them what was measured."""
    lines = [*HEAD]
    for recipe in recipes:
        cells = [f"`{recipe.name}`", "published", *describe.average_precision(recipe), "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
        measured = [format_line(entry) for entry in ledger if entry["recipe"] == recipe.name]
        lines += measured or [f"| | measured |{' |' * (len(BAND) + 3)}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
