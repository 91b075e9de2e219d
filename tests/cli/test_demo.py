"""`tailseg demo`."""

import os
import re
import shlex
import signal
from pathlib import Path

import pytest
from PIL import Image

from tailseg.cli import main
from tailseg.training import loop


def test_the_quick_demo_goes_through_all_steps_also_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, out = loop.train_step, tmp_path / "my demo"

    def stop_after(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_after)
        assert main(["demo", "--quick", "--out", str(out), "--pictures", "2"]) == 130
    error = " ".join(capsys.readouterr().err.split())
    (command,) = re.findall(r"saved after step 1 in .*: continue with `tailseg (.*)`", error)
    assert main(shlex.split(command)) == 0
    shown = capsys.readouterr()
    assert "continued after step 1" in shown.err
    assert "APr" in shown.out
    assert "tailseg train my.json" in shown.out
    assert len(list((out / "predictions").iterdir())) == 2
    with Image.open(out / "demo.png") as sheet:
        assert sheet.width > 4 * 360


def test_a_demo_without_pictures_is_wrong_usage() -> None:
    assert main(["demo", "--pictures", "0"]) == 2
