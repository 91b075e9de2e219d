"""What every command and option that writes does with what is there already; docs/reference/outputs.md says the same.

The commands and their options come from the command line's own types, so that a new one cannot be left out.
"""

import importlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

from tailseg.annotations.patch import Patch, compute_key, to_plain
from tailseg.cli import COMMANDS, main
from tailseg.cli.outputs import get_mark, settings
from tailseg.files import Input, Output

from .conftest import SMALL

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/outputs.md"
COLUMNS = ("absent", "its own", "another kind", "another kind, --overwrite", "an input", "full disk", "read-only")
DATA = ["--data.train=tiny_tail:test", "--data.val=tiny_tail:test"]
MINE = '{"mine": 1}'
QUICK_LAB = ("--losses=gumbel", "--seeds=1", "--steps=10", "--best=1", "--directions=8", "--workers=1")


def call_once(function: Callable) -> Callable:
    """The function, which returns the result of its first call each time."""
    results: list[object] = []

    def call(*arguments: object, **named: object) -> object:
        if not results:
            results.append(function(*arguments, **named))
        return results[0]

    return call


def options_of(command: str) -> list[type]:
    """The option classes of a command: `Predict`; `DataShow`, `DataCheck`."""
    module = importlib.import_module(f"tailseg.cli.{command}")
    found = [value for value in vars(module).values() if isinstance(value, type) and is_dataclass(value)]
    return [kind for kind in found if kind.__name__.lower().startswith(command)]


def all_settings() -> dict[str, object]:
    """``Class.setting`` -> annotated type, of all commands."""
    return {
        f"{kind.__name__}.{'.'.join(names)}": annotation
        for command in COMMANDS
        for kind in options_of(command)
        for names, annotation in settings(kind)
    }


def holds(annotation: object, kind: type) -> bool:
    """Whether a setting's type is ``kind`` or has a part that is."""
    return annotation is kind or any(holds(part, kind) for part in get_args(annotation))


READ = {
    *(
        "Calibrate.recipe",
        "Lab.recipe",
        "Lab.run",
        "Predict.recipe",
        "Report.recipe",
        "Serve.recipe",
        "Test.recipe",
        "Convert.recipe",
        "Export.recipe",
    ),
    *(
        "Compare.recipe",
        "Compare.runs",
        "Compare.train",
        "Compare.annotations",
        "Convert.classes",
        "Convert.source",
        "Push.run",
        "Export.run",
        "Pull.source",
        "Eval.results",
    ),
    *("Eval.train", "Eval.annotations", "Predict.images", "Predict.run", "Report.runs", "DataShow.images"),
    *("Report.images", "Report.train", "Thresholds.paths", "Thresholds.train", "Thresholds.recipe"),
    "Export.sample_images",
    *("DataImport.images", "DataImport.match_classes", "DataExport.images", "DataExport.match_classes"),
    *("DataExport.results", "DataSplit.images", "DataRemap.table", "DataFederate.looked_for"),
    *("DataErrors.images", "DataErrors.run", "DataErrors.recipe", "DataApply.patch"),
    *("DataNext.run", "DataNext.folder", "DataNext.recipe"),
    *("DataCheck.images", "DataCheck.val", "DataCheck.val_images", "Resume.recipe"),
}
"""Settings that name what is read, or a function."""
WORDS = {
    *("DataFilter.classes", "DataRemap.rename", "DataSplit.by"),
    *("DataErrors.module", "DataErrors.device", "DataNext.module", "DataNext.device"),
    "Predict.module",
    "Test.module",
    "Calibrate.module",
    "Export.module",
    *("Lab.device", "Lab.losses", "Lab.module"),
    "Serve.module",
    "Report.module",
    "Thresholds.module",
    "Compare.module",
    "Eval.by",
    "Report.by",
    "Resume.module",
    "Resume.settings.device",
    "Train.loss",
    "Train.optim",
    "Train.backbone",
    "Train.detector",
    "Train.source",
    "Train.augmentation",
    "Train.metrics",
    *("Calibrate.device", "Predict.device", "Serve.device", "Test.device", "Train.recipe.run.device", "Serve.host"),
    "Train.recipe.run.best_by",
    "Thresholds.device",
    *("Predict.part", "Predict.ray", "Push.name", "Pull.name", "Pull.revision"),
    *("Report.title", "Submit.partition", "Train.recipe.name"),
}
"""Settings that are text, and no file is written by that name."""


def test_every_setting_that_may_name_a_file_is_known_to_read_or_to_write() -> None:
    """A new one is marked with `Output` or `Input`, or put into one of the lists above."""
    named = {
        name
        for name, annotation in all_settings().items()
        if (holds(annotation, Path) or holds(annotation, str)) and not isinstance(get_mark(annotation), Input | Output)
    }
    networks = {name for name in named if name.startswith(("Train.recipe.model.", "Train.recipe.loss"))}
    assert named - networks == READ | WORDS


def outputs() -> set[str]:
    return {name for name, annotation in all_settings().items() if isinstance(get_mark(annotation), Output)}


@dataclass(frozen=True)
class Row:
    """How one setting is tried.

    Attributes:
        setting: as `all_settings` names it.
        shown: as the page calls it.
        call: the command's arguments, for the place that is written to.
        files: what is written there, the first one always; "" for the place itself.
        as_input: puts an input at the place, and returns the arguments that name it; None where nothing else is read.
        begin: makes the place as it is before the command is first called.
    """

    setting: str
    shown: str
    call: Callable[[Path], list[str]]
    files: tuple[str, ...]
    as_input: Callable[[Path], list[str]] | None
    begin: Callable[[Path], object] = lambda _: None


@pytest.fixture
def rows(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    truth, results = photos.parent / "val.json", run / "results.json"
    first = json.loads(truth.read_text())["categories"][0]["name"]
    patch = photos.parent / "patch.json"
    patch.write_text(json.dumps(to_plain(Patch(truth.name, compute_key(truth), []))))
    photo, best = min(photos.iterdir()), run / "checkpoints/best.pt"
    monkeypatch.setattr("tailseg.report.server.make_server", lambda *_a, **_n: (_ for _ in ()).throw(SystemExit(0)))
    monkeypatch.setattr("tailseg.cli.submit.submit", lambda *_: pytest.skip("SLURM's files have numbers of their own"))

    def copied(source: Path, name: str = "") -> Callable[[Path], Path]:
        def copy(out: Path) -> Path:
            place = out / name if name else out
            place.parent.mkdir(parents=True, exist_ok=True)
            return Path(shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place))

        return copy

    def linked(source: Path) -> Callable[[Path], Path]:
        def link(out: Path) -> Path:
            out.symlink_to(source)
            return out

        return link

    def a_run(*without: str) -> Callable[[Path], None]:
        def copy(out: Path) -> None:
            shutil.copytree(run, out)
            for name in without:
                (out / name).unlink(missing_ok=True)

        return copy

    published = run.parent / "published"
    if not published.exists():
        assert main(["push", str(run), "mine", "--yes", "--to", str(published)]) == 0

    def words(*parts: object) -> list[str]:
        return [str(part) for part in parts]

    made = [
        Row(
            "Eval.out",
            "`eval --out`: metrics.json, tables.md, CSV files",
            lambda out: words("eval", truth, results, "--by=file_name", "--samples=2", "--out", out),
            ("metrics.json", "tables.md", "scores.csv", "classes.csv", "slices.csv"),
            lambda out: words("eval", copied(truth, "metrics.json")(out), results, "--out", out),
        ),
        Row(
            "Compare.out",
            "`compare --out`: a JSON file, a CSV and a Markdown file",
            lambda out: words("compare", results, results, "--annotations", truth, "--samples=2", "--out", out),
            ("", ".csv", ".md"),
            lambda out: words("compare", results, copied(results)(out), "--annotations", truth, "--out", out),
        ),
        Row(
            "Report.out",
            "`report --out`: an HTML file",
            lambda out: words("report", run, "--out", out),
            ("",),
            lambda out: words("report", run, "--val", copied(truth)(out), "--out", out),
        ),
        Row(
            "Thresholds.out",
            "`thresholds --out`: thresholds.json",
            lambda out: words("thresholds", truth, results, "--only=bbox", "--samples=2", "--out", out),
            ("",),
            lambda out: words("thresholds", truth, copied(results)(out), "--only=bbox", "--out", out),
        ),
        Row(
            "DataShow.pictures",
            "`data show --pictures`: a picture",
            lambda out: words("data", "show", truth, "--pictures", out.with_suffix(".jpg")),
            (".jpg",),
            lambda out: words("data", "show", photo, "--pictures", linked(photo)(out.with_suffix(".jpg"))),
        ),
        Row(
            "DataShow.page",
            "`data show --page`: an HTML file",
            lambda out: words("data", "show", truth, "--page", out.with_suffix(".html")),
            (".html",),
            lambda out: words("data", "show", copied(truth)(page := out.with_suffix(".html")), "--page", page),
        ),
        Row(
            "DataCheck.repair",
            "`data check --repair`: an annotation file",
            lambda out: words("data", "check", truth, "--repair", out),
            ("",),
            lambda out: words("data", "check", copied(truth)(out), "--repair", out),
        ),
        Row(
            "DataImport.out",
            "`data import OUT`: an annotation file",
            lambda out: words("data", "import", truth, out),
            ("",),
            lambda out: words("data", "import", copied(truth)(out), out),
        ),
        Row(
            "DataExport.out",
            "`data export OUT`: an annotation file, or a folder of labels",
            lambda out: words("data", "export", truth, out, "--to", "coco"),
            ("",),
            lambda out: words("data", "export", copied(truth)(out), out, "--to", "coco"),
        ),
        *(
            Row(
                f"Data{name.capitalize()}.out",
                f"`data {name} OUT`: an annotation file",
                lambda out, name=name, more=more: words("data", name, truth, out, *more),
                ("",),
                lambda out, name=name, more=more: words("data", name, copied(truth)(out), out, *more),
            )
            for name, more in (
                ("filter", ("--drop-empty",)),
                ("remap", ("--rename", f"{first}={first} 2")),
                ("sample", ("--number", "1")),
                ("federate", ()),
            )
        ),
        Row(
            "DataMerge.out",
            "`data merge --out`: an annotation file",
            lambda out: words("data", "merge", truth, truth.with_name("train.json"), "--out", out),
            ("",),
            lambda out: words("data", "merge", copied(truth)(out), truth, "--out", out),
        ),
        Row(
            "DataSplit.out",
            "`data split OUT`: train.json, val.json, test.json, or folds",
            lambda out: words("data", "split", truth, out),
            ("train.json", "val.json"),
            lambda out: words("data", "split", copied(truth, "train.json")(out), out),
        ),
        Row(
            "DataErrors.out",
            "`data errors --out`: errors.json, errors.html",
            lambda out: words("data", "errors", run, "--data", truth, "--out", out),
            ("errors.json", "errors.html"),
            lambda out: words("data", "errors", run, "--data", copied(truth, "errors.json")(out), "--out", out),
        ),
        Row(
            "DataApply.out",
            "`data apply OUT`: an annotation file",
            lambda out: words("data", "apply", truth, patch, out),
            ("",),
            lambda out: words("data", "apply", copied(truth)(out), patch, out),
        ),
        Row(
            "DataNext.out",
            "`data next --out`: a list of images",
            lambda out: words("data", "next", run, photos, "--out", out),
            ("",),
            lambda out: words("data", "next", copied(run)(out), photos, "--out", out),
        ),
        Row(
            "Predict.out",
            "`predict --out`: results.json, results.jsonl, predict.json, pictures",
            lambda out: words("predict", run, photo, "--out", out),
            ("results.json", "results.jsonl", "predict.json", f"{photo.stem}.jpg"),
            lambda out: words("predict", run, copied(photos)(out), "--out", out),
        ),
        Row(
            "Merge.folder",
            "`merge FOLDER`: results.json, results.jsonl, predict.json",
            lambda out: words("merge", out),
            ("results.json", "results.jsonl", "predict.json"),
            None,
            lambda out: main(words("predict", run, photo, "--out", out, "--part=1/1", "--no-pictures")),
        ),
        Row(
            "Test.run",
            "`test RUN`: results.json, metrics.json",
            lambda out: words("test", out),
            ("results.json", "metrics.json"),
            lambda out: words("test", out, "--val", copied(truth, "results.json")(out)),
            a_run("results.json", "metrics.json"),
        ),
        Row(
            "Calibrate.run",
            "`calibrate RUN`: calibration.json",
            lambda out: words("calibrate", out, "--images=2"),
            ("calibration.json",),
            None,
            a_run("calibration.json"),
        ),
        Row(
            "Lab.out",
            "`lab --out`: lab.json, lab.html, winner.json, features",
            lambda out: words("lab", "--run", run, *QUICK_LAB, "--out", out),
            ("lab.json", "lab.html", "winner.json", "trials.jsonl"),
            lambda out: words("lab", copied(truth, "lab.json")(out), "--out", out),
        ),
        Row(
            "Serve.run",
            "`serve RUN`: report.html",
            lambda out: words("serve", out),
            ("report.html",),
            None,
            a_run("report.html"),
        ),
        Row(
            "Convert.out",
            "`convert OUT`: weights, or a run",
            lambda out: words("convert", run, out.with_suffix(".pth"), "--to", "mmdet"),
            (".pth",),
            lambda out: words("convert", *[copied(best)(out.with_suffix(".pth"))] * 2, "--to", "mmdet"),
        ),
        Row(
            "Export.out",
            "`export --out`: the model, detect.py, comparison.md",
            lambda out: words("export", run, "--images=1", "--out", out),
            ("model.onnx", "detect.py", "comparison.md"),
            lambda out: words("export", run, "--val", copied(truth, "comparison.md")(out), "--out", out),
        ),
        Row(
            "Push.to",
            "`push --to`: weights, recipe, classes, model card",
            lambda out: words("push", run, "mine", "--yes", "--to", out),
            ("mine/README.md", "mine/recipe.json", "mine/classes.json", "mine/checkpoints/converted.safetensors"),
            lambda out: words("push", copied(run, "mine")(out), "mine", "--yes", "--to", out),
        ),
        Row(
            "Pull.out",
            "`pull --out`: weights, recipe, classes, model card",
            lambda out: words("pull", "mine", "--from", published, "--out", out),
            ("README.md", "recipe.json", "classes.json", "checkpoints/converted.safetensors"),
            lambda out: words("pull", "mine", "--from", copied(published)(out), "--out", out / "mine"),
        ),
        Row(
            "Train.recipe.run.out",
            "`train --run.out`, `submit -- --run.out`: a run",
            lambda out: words("train", "tiny_gumbel", *DATA, *SMALL, f"--run.out={out}"),
            ("recipe.json",),
            lambda out: words("train", copied(truth, "data/train.json")(out), *SMALL, f"--run.out={out}"),
        ),
        Row(
            "Resume.run",
            "`resume RUN`: the files of the run",
            lambda out: words("resume", out, "--extend=1"),
            ("results.json",),
            lambda out: words("resume", out, "--extend=1", "--data.val", copied(truth, "results.json")(out)),
            a_run("results.json"),
        ),
        Row(
            "Demo.out",
            "`demo --out`: a run, pictures",
            lambda out: words("demo", "--quick", "--pictures=1", "--out", out),
            ("recipe.json",),
            None,
        ),
        Row(
            "Submit.logs",
            "`submit --logs`: the job's output",
            lambda out: words("submit", "--logs", out, "--", "tiny_gumbel", *DATA, *SMALL),
            ("",),
            None,
        ),
    ]  # fmt: skip
    assert {row.setting for row in made} == outputs(), "an output without a row"
    return {row.setting: row for row in made}


Content = dict[str, tuple[int, bytes]]


NEVER_REPLACES = {"Serve.run", "DataCheck.repair", "DataImport.out", "DataExport.out", "DataMerge.out", "DataSplit.out"}
NEVER_REPLACES |= {f"Data{name}.out" for name in ("Filter", "Remap", "Sample", "Federate", "Apply")}
"""Commands that never write over what is there."""


def place_of(out: Path, name: str) -> Path:
    return out.with_name(out.name + name) if name.startswith(".") or not name else out / name


def content(out: Path) -> Content:
    """All files of the place, and their numbers: a file that is written again has another one."""
    files = [path for top in out.parent.glob(f"{out.name}*") for path in (top, *top.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out.parent)): (path.stat().st_ino, path.read_bytes()) for path in files}


def outcome(arguments: list[str], out: Path, name: str) -> str:
    """What a command does, in the page's words."""
    before, main_file = content(out), str(place_of(out, name).relative_to(out.parent))
    code = main(arguments)
    after = content(out)
    if code == 0:
        if main_file not in after:
            return "not written"
        if main_file not in before:
            return "written"
        return "replaced" if after[main_file] != before[main_file] else "left as it is"
    assert {key: after.get(key) for key in before} == before, "something was lost"
    return {1: "error (1)", 2: "refused (2)"}[code]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tailseg", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    """Leaves no byte free."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    assert shutil.disk_usage(folder).free == 0


SLOW = {"Train.recipe.run.out", "Resume.run", "Demo.out"}
"""Whose work is not done here: test_train.py, test_resume.py and test_demo.py do it, and go on with it."""


@pytest.mark.parametrize(
    "setting",
    [pytest.param(name, marks=pytest.mark.slow if name == "Export.out" else ()) for name in sorted(outputs())],
)
def test_the_page_says_what_happens(
    setting: str,
    rows: dict[str, Row],
    tmp_path: Path,
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if setting == "Export.out":
        pytest.importorskip("onnxruntime")
        from tailseg.export import files, onnx_file

        # tracing takes nearly all the time, and gives the same each time
        for module, name in ((files, "trace"), (onnx_file, "to_onnx")):
            monkeypatch.setattr(module, name, call_once(getattr(module, name)))
    row, cells = rows[setting], dict.fromkeys(COLUMNS, "-")
    name, can_ask = row.files[0], f"{setting.split('.')[0]}.overwrite" in all_settings()
    works = setting not in SLOW | {"Submit.logs"}
    new, full = tmp_path / "new" / "out", disk / "out"
    for place in (new, full):
        place.parent.mkdir(exist_ok=True)
        row.begin(place)
    if works:
        for column in COLUMNS[:2]:
            cells[column] = outcome(row.call(new), new, name)
        shutil.copytree(new.parent, full.parent, dirs_exist_ok=True)
    if setting in NEVER_REPLACES:
        for file in row.files:
            place_of(full, file).unlink()
    capsys.readouterr()
    for file in row.files:
        place_of(new, file).parent.mkdir(parents=True, exist_ok=True)
        place_of(new, file).write_text(MINE)
    cells["another kind"] = outcome(row.call(new), new, name)
    if can_ask:
        cells["another kind, --overwrite"] = outcome([*row.call(new), "--overwrite"], new, name)
    if row.as_input:
        taken = tmp_path / "taken" / "out"
        taken.parent.mkdir()
        row.begin(taken)
        asked = ["--overwrite"] if can_ask else []
        cells["an input"] = outcome([*row.as_input(taken), *asked], taken, name)
    fill(disk)
    capsys.readouterr()
    if setting != "Submit.logs":
        cells["full disk"] = outcome(row.call(full), full, name)
        assert "could not be written" in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    cells["read-only"] = outcome(row.call(full), full, name)
    if cells["read-only"] != "not written":
        assert "cannot be written, but the results go there" in " ".join(capsys.readouterr().err.split())
    line = f"| {row.shown} | {' | '.join(cells.values())} |"
    assert line in PAGE.read_text().splitlines(), f"{PAGE.name} lacks the line\n{line}"
