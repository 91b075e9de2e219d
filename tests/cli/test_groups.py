"""`--groups` of the commands: other bounds of rare, common and frequent classes."""

import json
import shutil
from pathlib import Path

import pytest

from tailseg.cli import main


def test_show_counts_by_the_bounds(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(photos.parent / "train.json")
    assert main(["data", "show", file]) == 0
    shown = capsys.readouterr().out
    assert "11 to 100" in shown
    assert main(["data", "show", file, "--groups", "2", "4"]) == 0
    changed = capsys.readouterr().out
    assert "3 to 4" in changed
    assert "more than 4" in changed


def test_test_and_report_take_other_bounds(run: Path, tmp_path: Path) -> None:
    """With bounds that no class reaches, all classes that training shows are frequent."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)

    def groups(*options: str) -> set[str | None]:
        assert main(["test", str(folder), *options]) == 0
        content = json.loads((folder / "metrics.json").read_text())
        return {entry["group"] for entry in content["per_class"]["bbox"] if entry["num_objects"]}

    own = groups()
    assert "r" in own
    assert groups("--groups", "1000", "2000") == {"r"}
    assert groups("--groups", "10", "100") == own
    assert main(["report", str(folder), "--groups", "1000", "2000"]) == 0
    assert (folder / "report.html").is_file()


def test_compare_of_runs_takes_other_bounds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(run)]) == 0
    capsys.readouterr()
    assert main(["compare", str(run), str(run), "--samples=2", "--only=bbox", "--groups", "1000", "2000"]) == 0
    printed = capsys.readouterr().out
    assert "APr" in printed
    assert "APf" not in printed


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_bounds_need_a_training_set(command: str, photos: Path, tmp_path: Path, capsys) -> None:
    annotations, results = str(photos.parent / "val.json"), tmp_path / "results.json"
    results.write_text("[]")
    named = {"eval": [annotations, str(results)], "compare": [str(results)] * 2 + ["--annotations", annotations]}
    assert main([command, *named[command], "--groups", "5", "30"]) == 2
    assert "--groups 5 30 are numbers of training images" in capsys.readouterr().err
    assert main([command, *named[command], "--groups", "30", "5"]) == 2
    assert "--groups is numbers, each 1 or more, in ascending order" in capsys.readouterr().err
