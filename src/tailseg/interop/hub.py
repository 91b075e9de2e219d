"""Publishes a run as weights, recipe, classes and a model card, and fetches such a run, through huggingface-hub.

Only the files of `FILES` are published: no data, no pictures, no results, no report. The recipe loses its paths.
"""

import filecmp
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from tailseg.data.tiny_tail import is_tiny_tail
from tailseg.detection import recalibration
from tailseg.evaluation import thresholds
from tailseg.files import write_atomically, write_text
from tailseg.recipes.recipe import RunConfig
from tailseg.recipes.saved import DATA_PATHS, Plain
from tailseg.training import run_files
from tailseg.training.checkpoint import Checkpoint, CheckpointError, Progress, load, save_weights
from tailseg.words import count_noun

CARD: Final = "README.md"
RECIPE: Final = "recipe.json"
CLASSES: Final = "classes.json"
WEIGHTS: Final = str(run_files.weights_path(Path()))
FILES: Final = (CARD, RECIPE, CLASSES, WEIGHTS, recalibration.FILE, thresholds.FILE)
"""All that is published and fetched; the last two only if the run has them."""
BACKBONE_WEIGHTS: Final = ("imagenet", "pretrained", "tiny", "none")
"""Names of a backbone's weights; anything else is a path."""
SCORES: Final = ("AP", "AP50", "AP75", "APr", "APc", "APf")
"""The figures of the model card."""
WORDS: Final = ("rare", "common", "frequent")
CARD_START: Final = "---\nlibrary_name: tailseg\n"
"""The beginning of every model card, by which a card is known as written by tailseg."""


def pack_run(
    run: Path, name: str, folder: Path, *, which: Literal["best", "last"] = "best"
) -> tuple[list[Path], list[str]]:
    """Writes the files to publish into a folder.

    Args:
        run: the folder of a run, or a checkpoint.
        name: of the run in the hub, for the model card.
        folder: an empty folder.
        which: the best or the last checkpoint of a run's folder.

    Returns:
        The files, and notes about what was left out.

    Raises:
        CheckpointError: there is no run, or it cannot be read.
        ValueError: a setting of the recipe is a path on this machine; says which.
    """
    file = run if run.is_file() else run_files.choose(run, which)
    saved = load(file)
    recipe = without_paths(saved.recipe)
    save_weights(replace(saved, recipe=recipe, optimizer={}, progress=Progress()), folder / WEIGHTS)
    write_text(folder / RECIPE, json.dumps(recipe, indent=2) + "\n")
    write_text(folder / CLASSES, json.dumps(list_classes(saved), indent=1) + "\n")
    notes = _pack_settings(run, folder, saved) if run.is_dir() else []
    write_text(folder / CARD, write_card(name, recipe, saved, _read_scores(run / "metrics.json")))
    return [folder / part for part in FILES if (folder / part).is_file()], notes


def without_paths(saved: Plain) -> Plain:
    """Removes the paths from the recipe of a run: data, folder, initial weights, and a file of the backbone's weights.

    The names of tiny_tail stay, which is no file. A data set of your own code is left out.

    Raises:
        ValueError: another setting is a path on this machine.
    """
    resolved = saved["resolved"]
    data = {**resolved["data"], "source": None}
    for name in DATA_PATHS:
        path = data.get(name)
        if not (isinstance(path, str) and is_tiny_tail(path)):
            data[name] = "" if name == "train" else None
    model = dict(resolved["model"])
    backbone = model.get("backbone")
    if isinstance(backbone, dict) and backbone.get("weights", "none") not in BACKBONE_WEIGHTS:
        model["backbone"] = {**backbone, "weights": "none"}
    run = {**resolved["run"], "out": RunConfig.out, "init_from": None}
    cleaned = {"recipe": saved["recipe"], "resolved": {**resolved, "data": data, "model": model, "run": run}}
    for where, value in _list_texts(cleaned, ""):
        is_path = re.match(r"(file:)?[/~\\]|\.\.?[/\\]|[A-Za-z]:[\\/]", value) or f"{Path.home()}/" in value
        if is_path or ("/" in value and Path(value).exists()):
            raise ValueError(
                f"{where.removeprefix('.resolved.').removeprefix('.')} is {value!r}, a path on this machine, which is "
                "not published. Train with a setting that is no path"
            )
    return cleaned


def _list_texts(value: object, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _list_texts(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _list_texts(item, where)


def list_classes(saved: Checkpoint) -> dict[str, Any]:
    """Lists the classes of a model, with their frequencies in the training set, as `read_classes` reads them."""
    frequency = saved.frequency
    counts = zip(
        saved.categories,
        frequency.image_counts.tolist(),
        frequency.instance_counts.tolist(),
        frequency.groups,
        strict=True,
    )
    categories = [
        {"id": c.id, "name": c.name, "image_count": images, "instance_count": instances, "frequency": group}
        for c, images, instances, group in counts
    ]
    return {"num_images": frequency.num_images, "categories": categories}


def _pack_settings(run: Path, folder: Path, saved: Checkpoint) -> list[str]:
    """Writes the run's calibration, and its thresholds if they are of this checkpoint."""
    notes = []
    if (stored := run / recalibration.FILE).is_file():
        recalibration.save(recalibration.load(stored, len(saved.categories)), folder / recalibration.FILE)
    if (stored := run / thresholds.FILE).is_file():
        found = thresholds.load(stored)
        if found.source is not None and found.source.get("step") != saved.progress.step:
            notes.append(f"{stored} is of another checkpoint and is left out")
            return notes
        # the published weights have no steps, and `Predictor` compares these
        source = found.source and {**found.source, "step": 0}
        thresholds.save(replace(found, source=source), folder / thresholds.FILE)
    return notes


def _read_scores(file: Path) -> dict[str, dict[str, float]]:
    """Reads the figures of the last evaluation; nothing if there are none."""
    try:
        scores = json.loads(file.read_text())["scores"]
        return {
            str(kind): {name: float(values[name]) for name in SCORES if isinstance(values.get(name), int | float)}
            for kind, values in scores.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_card(name: str, recipe: Plain, saved: Checkpoint, scores: Mapping[str, Mapping[str, float]]) -> str:
    """Writes the model card: what the model is, its figures, and how to use it.

    Args:
        name: of the run in the hub.
        recipe: without paths.
        saved: the checkpoint.
        scores: by kind (``bbox``, ``segm``) and name, in 0 .. 1.

    Returns:
        Markdown, with the metadata that the hub reads.
    """
    resolved = recipe["resolved"]
    has_masks = resolved["model"].get("mask") is not None
    groups = saved.frequency.groups
    counts = ", ".join(f"{groups.count(group)} {word}" for group, word in zip("rcf", WORDS, strict=True))
    table = [
        f"| {'masks' if kind == 'segm' else 'boxes'} | "
        + " | ".join(f"{100 * values[name]:.1f}" if name in values else "" for name in SCORES)
        + " |"
        for kind, values in scores.items()
    ]
    figures = [
        "## Figures of the last evaluation of the run, in percent\n",
        f"| | {' | '.join(SCORES)} |",
        "|---" * (len(SCORES) + 1) + "|",
        *table,
        "",
    ]
    loss = resolved["loss"].get("type", "").removesuffix("Config").rpartition(":")[2]
    task = "image-segmentation" if has_masks else "object-detection"
    return f"""{CARD_START}pipeline_tag: {task}
tags:
- {"instance-segmentation" if has_masks else "object-detection"}
- long-tail
---

# {name}

A detector with {"masks" if has_masks else "boxes"}, trained with tailseg and the recipe
`{recipe["recipe"]}`{f" (loss: {loss})" if loss else ""}. It knows {count_noun(len(groups), "class")}: {counts}.
`{CLASSES}` lists them.

## Use

```bash
tailseg pull {name}
tailseg predict {get_default_folder(name)} photo.jpg
```
""" + ("\n".join(["", *figures]) if table else "")


def get_default_folder(name: str) -> Path:
    """Returns the folder that a fetched run is written to: ``runs/`` and the last part of its name."""
    return Path("runs") / name.rpartition("/")[2]


def check_name(name: str) -> None:
    """Checks the name of a run in the hub: ``user/name`` or ``name``.

    Raises:
        ValueError: it has another form.
    """
    part = r"[A-Za-z0-9](?:[\w.-]*\w)?"
    if len(name) > 96 or ".." in name or not re.fullmatch(rf"{part}(?:/{part})?", name, re.ASCII):
        raise ValueError(f"{name!r} is not the name of a model in the hub. Expected user/name: letters, digits, - _ .")


def copy_files(folder: Path, files: Sequence[str], out: Path) -> list[str]:
    """Copies files of a run between folders, each completely or not at all.

    If they replace another run's weights, the other files of that run go: thresholds and calibration of other weights
    would be used for these.

    Args:
        folder: where they are.
        files: their names there.
        out: the other folder.

    Returns:
        The names of the files that were removed.
    """
    is_same = (out / WEIGHTS).is_file() and filecmp.cmp(folder / WEIGHTS, out / WEIGHTS, shallow=False)
    stale = [] if is_same else [part for part in FILES if part not in files and (out / part).is_file()]
    for name in stale:
        (out / name).unlink()
    for name in files:
        with write_atomically(out / name) as written:
            written.write_bytes((folder / name).read_bytes())
    return stale


def upload(folder: Path, name: str, *, public: bool) -> str:
    """Uploads the files of a folder as a model.

    Args:
        folder: with the files of `pack_run`.
        name: ``user/name``. A new model is made if there is none.
        public: whether a new model can be seen by everyone.

    Returns:
        The address of the new version.

    Raises:
        ValueError: huggingface-hub is not installed.
        OSError: the hub refuses, or cannot be reached.
    """
    api = _import_hub().HfApi()
    api.create_repo(name, private=not public, exist_ok=True)
    files = [part for part in FILES if (folder / part).is_file()]
    address = api.upload_folder(
        repo_id=name,
        folder_path=folder,
        allow_patterns=files,
        delete_patterns=[part for part in FILES if part not in files],  # thresholds of an earlier version
        commit_message="tailseg push",
    )
    return str(address)


def download(name: str, *, revision: str | None = None) -> Path:
    """Downloads the files of a run into the hub's cache.

    Args:
        name: ``user/name``.
        revision: a branch, a tag or a commit; None for the newest version.

    Returns:
        The folder with the files.

    Raises:
        ValueError: huggingface-hub is not installed.
        OSError: there is no such model, or the hub cannot be reached.
    """
    return Path(_import_hub().snapshot_download(name, revision=revision, allow_patterns=list(FILES)))


def _import_hub() -> Any:  # noqa: ANN401 - need not be installed
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise ValueError(
            "the hub needs huggingface-hub: pip install 'tailseg[hub]', or use a folder (push --to, pull --from)"
        ) from None
    return huggingface_hub


def unpack_run(folder: Path, out: Path, name: str) -> tuple[list[str], list[str]]:
    """Copies a fetched run to its folder, after all checks.

    Args:
        folder: the fetched files. Files with other names are ignored.
        out: the folder of the run.
        name: of the run, for errors.

    Returns:
        The names of the files, and of those of another run that were removed.

    Raises:
        CheckpointError: the files are not those of a run, or damaged.
    """
    files = [part for part in FILES if (folder / part).is_file()]
    if missing := [part for part in (RECIPE, WEIGHTS) if part not in files]:
        raise CheckpointError(f"{name} is no run that `tailseg push` published: it has no {' and no '.join(missing)}")
    saved = load(folder / WEIGHTS)
    if _read_json(folder / RECIPE, name) != saved.recipe:
        raise CheckpointError(f"{RECIPE} of {name} is not the recipe of its weights. Publish the run again")
    if CLASSES in files and _read_json(folder / CLASSES, name) != list_classes(saved):
        raise CheckpointError(f"{CLASSES} of {name} is not that of its weights. Publish the run again")
    for part, read in (
        (recalibration.FILE, lambda file: recalibration.load(file, len(saved.categories))),
        (thresholds.FILE, thresholds.load),
    ):
        if part in files:
            try:
                read(folder / part)
            except ValueError as error:
                raise CheckpointError(f"{name}: {error}. Publish the run again, or delete this file") from None
    return files, copy_files(folder, files, out)


def _read_json(file: Path, name: str) -> Any:  # noqa: ANN401 - what JSON has
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file.name} of {name} is not JSON ({error})") from None
