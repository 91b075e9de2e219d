"""Detects on a Ray cluster of two nodes, kills one in the middle, and prints the lines as JSON: a program of its own,
since the processes of Ray do not check types, and cannot import a test."""

import json
import sys
import tempfile
import time
from pathlib import Path

import ray
import torch
from PIL import Image
from ray.cluster_utils import Cluster

from tailseg.inference.pipeline import Outcome
from tailseg.inference.ray_cluster import detect_on_ray
from tailseg.inference.sources import FileImage
from tailseg.structures import Detections


class SlowWorker:
    """Finds one box whose width is the brightness; each image takes a moment."""

    orientation = "shown"

    def detector(self, images):
        time.sleep(0.05 * len(images))
        scores, labels = torch.ones(1), torch.zeros(1, dtype=torch.int64)
        boxes = [torch.tensor([[0, 0, float(image.float().mean()), 1]]) for image in images]
        return [Detections(box, scores, labels, None, *images[0].shape[1:]) for box in boxes]

    def make_line(self, outcome: Outcome) -> dict:
        width = None if outcome.detections is None else outcome.detections.boxes[0, 2].item()
        return {"image_id": outcome.image_id, "width": width, "node": ray.get_runtime_context().get_node_id()}


def main(count: int, kill_after: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        images = []
        for number in range(1, count + 1):
            Image.new("L", (8, 8), number).save(path := Path(folder) / f"{number:03}.png")
            images.append((number, FileImage(path)))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        second = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        print(f"nodes: {sum(node['Alive'] for node in ray.nodes())}", file=sys.stderr, flush=True)
        lines = []
        for line in detect_on_ray(images, SlowWorker, address=cluster.address):
            lines.append(line)
            if len(lines) == kill_after:
                cluster.remove_node(second, allow_graceful=False)
                print("killed one node", file=sys.stderr, flush=True)
        print(json.dumps(lines), flush=True)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
