"""Files of other projects: what is read, and why the rest is refused. Nobody's code is run."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tailseg.interop.files import read_weights_file, write_safetensors_file, write_torch_file
from tailseg.training.checkpoint import CheckpointError

STATE = {"neck.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise AssertionError('code of the file was run')",)


@pytest.mark.parametrize(
    "content",
    [
        {"meta": {"epoch": 12, "CLASSES": ("cat", "dog")}, "state_dict": STATE, "optimizer": {"state": {}}},
        {"model": STATE, "optimizer": {}, "epoch": 3},
        STATE,
    ],
    ids=["mmdetection", "torchvision's references", "bare"],
)
def test_every_wrapping_is_read(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "x.pth")
    file = read_weights_file(tmp_path / "x.pth")
    assert file.state.keys() == STATE.keys()
    assert torch.equal(file.state["neck.weight"], STATE["neck.weight"])
    assert file.class_names == (("cat", "dog") if "meta" in content else None)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "x.pth", STATE, ["cat", "dog"])
    write_safetensors_file(tmp_path / "x.safetensors", STATE)
    for name, classes in (("x.pth", ("cat", "dog")), ("x.safetensors", None)):
        file = read_weights_file(tmp_path / name)
        assert torch.equal(file.state["neck.weight"], STATE["neck.weight"])
        assert file.class_names == classes
    assert {path.name for path in tmp_path.iterdir()} == {"x.pth", "x.safetensors"}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_weights_file(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no file" in refusal(tmp_path / "absent.pth")
    assert "no file" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("name", ["x.pth", "old.pth", "x.safetensors"])
def test_a_truncated_file(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(STATE, path)
    else:
        torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=name != "old.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code(tmp_path: Path, zipped: bool) -> None:
    torch.save({"state_dict": STATE, "meta": Malicious()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "x.pth")
    assert "exec), and reading that could run code: refused" in message
    assert "save its state_dict alone" in message


def test_a_plain_pickle_that_would_run_code(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Malicious()))
    assert "could run code: refused" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite(tmp_path: Path, suffix: str, value: float) -> None:
    state = STATE | {"neck.bias": torch.tensor([1.0, value])}
    path = tmp_path / f"x{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert "not finite (NaN or infinite): neck.bias" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "is no checkpoint: expected tensors by name, found list"),
        ({}, "found nothing"),
        ({"epoch": 3, "lr": 0.1}, r"found epoch (int), lr (float)"),
        ({"state_dict": {}}, "found nothing"),
        (torch.zeros(3), "found Tensor"),
    ],
)
def test_no_checkpoint(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert reason in refusal(tmp_path / "x.pth")


def test_a_picture_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    assert "no checkpoint at all" in refusal(tmp_path / "x.pth")
