"""`tailseg demo`."""

from pathlib import Path

import pytest
from PIL import Image

from tailseg.cli import main


def test_the_quick_demo_goes_through_all_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "--out", str(out), "--pictures", "2"]) == 0
    shown = capsys.readouterr().out
    assert "APr" in shown
    assert "tailseg train my.json" in shown
    assert len(list((out / "predictions").iterdir())) == 2
    with Image.open(out / "demo.png") as sheet:
        assert sheet.width > 4 * 360


def test_a_demo_without_pictures_is_wrong_usage() -> None:
    assert main(["demo", "--pictures", "0"]) == 2
