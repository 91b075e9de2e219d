"""A run's folder: which of its checkpoints are taken and kept."""

import pytest

from tailseg.training import checkpoint, run_files
from tailseg.training.checkpoint import CheckpointError

from .saved import make


def test_a_run_has_its_best_or_last_checkpoint_or_converted_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no run in"):
        run_files.choose(tmp_path, "best")
    converted, last = run_files.weights_path(tmp_path), run_files.step_path(tmp_path, 3)
    checkpoint.save_weights(make(), converted)
    assert run_files.choose(tmp_path, "best") == run_files.choose(tmp_path, "last") == converted
    checkpoint.save(make(), last)
    assert run_files.choose(tmp_path, "best") == run_files.choose(tmp_path, "last") == last
    checkpoint.save(make(), run_files.best_path(tmp_path))
    assert run_files.choose(tmp_path, "best") == run_files.best_path(tmp_path)
    assert run_files.choose(tmp_path, "last") == last


def test_the_newest_are_kept(tmp_path):
    assert run_files.get_latest(tmp_path) is None
    assert run_files.get_best(tmp_path) is None
    for step in (900, 9_999_999, 12_000_000):
        checkpoint.save(make(step=step), run_files.step_path(tmp_path, step))
    checkpoint.save(make(), run_files.best_path(tmp_path))
    (tmp_path / "checkpoints" / "step_final.pt").touch()  # a copy by hand
    run_files.keep_newest(tmp_path, 2)
    assert [path.name for path in run_files.list_checkpoints(tmp_path)] == ["step_9999999.pt", "step_12000000.pt"]
    run_files.keep_newest(tmp_path, 0)
    assert run_files.get_latest(tmp_path) == run_files.step_path(tmp_path, 12_000_000)
    assert run_files.get_best(tmp_path) == run_files.best_path(tmp_path)
