"""Pickles of plain data are read as they were written; whatever else they name is refused, and nothing of it runs."""

import os
import pickle
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

from tailseg.interop.files import read_weights_file
from tailseg.training.checkpoint import CheckpointError

STATE = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by_column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "whole": np.asarray(7),
    "half": np.ones(2, np.float16),
    "none": np.zeros((0, 4), np.float32),
    "tensor": torch.arange(3.0),
    "part": torch.arange(6.0).view(2, 3)[:, 1],
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_weights_file(path)
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("key", ["model", "blobs", None])
def test_arrays_and_tensors_are_read(tmp_path, protocol, key):
    other = {"__author__": "Detectron2 Model Zoo", "iteration": 3, "lr": np.float64(0.1), "cfg": ["a", 1.5, None, b"x"]}
    content = STATE if key is None else {key: OrderedDict(STATE), **other}
    state = read_weights_file(write(tmp_path / "x.pkl", content, protocol)).state
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        expected = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        assert np.array_equal(state[name].detach().numpy(), expected), name
    assert state["half"].dtype == torch.float16
    assert state["whole"].shape == ()


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Its arrays are texts; written as cPickle of Python 2 writes them."""
    raw = np.arange(3, dtype="<f4").tobytes()
    content = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x0c" + raw + b"tbs."
    )
    (tmp_path / "x.pkl").write_bytes(content)
    assert torch.equal(read_weights_file(tmp_path / "x.pkl").state["a"], torch.arange(3.0))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("code_of_the_file_ran",)


class InStorage:
    """A tensor's storage that is itself a malicious file."""

    def __reduce__(self):
        return torch.storage._load_from_bytes, (pickle.dumps(Malicious()),)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Malicious(), rf"{os.mkdir.__module__}\.mkdir"),
        (Decimal(1), r"decimal\.Decimal"),
        (np.array([Malicious()], dtype=object), r"numpy\.dtype\('O8'\)"),
        (np.array(["a"]), r"numpy\.dtype\('U1'\)"),
        (np.zeros(1, dtype=[("x", "f4")]), r"numpy\.dtype\('V4'\)"),
        (Path("x"), r"pathlib"),
    ],
)
def test_whatever_else_a_pickle_names_is_refused(tmp_path, monkeypatch, value, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"holds more than weights \({name}.*could run code: refused"):
        read_weights_file(write(tmp_path / "x.pkl", {"model": STATE, "other": value}))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


def test_code_within_a_tensor_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "in place of a tensor's numbers" in refusal(write(tmp_path / "x.pkl", {"model": {"a": InStorage()}}))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_pickle(tmp_path, share):
    path = write(tmp_path / "x.pkl", {"model": STATE})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated" in refusal(path)


def test_an_array_that_does_not_fit_its_bytes(tmp_path):
    content = pickle.dumps({"a": np.zeros(3)}, protocol=4).replace(b"K\x03\x85", b"K\xff\x85")
    (tmp_path / "x.pkl").write_bytes(content)
    assert "cannot be read" in refusal(tmp_path / "x.pkl")


def test_a_place_that_would_fill_the_memory(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert "more memory than it has bytes" in refusal(tmp_path / "x.pkl")


def test_a_torch_file_under_this_name(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "x.pkl")
    assert read_weights_file(tmp_path / "x.pkl").state.keys() == {"a"}
