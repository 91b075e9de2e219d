"""One image with Mask R-CNN R50-FPN at LVIS scale: torch against its exported files, in time and memory.

    uv run python benchmarks/export.py                     all, one thread
    uv run python benchmarks/export.py --rows torch:float32 onnx:float32 --rounds 5

1,203 classes, 800 x 1216 pixels, 1,000 proposals, 300 detections, masks as run lengths of the whole image; random
weights as in benchmarks/inference.py. torch is `tailseg predict` (`for_inference`). The exported files run as in
detect.py, in a process without torch. Each row has a process of its own; memory is the peak of the whole process. The
rows take turns, and the least time counts.

The limit is the time in which the same runtime does the operations of the model's layers at the rate of one convolution
of the FPN (3 x 3, 256 channels, 100 x 152 places).
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).parent.parent / "src/tailseg/export/runner.py"
ROWS = (
    "torch:float32",
    "torch:bfloat16",
    "onnx:float32",
    "openvino:float32",
    "openvino:bfloat16",
    "onnx:int8",
    "openvino:int8",
)
SAMPLES = 4
"""Images on which int8 measures its ranges."""
CHANNELS, PLACES = 256, (100, 152)
"""Of the convolution that gives the limit."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rows: tuple[str, ...] = ROWS
    """Runtimes and precisions; the first one is what the others are compared with."""
    rounds: int = 3
    """Images in each turn, after one that does not count."""
    turns: int = 2
    """Processes of each row, taken in turns."""
    threads: int = 1
    """CPU threads; with 1 CPU time is measured, else wall time."""


def measure(run: Callable[[], object], rounds: int, threads: int) -> float:
    """The least time of a call."""
    import time

    clock = time.process_time if threads == 1 else time.perf_counter
    times = []
    for _ in range(rounds + 1):
        began = clock()
        run()
        times.append(clock() - began)
    return min(times[1:])


def run_row(folder: Path, row: str, rounds: int, threads: int) -> dict[str, float]:
    """Measures one row in this process."""
    kind, _, precision = row.partition(":")
    if kind == "torch":
        run, convolve = prepare_torch(precision, threads)
    else:
        run, convolve = prepare_file(folder, kind, precision, threads)
    seconds = measure(run, rounds, threads)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    return {"seconds": seconds, "peak": peak, "convolution": measure(convolve, 10, threads)}


def prepare_torch(precision: Any, threads: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """An image, and the convolution, in torch."""
    import torch
    from peers import smooth_noise

    from inference import HEIGHT, WIDTH
    from tailseg.models.optimize import InferenceConfig, for_inference
    from tailseg.models.precision import HALF, autocast

    torch.set_num_threads(threads)
    model = for_inference(make_model(), InferenceConfig(precision))
    image = smooth_noise(HEIGHT, WIDTH)
    dtype = HALF.get(precision, torch.float32)
    layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    features = torch.randn(1, CHANNELS, *PLACES).to(dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def run() -> object:
        with autocast(torch.device("cpu"), precision):
            return model([image])

    @torch.no_grad()
    def convolve() -> object:
        return layer(features)

    return run, convolve


def prepare_file(
    folder: Path, kind: str, precision: str, threads: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """An image, and the convolution, in the runtime of an exported file; without torch."""
    import numpy as np

    specification = importlib.util.spec_from_file_location("detect", RUNNER)
    assert specification is not None
    assert specification.loader is not None
    runner = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(runner)
    ending = {"onnx": "onnx", "openvino": "xml"}[kind]
    model = runner.Model(folder / f"model-{precision}.{ending}", threads=threads)
    image = np.load(folder / "image.npy")
    layer = runner.Model(folder / f"layer-{precision}.{ending}", threads=threads)
    features = np.random.default_rng(0).normal(size=(1, CHANNELS, *PLACES)).astype(np.float32)

    def run() -> object:
        found = model.run(runner.make_inputs([image], [image]))
        count = int(found["counts"][0])
        masks = runner.paste(found["masks"][0, :count], found["boxes"][0, :count], image.shape[:2], 0.5)
        assert len(masks) == 300
        return masks

    return run, lambda: layer.run({"features": features})


def make_model() -> Any:
    """The detector of benchmarks/inference.py."""
    from peers import LVIS, tailseg_model, torchvision_model

    return tailseg_model(LVIS, torchvision_model(LVIS))


def write_files(folder: Path, rows: tuple[str, ...]) -> float:
    """Writes the exported files, and returns the operations of the model's layers in GFLOP."""
    import numpy as np
    import onnx
    import torch
    from peers import smooth_noise
    from torch.utils.flop_counter import FlopCounterMode

    from inference import HEIGHT, WIDTH
    from tailseg.export import layers, onnx_file, runner
    from tailseg.export.openvino_file import write_openvino
    from tailseg.export.quantization import quantize
    from tailseg.export.trace import trace
    from tailseg.models.optimize import InferenceConfig, for_inference

    model = for_inference(make_model(), InferenceConfig())
    images = [smooth_noise(HEIGHT, WIDTH, seed).permute(1, 2, 0).contiguous().numpy() for seed in range(SAMPLES)]
    np.save(folder / "image.npy", images[0])
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model([smooth_noise(HEIGHT, WIDTH)])
    settings = {"version": "0", "masks": "box", "precision": ""}
    exported = onnx_file.to_onnx(trace(model, None))
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(CHANNELS, CHANNELS, 3, 3), scale=0.02).astype(np.float32)
    features = generator.normal(size=(1, CHANNELS, *PLACES)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["features", "weight"], ["maps"], name="layer", pads=[1, 1, 1, 1])],
        "layer",
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, features.shape)],
        [onnx.helper.make_tensor_value_info("maps", onnx.TensorProto.FLOAT, features.shape)],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = [onnx.helper.make_opsetid("", onnx_file.OPSET)]
    layer = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    samples = {
        "model": [runner.make_inputs([image], [image]) for image in images],
        "layer": [{"features": features}],
    }
    for precision in sorted({row.partition(":")[2] for row in rows if not row.startswith("torch")}):
        for name, plain in (("model", exported), ("layer", layer)):
            written = onnx.ModelProto()
            written.CopyFrom(plain)
            if precision == "int8":
                written = quantize(layers.simplify(written), samples[name])
            elif precision != "float32":
                written = layers.lower_precision(layers.simplify(written), precision)
            file = folder / f"{name}-{precision}.onnx"
            onnx_file.save(written, file, settings)
            if f"openvino:{precision}" in rows:
                write_openvino(file, file.with_suffix(".xml"))
    return counter.get_total_flops() / 1e9


def main(options: Options) -> None:
    import torch
    from measure import table, write

    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        operations = write_files(folder, options.rows)
        measured: dict[str, list[dict[str, float]]] = {row: [] for row in options.rows}
        for _ in range(options.turns):
            for row in options.rows:
                command = [sys.executable, __file__, "row", name, row, str(options.rounds), str(options.threads)]
                environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                measured[row].append(json.loads(done.stdout.splitlines()[-1]))
    best = {row: {key: min(turn[key] for turn in turns) for key in turns[0]} for row, turns in measured.items()}
    first = best[options.rows[0]]
    layer = 2 * 9 * CHANNELS**2 * PLACES[0] * PLACES[1] / 1e9
    rows = []
    for row, values in best.items():
        rate = layer / values["convolution"]
        rows.append(
            [
                row.replace(":", ", "),
                f"{values['seconds']:.2f}",
                f"{values['seconds'] / first['seconds']:.2f}",
                f"{values['peak'] / 1e9:.2f}",
                f"{values['peak'] / first['peak']:.2f}",
                f"{rate:.0f}",
                f"{operations / rate:.2f}",
            ]
        )
    head = ["", "s", "share", "peak, GB", "share", "one convolution, GFLOP/s", "limit, s"]
    text = table(head, rows)
    text += f"\nThe model's layers have {operations:.0f} GFLOP. Load of the machine at the start: {load:.1f}.\n"
    write("export", "An image in torch and in exported files", text, threads=options.threads)


if __name__ == "__main__":
    if sys.argv[1:2] == ["row"]:
        found = run_row(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        print(json.dumps(found))
    else:
        import tyro

        main(tyro.cli(Options))
