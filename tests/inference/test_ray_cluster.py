"""Detection on a Ray cluster of two nodes, of which one is killed in the middle."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tailseg.inference.ray_cluster import _from_row, _to_row
from tailseg.inference.sources import BrokenImage, FileImage, FrameImage, MemberImage


def test_places_of_images_go_over_the_network_as_text() -> None:
    for source in (FileImage(Path("a/b.jpg")), MemberImage(Path("a.tar"), "b.jpg", 512, 99), BrokenImage("a", "why")):
        assert _from_row(_to_row(7, source)) == (7, source)
    frame = FrameImage(Path("a.mp4"), 0, None, 0, np.zeros((2, 3, 3), np.uint8))
    for source in (MemberImage(Path("a.tgz"), "b.jpg", 0, 1, b"x"), frame):
        with pytest.raises(ValueError, match="cannot be detected on Ray, because videos and compressed tar files"):
            _to_row(1, source)


@pytest.mark.slow
def test_two_nodes_of_which_one_dies_give_every_image_once() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    program = Path(__file__).with_name("ray_nodes.py")
    done = subprocess.run([sys.executable, program, "160", "40"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "nodes: 2" in done.stderr
    assert "killed one node" in done.stderr
    lines = json.loads(done.stdout.strip().splitlines()[-1])
    assert [line["image_id"] for line in lines] == list(range(1, 161))
    assert [line["width"] for line in lines] == pytest.approx([float(number) for number in range(1, 161)])
