"""Time and memory of `tailseg data import`, next to datumaro's conversion of the same files.

    uv run python benchmarks/label_formats.py --scale 0.02
    uv run python benchmarks/label_formats.py --write        LVIS's size: 100,170 images, 1.27 million polygons

A synthetic data set with LVIS's long tail is written in each format by `tailseg data export`, with links to 64 JPEG
files of 640 x 480 pixels. Both programs then write it as a COCO file without images, each as one command in a process
of its own. datumaro runs in an environment of its own, which uv makes. "Reads" is datumaro without the writing: all
items with their annotations. CPU time counts all threads; memory is the peak of the process. Both programs have run
before, so that their modules are compiled, and the files have been read before, so that they lie in the system's cache.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec
import tyro
from against import LAUNCHER
from measure import machine, table, write
from synthetic_lvis import PHOTOGRAPHS, photograph, write_lvis

DATA = Path.home() / ".cache" / "tailseg-benchmark"
DATUMARO: Final = "datumaro==1.13.12"
PEER: Final = """
import sys
from datumaro import Dataset
source, format_name, out = sys.argv[1:]
dataset = Dataset.import_from(source, format=format_name)
count = sum(len(item.annotations) for item in dataset)
print(len(dataset), count)
if out:
    dataset.export(out, "coco_instances", save_media=False)
"""
ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
Name = Literal["coco", "cvat", "voc", "yolo_boxes", "yolo"]
# What each program is given, in the folder of the format, and datumaro's name of the format.
SOURCES: Final = {
    "coco": ("annotations/instances_train.json", "", "coco_instances"),
    "cvat": ("annotations.xml", "annotations.xml", "cvat"),
    "voc": ("", "", "voc_detection"),
    "yolo_boxes": ("data.yaml", "", "yolo"),
    "yolo": ("data.yaml", "", ""),
}


class Boxed(msgspec.Struct):
    """The fields of an annotation without a mask."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float


@dataclass(frozen=True)
class Options:
    """Measures the imports."""

    scale: float = 1.0
    """Part of LVIS's size."""
    formats: tuple[Name, ...] = ("coco", "cvat", "voc", "yolo_boxes", "yolo")
    """The formats."""
    peer: bool = True
    """Also run datumaro."""
    counts: Path | None = None
    """A file with the images and objects of each class of LVIS; without it, a tail of the same size."""
    data: Path = DATA
    """The folder of the files."""
    write: bool = False
    """Write the table to benchmarks/results."""


def make_files(options: Options) -> Path:
    """Writes the data set in each format; returns the folder of the formats."""
    file = write_lvis(options.data, scale=options.scale, counts=options.counts)
    folder = options.data / f"formats-{options.scale:g}"
    source, renamed = folder / "source", folder / "source.json"
    if not renamed.is_file():
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
        images = msgspec.json.decode(content["images"])
        for number, image in enumerate(images):
            image["file_name"] = f"{image['id']:012}.jpg"  # in the file, many images have one photograph
            os.link(options.data / "images" / photograph(number % PHOTOGRAPHS), unfinished / image["file_name"])
        unfinished.rename(source)
        renamed.write_bytes(msgspec.json.encode(content | {"images": images}))
    for name in ("coco", *options.formats):
        out = folder / name
        if out.is_dir():
            continue
        if name == "coco":
            (out / "annotations").mkdir(parents=True)
            content = msgspec.json.decode(renamed.read_bytes(), type=dict[str, msgspec.Raw])
            records = [record | {"iscrowd": 0} for record in msgspec.json.decode(content["annotations"])]
            text = msgspec.json.encode(content | {"annotations": records})  # datumaro refuses LVIS files, without it
            (out / "annotations/instances_train.json").write_bytes(text)
            source.rename(out / "images")
            continue
        file = write_boxes(renamed) if name == "yolo_boxes" else renamed
        command = [sys.executable, "-m", "tailseg", "data", "export", str(file), str(out), "--to", name.split("_")[0]]
        subprocess.run([*command, "--images", str(folder / "coco/images")], check=True)
        for link in [path for path in out.rglob("*.jpg") if path.is_symlink()]:
            file = link.resolve()
            link.unlink()
            os.link(file, link)  # datumaro refuses links that lead out of its folder
    return folder


def write_boxes(file: Path) -> Path:
    """Writes the data set without masks next to it: datumaro reads no outlines from YOLO's files."""
    boxes = file.with_name("boxes.json")
    content = msgspec.json.decode(file.read_bytes(), type=dict[str, msgspec.Raw])
    records = msgspec.json.decode(content["annotations"], type=list[Boxed])
    boxes.write_bytes(msgspec.json.encode(content | {"annotations": records}))
    return boxes


def measure(command: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a command, whose output goes to the error stream."""
    arguments = [sys.executable, "-c", LAUNCHER, *command]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    code, cpu, _, megabytes = json.loads(done.stdout)
    print(f"{cpu:.1f} s, {megabytes:.0f} MB, exit code {code}", flush=True)
    return (cpu, megabytes) if code == 0 else (float("nan"), float("nan"))


def main(options: Options) -> None:
    """Writes the files, measures, and prints the table."""
    folder = make_files(options)
    python = [
        shutil.which("uv") or "uv",
        "run",
        "--quiet",
        "--no-project",
        "--with",
        DATUMARO,
        "python",
        "-W",
        "ignore",
    ]
    peer = [*python, "-c", PEER]
    if options.peer:
        # makes the environment, and compiles
        subprocess.run([*python, "-c", "import datumaro"], check=True, env=ENVIRONMENT)
    head = ["Format", "tailseg: CPU s", "MB"]
    if options.peer:
        head += ["datumaro: CPU s", "MB", "times tailseg's", "datumaro reads: CPU s", "times tailseg's"]
    rows = []
    for name in options.formats:
        ours, theirs, kind = SOURCES[name]
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        command = [sys.executable, "-m", "tailseg", "data", "import", str(folder / name / ours), str(out / "ours.json")]
        print(name)
        for path in (folder / name).rglob("*"):
            if path.is_file():
                path.read_bytes()
        seconds, megabytes = measure([*command, "--images", str(folder / "coco/images")])
        row = [name, f"{seconds:.1f}", f"{megabytes:.0f}"]
        if options.peer and kind:
            for target in (str(out / "theirs"), ""):
                took, held = measure([*peer, str(folder / name / theirs), kind, target])
                row += [f"{took:.1f}", *([f"{held:.0f}"] if target else []), f"{took / seconds:.1f}"]
        rows.append([*row, *["-"] * (len(head) - len(row))])
    text = table(head, rows)
    print(text)
    if options.write:
        title = f"Import of labels, {options.scale:g} of LVIS's size, {DATUMARO}, {machine(1)}"
        write("label_formats", title, text, threads=1)


if __name__ == "__main__":
    main(tyro.cli(Options))
