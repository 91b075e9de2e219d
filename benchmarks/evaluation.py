"""Time and peak memory of `tailseg eval`, lvis-api and faster-coco-eval on boxes and masks of synthetic results.

    uv run python benchmarks/evaluation.py --images 100 1000 --peers lvis-api faster-coco-eval
    uv run python benchmarks/evaluation.py --images 5000 19809        tailseg only; LVIS v1 val has 19,809 images

Data: `benchmarks/synthetic_results.py`, 300 detections per image. Each engine runs in its own process, from files to AP
of boxes and masks. tailseg's process also computes AP-fixed, the kinds of errors and the reliability. The times are
wall time and the CPU time of all threads; memory is the peak of the process (ru_maxrss). lvis-api needs about 26 GB for
19,809 images: leave it out there. faster-coco-eval is not a dependency of tailseg (`uv run --with faster-coco-eval
python ...`). It has no limit of detections per image and runs without one.
"""

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_results

Peer = Literal["lvis-api", "faster-coco-eval"]


def run_tailseg(truth: Path, results: Path) -> list[float | None]:
    """AP of boxes and masks, and all the rest of the analysis."""
    from tailseg.evaluation import analyze

    analysis = analyze(truth, {"bbox": results, "segm": results})
    return [analysis.metrics[kind]["AP"] for kind in ("bbox", "segm")]


def run_lvis_api(truth: Path, results: Path) -> list[float | None]:
    """lvis-api as its users call it; masks without boxes, so that areas are those of the masks."""
    import lvis

    np.__dict__["float"] = float  # lvis-api was written for an older NumPy
    scores = []
    for kind, other in (("bbox", "segmentation"), ("segm", "bbox")):
        records = json.loads(results.read_text())
        for record in records:
            del record[other]
        reference = lvis.LVIS(str(truth))
        engine = lvis.LVISEval(reference, lvis.LVISResults(reference, records, max_dets=300), kind)
        engine.run()
        scores.append(engine.get_results()["AP"])
    return scores


def run_faster_coco_eval(truth: Path, results: Path) -> list[float | None]:
    """faster-coco-eval in LVIS style."""
    from faster_coco_eval import COCO, COCOeval_faster

    scores = []
    for kind, other in (("bbox", "segmentation"), ("segm", "bbox")):
        records = json.loads(results.read_text())
        for record in records:
            del record[other]
        reference = COCO(str(truth))
        engine = COCOeval_faster(
            reference, reference.loadRes(records), iouType=kind, lvis_style=True, print_function=id
        )
        engine.params.maxDets = [300]
        engine.run()
        scores.append(engine.stats_as_dict["AP_all"])
    return scores


MODULES: dict[Peer, str] = {"lvis-api": "lvis", "faster-coco-eval": "faster_coco_eval"}
PACKAGES: dict[Peer, str] = {"lvis-api": "lvis", "faster-coco-eval": "faster-coco-eval"}
ENGINES = {"tailseg": run_tailseg, "lvis-api": run_lvis_api, "faster-coco-eval": run_faster_coco_eval}


def child(engine: str, truth: Path, results: Path) -> None:
    """One engine; the last line printed is its JSON."""
    start = time.perf_counter()
    scores = ENGINES[engine](truth, results)
    use = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - start
    line = {"scores": scores, "wall": seconds, "cpu": use.ru_utime + use.ru_stime, "mb": use.ru_maxrss / 1024}
    print(json.dumps(line))


def require(peers: tuple[Peer, ...]) -> None:
    """Ends the script if a peer is not installed, and says how to install it."""
    missing = [peer for peer in peers if importlib.util.find_spec(MODULES[peer]) is None]
    if missing:
        packages = [PACKAGES[peer] for peer in missing]
        raise SystemExit(
            f"not installed: {', '.join(missing)}. Run `uv run --with {','.join(packages)} python "
            f"benchmarks/evaluation.py ...`, or `pip install {' '.join(packages)}` first, or leave it out of --peers"
        )


def main(images: tuple[int, ...] = (100, 1000), peers: tuple[Peer, ...] = (), data: Path | None = None) -> None:
    """Prints the table.

    Args:
        images: sizes.
        peers: who else runs.
        data: folder of the files, kept; they are made where they are not there yet.
    """
    require(peers)
    print("| Images | Engine | AP boxes, masks | wall s | CPU s | peak MB |\n|---|---|---|---|---|---|")
    with TemporaryDirectory() as temporary:
        for size in images:
            folder = (data or Path(temporary)) / str(size)
            files = synthetic_results.Files(folder / "truth.json", folder / "results.json")
            if not files.truth.is_file():  # written last
                synthetic_results.write(folder, images=size)
            for engine in ("tailseg", *peers):
                command = [sys.executable, __file__, "--child", engine, str(files.truth), str(files.results)]
                done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
                found = json.loads(done.stdout.splitlines()[-1])
                scores = ", ".join(f"{100 * score:.4f}" for score in found["scores"])
                figures = f"{found['wall']:.1f} | {found['cpu']:.1f} | {found['mb']:,.0f}"
                print(f"| {size:,} | {engine} | {scores} | {figures} |", flush=True)


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        tyro.cli(main)
