"""The kinds of files that commands write, and how to tell each kind from other files with the same name."""

import json
import re
from pathlib import Path
from typing import Final
from zipfile import BadZipFile, ZipFile

from tailseg.cli.outputs import Kind
from tailseg.files import CONVERTED, DETECTIONS, EXAMPLES, is_drawn

MARKDOWN_MARK: Final = "<!-- written by tailseg -->\n"
"""The first line of Markdown files; nobody sees it where they are shown."""
HEAD: Final = 65_536
"""Bytes at the beginning of a file that are read to find its kind."""


def _starts(path: Path, pattern: str) -> bool:
    """Whether the first bytes of a file match the pattern."""
    try:
        with path.open("rb") as file:
            return re.match(pattern.encode(), file.read(HEAD).lstrip(), re.DOTALL) is not None
    except OSError:
        return False


def _has(path: Path, *keys: str) -> bool:
    """Whether a file is a JSON object with these keys."""
    try:
        content = json.loads(path.read_bytes()) if _starts(path, r"\{") else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= set(keys)


def is_run(folder: Path) -> bool:
    """Whether a folder is the folder of a run, begun or finished: a run writes its recipe first."""
    return _has(folder / "recipe.json", "recipe", "resolved")


def is_saved_recipe(path: Path) -> bool:
    """Whether a file is a recipe that tailseg saved, such as the lab's winner.json. Reads only its beginning."""
    return _starts(path, r'\{\s*"recipe": "[^"]*",\s*"resolved": \{')


def _is_records(path: Path) -> bool:
    """Whether a file has detections that tailseg wrote. All results files look alike, so the files next to it decide.

    An empty list has nothing that could be lost.
    """
    if _starts(path, r"\[\s*\]\s*$"):
        return True
    ours = is_run(path.parent) or METRICS.is_own(path.parent / "metrics.json")
    return ours and _starts(path, r'\[\s*\{\s*"image_id"')


def _is_metrics(path: Path) -> bool:
    return _has(path, "protocol", "scores", "per_class") and not _has(path, "fixed")


def _in_run(path: Path) -> bool:
    """Whether a file is in the folder ``data`` of a run."""
    return is_run(path.parent.parent)


def _metadata(path: Path) -> dict[str, str]:
    """Reads the metadata of a safetensors file: JSON, after its length in eight bytes."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            content = json.loads(file.read(length)) if length < path.stat().st_size else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found = content.get("__metadata__") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _is_exported(path: Path) -> bool:
    return _starts(path, f"PK.*{CONVERTED}") or _metadata(path).get("made_by") == CONVERTED


def _is_program(path: Path) -> bool:
    """Whether a file is a program of torch with settings of tailseg."""
    try:
        with ZipFile(path) as archive:
            return any(name.endswith("/tailseg.json") for name in archive.namelist())
    except (OSError, BadZipFile):
        return False


METRICS: Final = Kind("figures of an evaluation", _is_metrics)
RECORDS: Final = Kind("detections of an evaluation", _is_records)
ANALYSIS: Final = Kind("a file of figures", lambda path: _has(path, "protocol", "scores", "fixed", "reliability"))
CLASSES: Final = Kind("a table of classes", lambda path: _starts(path, "iou_type,category_id,"))
SCORES: Final = Kind("a table of scores", lambda path: _starts(path, "iou_type,AP,"))
SLICES: Final = Kind("a table of slices", lambda path: _starts(path, "iou_type,field,value,"))
DIFFERENCES: Final = Kind("a table of differences", lambda path: _starts(path, "before_run,after_run,iou_type,"))
TABLES: Final = Kind("a page of tables", lambda path: _starts(path, MARKDOWN_MARK))
COMPARISON: Final = Kind("a comparison", lambda path: _starts(path, r'\{\s*"before": "[^\n]*",\s*"after": \{'))
PAGE: Final = Kind("a report", lambda path: _starts(path, "<!doctype html>.*default-src 'none'; script-src 'sha256-"))
RECIPE: Final = Kind("the recipe of a run", lambda path: is_run(path.parent))
SAVED_RECIPE: Final = Kind("a recipe", is_saved_recipe)
LAB: Final = Kind("figures of the lab", lambda path: _has(path, "baseline", "lab"))
TRIALS: Final = Kind("fits of the lab", lambda path: _starts(path, r'\{"steps": \d+, "candidate": |$'))
LOG: Final = Kind("the log of a run", lambda path: is_run(path.parent))
PART: Final = Kind("a part of a run's data", _in_run)
CALIBRATION: Final = Kind("a calibration", lambda path: _has(path, "setting", "dimensions"))
THRESHOLDS: Final = Kind("a file of thresholds", lambda path: _has(path, "classes", "single", "folds", "f1"))
SUSPECTS: Final = Kind("a list of label errors", lambda path: _has(path, "file", "suspects"))
NEXT_IMAGES: Final = Kind("a list of images to label", lambda path: _has(path, "run", "images"))
FOUND: Final = Kind(
    "a list of predictions", lambda path: _starts(path, r'\[\s*\]\s*$|\[\s*\{\s*"file_name": [^\n]*"category": ')
)
LINES: Final = Kind("lines of predictions", lambda path: _starts(path, r'$|\{"image_id": \d+, "file_name": "'))
CALL: Final = Kind("the settings of a prediction", lambda path: _has(path, "command", "settings", "part", "finished"))
PICTURE: Final = Kind("a picture of predictions", lambda path: is_drawn(path, DETECTIONS))
SHEET: Final = Kind("a picture of examples", lambda path: is_drawn(path, EXAMPLES))
WEIGHTS: Final = Kind("a file of weights", lambda path: "tailseg weights" in _metadata(path).get("format", ""))
EXPORTED: Final = Kind("a file of weights for another framework", _is_exported)
MODELS: Final = {
    # the first fields of an ONNX file: its version, one byte, and the producer
    "onnx": Kind("an exported model", lambda path: _starts(path, r"\x08.\x12\x07tailseg")),
    "openvino": Kind("an exported model", lambda path: _starts(path, r'<\?xml[^>]*>\s*<net name="tailseg"')),
    "torch": Kind("an exported model", _is_program),
}
OPENVINO_WEIGHTS: Final = Kind(
    "weights of an exported model", lambda path: MODELS["openvino"].is_own(path.with_suffix(".xml"))
)
RUNNER: Final = Kind("a runner", lambda path: _starts(path, '"""Detects objects in images with a model that `tailseg'))
REPAIRED: Final = Kind("a repaired file", lambda _: False)
"""Never replaced: the user may have edited it since."""


def hub_files(folder: Path) -> dict[Path, Kind | None]:
    """Lists the files of a published run, which `push --to` and `pull` write."""
    card = Kind("a model card", lambda path: _starts(path, "---\nlibrary_name: tailseg\n"))
    classes = Kind("a list of classes", lambda path: _has(path, "num_images", "categories"))
    return {
        folder: None,
        folder / "README.md": card,
        folder / "recipe.json": RECIPE,
        folder / "classes.json": classes,
        folder / "checkpoints" / "converted.safetensors": WEIGHTS,
        folder / "calibration.json": CALIBRATION,
        folder / "thresholds.json": THRESHOLDS,
    }
