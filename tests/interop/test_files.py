"""Files of other projects: what is read, and why the rest is refused. Nobody's code is run."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
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
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "new").stat().st_mode}, (
        "for all to read"
    )


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
    assert "save only its state_dict" in message


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
        ([1, 2], "is not a checkpoint: expected tensors by name, found list"),
        ({}, "found nothing"),
        ({"epoch": 3, "lr": 0.1}, r"found epoch (int), lr (float)"),
        ({"state_dict": {}}, "found nothing"),
        (torch.zeros(3), "found Tensor"),
    ],
)
def test_no_checkpoint(tmp_path: Path, content: object, reason: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    assert reason in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a picture", b"hello", b"<html>"])
def test_another_format_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    assert "no checkpoint at all (of another format)" in refusal(tmp_path / "x.pth")


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    assert "(it is empty)" in refusal(tmp_path / "x.pth")


class HistoryBuffer:
    """As mmdetection 3 keeps its history; pickled with `getattr` for its methods."""

    def __init__(self) -> None:
        self.log, self.methods = np.zeros(3), {"least": self.least}

    def least(self) -> float:
        raise AssertionError("the file's object was used")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("old_numpy", [True, False])
def test_numbers_arrays_and_history_beside_the_weights_are_data(
    tmp_path: Path, zipped: bool, old_numpy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What mmdetection leaves in its files: best scores and palettes of numpy, and, in version 3, its history."""
    path = tmp_path / "x.pth"
    meta = {"CLASSES": [np.str_("cat"), "dog"], "best": np.float64(0.3), "epoch": np.int64(3), "PALETTE": np.eye(3)}
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        patch.setitem(sys.modules, "mmengine.logging", ModuleType("mmengine.logging"))
        patch.setitem(sys.modules, "mmengine", ModuleType("mmengine"))
        content = {"meta": meta, "state_dict": STATE, "message_hub": {"loss": HistoryBuffer()}}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if old_numpy and not zipped:
        path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    file = read_weights_file(path)
    assert file.class_names == ("cat", "dog")
    assert torch.equal(file.state["neck.weight"], STATE["neck.weight"])


class Reaching:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (STATE["count"], "numpy")


def test_getattr_in_a_file_gets_nothing(tmp_path: Path) -> None:
    """A stand-in takes its place; a file that goes on to use what it found is refused or holds nothing."""
    torch.save({"state_dict": STATE, "meta": Reaching()}, tmp_path / "x.pth")
    assert read_weights_file(tmp_path / "x.pth").class_names is None


def test_names_of_several_devices_lose_their_prefix(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{key}": value for key, value in STATE.items()}}, tmp_path / "x.pth")
    assert read_weights_file(tmp_path / "x.pth").state.keys() == STATE.keys()


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"neck.weight": torch.eye(3).to_sparse()}, tmp_path / "x.pth")
    assert "sparse or quantized tensors, expected dense ones: neck.weight" in refusal(tmp_path / "x.pth")


def test_tensors_that_are_larger_than_their_bytes_are_refused(tmp_path: Path) -> None:
    torch.save({"neck.weight": torch.zeros(1).expand(10**12)}, tmp_path / "x.pth")
    assert "repeat a few numbers (expanded ones), expected full ones: neck.weight" in refusal(tmp_path / "x.pth")


class Large:
    """Pickled as a call of bytearray, which torch allows."""

    def __reduce__(self) -> Any:
        return bytearray, (10**15,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_asks_for_memory(tmp_path: Path, zipped: bool) -> None:
    torch.save({"state_dict": STATE, "meta": Large()}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "x.pth").stat().st_size < 10_000
    assert "asks for more memory than it has bytes" in refusal(tmp_path / "x.pth")


def test_a_file_whose_parts_are_compressed(tmp_path: Path) -> None:
    torch.save({"state_dict": {"neck.weight": torch.zeros(10**6)}}, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert "asks for more memory than it has bytes" in refusal(tmp_path / "x.pth")


def test_the_optimizers_state_is_not_read_into_memory(tmp_path: Path) -> None:
    """Of a file with 240 MB of it, a fresh process keeps less than 60 MB."""
    optimizer = {"state": {i: torch.ones(10_000_000) for i in range(6)}}
    torch.save({"state_dict": STATE, "optimizer": optimizer}, tmp_path / "x.pth")
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom tailseg.interop.files import read_weights_file\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\nread_weights_file(Path(sys.argv[1]))\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.pth")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 60_000  # kilobytes
