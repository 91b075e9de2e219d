"""Large images: are objects across seams whole, and how much memory do tiles and pictures take?

    OMP_NUM_THREADS=1 uv run python benchmarks/large_images.py
    OMP_NUM_THREADS=1 uv run python benchmarks/large_images.py --run runs/custom_small

- Tiles: a drawn scene of 12,000 x 9,000 pixels and a detector that returns the true masks, cut at each tile's border
  (tests/inference/scenes.py). The smallest mask IoU of an object with the truth, and the memory beyond the image.
- Network, with --run: the memory beyond the network and the image for one tile of 1,024 x 1,024 pixels, and for an
  image of 11,600 x 8,700 pixels (101 megapixels) in such tiles. The images are noise.
- Pictures: an image of 6,000 x 4,000 pixels with 100 objects is drawn, and the memory beyond the image is printed.

Each is a process of its own, and its memory is the peak (VmHWM) less the memory after the image was made.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "inference"))


def read_memory(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def measure_tiles() -> None:
    from scenes import Scene, compute_ious

    from tailseg.inference.tiles import TileConfig, TiledDetector

    config = TileConfig(size=1024)
    scene = Scene(9000, 12000, 500, largest=600, seed=7)
    image = scene.image.contiguous()
    before = read_memory("VmRSS")
    start = time.perf_counter()
    (found,) = TiledDetector(scene.make_detector(config), config)([image])
    seconds = time.perf_counter() - start
    beyond = read_memory("VmHWM") - before
    ious = compute_ious(scene, found)
    print(
        f"tiles: {len(scene.masks)} objects, {scene.count_across_seams(config)} of them in no tile as a whole; "
        f"{len(found)} detected, smallest mask IoU {min(ious):.4f}; {seconds:.1f} s; "
        f"memory beyond the image of {image.nbytes / 2**20:.0f} MB: {beyond:.0f} MB"
    )


def measure_network(run: Path, height: int, width: int) -> None:
    import numpy as np
    import torch

    from tailseg.inference import Predictor, TileConfig, TiledDetector

    predictor = Predictor.from_run(run, device="cpu")
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    image = torch.from_numpy(coarse).permute(2, 0, 1).repeat_interleave(16, 1).repeat_interleave(16, 2)
    image = image[:, :height, :width].contiguous()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = read_memory("VmRSS")
    start = time.perf_counter()
    (found,) = TiledDetector(predictor.detect_batch, TileConfig(size=1024))([image])
    seconds = time.perf_counter() - start
    print(
        f"network, {width} x {height} pixels: {len(found)} objects, {seconds:.1f} s; memory beyond the network and the "
        f"image of {image.nbytes / 2**20:.0f} MB: {read_memory('VmHWM') - before:.0f} MB"
    )


def measure_pictures() -> None:
    import numpy as np
    import torch
    from PIL import Image
    from scenes import Scene

    from tailseg.drawing import draw, to_jpeg
    from tailseg.ops import strips
    from tailseg.structures import Detections

    scene = Scene(4000, 6000, 130, largest=600, seed=3)
    boxes = torch.tensor([strips.find_box(mask) for mask in scene.masks], dtype=torch.float32)
    masks = tuple(strips.to_run_lengths(mask, 4000, 6000) for mask in scene.masks)
    count = len(masks)
    found = Detections(boxes, torch.ones(count), torch.tensor(scene.labels), masks, 4000, 6000)
    image = Image.fromarray(np.full((4000, 6000, 3), 128, np.uint8))
    before = read_memory("VmRSS")
    start = time.perf_counter()
    to_jpeg(draw(image, found, ("a", "b", "c"), ("r", "c", "f")), quality=92)
    seconds = time.perf_counter() - start
    beyond = read_memory("VmHWM") - before
    print(
        f"pictures: {count} objects in 6,000 x 4,000 pixels; {seconds:.1f} s; memory beyond the image: {beyond:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tiles", "pictures", "tile", "image"), default=None)
    parser.add_argument("--run", type=Path, default=None, help="measures the network of this run")
    options = parser.parse_args()
    if options.only is None:
        parts = ("tiles", "pictures") if options.run is None else ("tile", "image")
        for name in parts:
            subprocess.run([sys.executable, __file__, "--only", name, *sys.argv[1:]], check=True)
    elif options.only == "tiles":
        measure_tiles()
    elif options.only == "pictures":
        measure_pictures()
    else:
        measure_network(options.run, *((1024, 1024) if options.only == "tile" else (8700, 11600)))


if __name__ == "__main__":
    main()
