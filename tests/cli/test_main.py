"""What every command has in common: help, exit codes, errors."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from tailseg import __version__
from tailseg.cli import COMMANDS, main


def test_help_lists_the_commands_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command, line in COMMANDS.items():
        assert f"  {command} " in text
        assert line in text
    assert "tailseg train my.json" in text


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    # in a process of its own: this one has imported everything
    code = (
        "import sys; from tailseg.cli import main; main(['--help']); print({'torch', 'numpy', 'tyro'} & {*sys.modules})"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: tailseg {command}" in text
    assert f"tailseg {command}" in text.split("usage", 1)[1][20:]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"tailseg {__version__}"
    assert f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}" in second


def test_an_unknown_command_suggests_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_an_expected_error_is_one_message_without_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "no/such/run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no run in no/such/run")
    assert "Traceback" not in error


@pytest.mark.parametrize("by", ["option", "environment"])
def test_debug_shows_where_an_error_came_from(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("TAILSEG_DEBUG", "1")
    with pytest.raises(ValueError, match="no run in"):
        main(["test", "no/such/run", *(["--debug"] if by == "option" else [])])


@pytest.mark.parametrize("arguments", ["--help", "train --help", "recipes", "train tiny_gumbel --help", "data --help"])
def test_output_that_nobody_reads_to_its_end_is_no_error(arguments: str) -> None:
    command = f"{sys.executable} -m tailseg {arguments} | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (len(done.stdout), done.stderr) == (1, "")
    # all of it may have been written before the reader left
    assert done.returncode in (0, 1)


def test_output_that_nobody_reads_at_all_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "tailseg", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("tailseg.cli.recipes.run", fail)
    assert main(["recipes"]) == 1
    assert "Broken pipe" in capsys.readouterr().err
