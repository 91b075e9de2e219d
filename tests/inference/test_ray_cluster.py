"""Detection on a Ray cluster of two nodes, of which one is killed in the middle."""

import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from tailseg.inference.pipeline import Outcome
from tailseg.inference.ray_cluster import _from_row, _to_row, detect_on_ray
from tailseg.inference.sources import BrokenImage, FileImage, FrameImage, MemberImage
from tailseg.structures import Detections


def test_places_of_images_go_over_the_network_as_text() -> None:
    for source in (FileImage(Path("a/b.jpg")), MemberImage(Path("a.tar"), "b.jpg", 512, 99), BrokenImage("a", "why")):
        assert _from_row(_to_row(7, source)) == (7, source)
    for source in (MemberImage(Path("a.tgz"), "b.jpg", 0, 1, b"x"), FrameImage(Path("a.mp4"), 0, None, 0, None)):
        with pytest.raises(ValueError, match="cannot be detected on Ray, because videos and compressed tar files"):
            _to_row(1, source)


class SlowWorker:
    """Finds one box whose width is the brightness; each image takes a moment."""

    orientation = "shown"

    def detector(self, images):
        time.sleep(0.05 * len(images))
        return [
            Detections(
                torch.tensor([[0, 0, float(image.float().mean()), 1]]),
                torch.ones(1),
                torch.zeros(1, dtype=torch.int64),
                None,
                *image.shape[1:],
            )
            for image in images
        ]

    def make_line(self, outcome: Outcome) -> dict:
        width = None if outcome.detections is None else outcome.detections.boxes[0, 2].item()
        return {"image_id": outcome.image_id, "width": width}


@pytest.mark.slow
def test_two_nodes_of_which_one_dies_give_every_image_once(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test

    images = []
    for number in range(1, 161):
        Image.new("L", (8, 8), number).save(path := tmp_path / f"{number:03}.png")
        images.append((number, FileImage(path)))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    killed = threading.Event()
    lines = []
    try:
        for line in detect_on_ray(images, SlowWorker, address=cluster.address):
            lines.append(line)
            if len(lines) == 40:
                cluster.remove_node(second, allow_graceful=False)
                killed.set()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed.is_set()
    assert [line["image_id"] for line in lines] == list(range(1, 161))
    assert [line["width"] for line in lines] == pytest.approx([float(number) for number in range(1, 161)])
