"""The engines beside our own; that they agree with it is in tests/cli and tests/parity."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tailseg.evaluation.engines import _with_old_numpy


def test_boxes_and_masks_may_need_the_with_old_numpy_at_once():
    """In threads of one process: the first to finish must not take the name away from the other."""

    def use(_: int) -> bool:
        with _with_old_numpy():
            return all("float" in np.__dict__ for _ in range(2000))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(use, range(200)))
    assert "float" not in np.__dict__
