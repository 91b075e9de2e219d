"""Checkpoints are whole, say what is wrong with others, and run nobody's code."""

import pickle
import random
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tailseg.recipes import get_recipe
from tailseg.recipes.saved import to_plain
from tailseg.training import checkpoint
from tailseg.training.checkpoint import CheckpointError, Progress

from .saved import make


def test_what_is_saved_comes_back(tmp_path):
    path = tmp_path / "checkpoints" / "x.pt"
    saved = make()
    checkpoint.save(saved, path)
    loaded = checkpoint.load(path)
    assert loaded.recipe == saved.recipe
    assert loaded.categories == saved.categories
    assert loaded.progress == saved.progress
    assert loaded.frequency.groups == ("r", "c")
    assert loaded.frequency.num_images == 60
    assert loaded.frequency.instance_counts.tolist() == [10, 100]
    assert loaded.model["weight"].tolist() == [0, 1, 2, 3]
    assert loaded.optimizer["param_groups"] == saved.optimizer["param_groups"]


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    checkpoint.save(make(step=1), path)
    unsavable = replace(make(step=2), optimizer={"state": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(unsavable, path)
    assert checkpoint.load(path).progress.step == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_named(tmp_path, share):
    path = tmp_path / "x.pt"
    checkpoint.save(make(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read.*truncated"):
        checkpoint.load(path)


def test_another_programs_checkpoint_is_named(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {}, "meta": {}}, path)
    with pytest.raises(CheckpointError, match=r"x\.pth is not a tailseg checkpoint.*'meta', 'state_dict'"):
        checkpoint.load(path)


class Malicious:
    def __reduce__(self):
        return exec, ("raise AssertionError('code of the file was run')",)


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"format": checkpoint.FORMAT, "model": Malicious()}, path)
    with pytest.raises(CheckpointError, match="not written by tailseg"):
        checkpoint.load(path)


def test_a_small_file_does_not_fill_the_memory(tmp_path):
    """Compressed zeros, and a bytearray of a length that the file states: torch's reader takes both."""
    whole, path = tmp_path / "whole.pt", tmp_path / "x.pt"
    checkpoint.save(replace(make(), model={"weight": torch.zeros(1_000_000)}), whole)
    with zipfile.ZipFile(whole) as parts, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in parts.namelist():
            archive.writestr(name, parts.read(name))
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read.*its parts are larger than the file"):
        checkpoint.load(path)
    torch.save({"format": checkpoint.FORMAT, "model": Long()}, path)
    with pytest.raises(CheckpointError, match=r"x\.pt cannot be read.*it names __builtin__ bytearray"):
        checkpoint.load(path)


class Long:
    def __reduce__(self):
        return bytearray, (1_000_000,)


def test_any_pickle_is_read_or_refused(tmp_path):
    """Bytes changed in the pickle, with the checksum of what they are then."""
    path, changed, positions = tmp_path / "x.pt", tmp_path / "changed.pt", random.Random(0)
    checkpoint.save(make(), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    refused = 0
    for _ in range(2000):
        content = bytearray(parts[name])
        for _ in range(positions.randint(1, 4)):
            content[positions.randrange(len(content))] = positions.randrange(256)
        with zipfile.ZipFile(changed, "w") as archive:
            for each, part in {**parts, name: bytes(content)}.items():
                archive.writestr(each, part)
        try:
            checkpoint.load(changed)
        except CheckpointError:
            refused += 1
    assert 500 < refused < 2000


def test_a_checkpoint_without_a_part_is_named(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"format": checkpoint.FORMAT, "recipe": {}}, path)
    with pytest.raises(CheckpointError, match=r"x\.pt: a part is missing or has a wrong type \(KeyError"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("recipe", {"recipe": "tiny_gumbel"}, "recipe"),
        ("recipe", to_plain(get_recipe("tiny_gumbel")) | {1: 2}, "recipe"),
        ("recipe", {"recipe": "x", "resolved": {"lr": torch.ones(2)}}, "Tensor"),
        ("categories", [{"id": "3", "name": "cat", "group": "r"}], "categor"),
        ("categories", [{"id": 3, "name": "cat", "group": "r"}], "groups"),
        ("categories", torch.ones(2), "mapping"),
        ("frequency", torch.ones(2), "IndexError"),
        (
            "frequency",
            {"image_counts": [1, 2], "instance_counts": [1, 2], "num_images": 3, "groups": "rc"},
            "frequency",
        ),
        ("model", [torch.ones(2)], "model"),
        ("model", {"weight": 1.0}, "model"),
        ("trained", {3: torch.ones(2)}, "trained"),
        ("optimizer", None, "optimizer"),
        ("progress", {"step": "3"}, "progress"),
        ("progress", {"window": {"steps": "x"}}, "progress"),
        ("data", 7, "data"),
    ],
)
def test_a_part_of_another_kind_is_named(tmp_path, part, value, named):
    path = tmp_path / "x.pt"
    checkpoint.save(make(), path)
    torch.save({**torch.load(path, weights_only=True), part: value}, path)
    with pytest.raises(CheckpointError, match=rf"(?is)x\.pt: a part is missing or has a wrong type .*{named}"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("recipe", "[" * 100_000, "header is damaged"),
        ("recipe", "[]", "header is damaged"),
        ("frequency", '{"image_counts": [1e400, 1], "instance_counts": [1, 1], "num_images": 3}', "header is damaged"),
        ("frequency", f'{{"image_counts": [{2**63}, 1], "instance_counts": [1, 1]}}', "header is damaged"),
        ("crc32", '["weight"]', "no safetensors file"),
        ("crc32", "[" * 100_000, "no safetensors file"),
    ],
)
def test_a_header_of_weights_of_another_kind_is_refused(tmp_path, part, value, message):
    path = tmp_path / "x.safetensors"
    checkpoint.save_weights(make(), path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file({"weight": torch.arange(4.0)}, path, header | {part: value})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at .*absent"):
        checkpoint.load(tmp_path / "absent.pt")


def test_weights_come_back_without_optimizer_and_progress(tmp_path):
    path = tmp_path / "x.safetensors"
    counts = torch.zeros(3, dtype=torch.int64)
    saved = replace(make(), model={"a": torch.arange(4.0), "b.counts": counts, "c.counts": counts})  # shared memory
    checkpoint.save_weights(saved, path)
    loaded = checkpoint.load(path)
    assert (loaded.recipe, loaded.categories) == (saved.recipe, saved.categories)
    assert loaded.frequency.image_counts.tolist() == [5, 50]
    assert (loaded.frequency.num_images, loaded.frequency.groups) == (60, ("r", "c"))
    assert {name: tensor.tolist() for name, tensor in loaded.model.items()} == {
        "a": [0, 1, 2, 3],
        "b.counts": [0, 0, 0],
        "c.counts": [0, 0, 0],
    }
    assert (loaded.optimizer, loaded.progress) == ({}, Progress())
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    (tmp_path / "new").touch()
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode, "whoever may read the folder may read the weights"
    with pytest.raises(ValueError, match=r"written to a \.safetensors file"):
        checkpoint.save_weights(saved, tmp_path / "x.pt")


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save_weights(make(), path)
    content = path.read_bytes()
    for share in (0.0, 0.3, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match=r"x\.safetensors is truncated"):
            checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not tailseg's recipe and classes in its header"):
        checkpoint.load(path)
    save_file({"a": torch.zeros(1)}, path, {"format": checkpoint.WEIGHTS_FORMAT, "frequency": "{}"})
    with pytest.raises(CheckpointError, match="header is damaged"):
        checkpoint.load(path)
