"""Annotation and result files that tools write, and small changes to a sound one."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from case_checks.desk import Answer, Desk, case, line, says, scores


@case("crossed/superannotate-area")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("areas above the box's", desk.tailseg("data", "check", "gt.json"), r"\b2\b.*area")


@case("crossed/train-knows-a-class-more")
def _(desk: Desk) -> Iterator[Answer]:
    said = desk.tailseg("eval", "val.json", "results.json", "--train", "train.json", "--only", "bbox")
    yield "AP 100", line(said, "boxes"), scores(said) == 100.0


@case("crossed/scalabel")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("refused", desk.tailseg("data", "check", "in.json"), r"annotation 2\b", code=1)


@case("crossed/dtlpy")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("refused for masks", desk.tailseg("data", "check", "in.json"), r"no mask|mask", code=1)


@case("crossed/cocoassistant")
def _(desk: Desk) -> Iterator[Answer]:
    yield says("refused", desk.tailseg("data", "check", "in.json"), r"2 image ids occur more than once", code=1)


@case("crossed/mask-without-a-pixel")
def _(desk: Desk) -> Iterator[Answer]:
    yield says(
        "2 masks have no pixel", desk.tailseg("data", "check", "gt.json"), r"\b2\b.*pixel.*annotation 1.*annotation 2"
    )


@case("crossed")
def _(desk: Desk) -> Iterator[Answer]:
    """The files that stand in the folder itself."""

    def check(name: str, pattern: str, wanted: str) -> Answer:
        return says(f"{name}: {wanted}", desk.tailseg("data", "check", f"{name}.json"), pattern)

    values = {
        engine: scores(desk.tailseg("eval", "lvis_crowd_gt.json", "lvis_crowd_dt.json", "--engine", engine))
        for engine in ("tailseg", "hotcoco", "lvis-api")
    }
    yield "lvis_crowd: one number, or a note", str(values), len(set(values.values())) == 1
    for name in ("datumaro_guess", "pylabel"):
        yield check(name, r"\d+ of \d+\).*annotation|no object has a mask", "counted and named")
    for name in ("datumaro_masks", "datumaro_mask", "darwin"):
        yield check(name, r"crowd", "crowds are said")
    # datumaro has filled the hole before it writes: no part lies inside another, and one object has no polygon left
    yield check("datumaro_polygons", r"1 object has no mask .*annotation 1005", "the object that lost its polygon")
    yield check("supervision", r"inside|area", "a filled hole, its area")
    yield check("fiftyone", r"area|inside", "the box's area beside a mask")
    for name in ("labelstudio_coco_fixed", "labelstudio_COCO", "labelstudio_BRUSH_TO_COCO"):
        said = desk.tailseg("eval", f"{name}.json", f"{name}.json")
        unread = "cannot be used" in said[1] and "height or a width" in said[1]
        yield f"{name}: not refused for null sizes", line(said), not unread
    yield "sahi: AP of polygons", *_scored(desk, "sahi_gt", "sahi_result")
    yield "hot_filter: AP 16.58", *_scored(desk, "hot_filter", "hot_filter_res", 16.6)
    yield check("hotcoco_dataset", r"lists|neg_category_ids", "lists that are missing")
    yield check("labelformat_None", r"annotations have no id", "numbered, with a note")
    yield check("segments", r"Segments.ai, COCO with points", "read, and named")
    yield check("kwcoco", r"exterior|dictionar|kwcoco", "polygons as dictionaries")
    truth = json.loads((desk.here / "globox.json").read_text())
    kept = ("image_id", "category_id", "bbox")
    perfect = [{key: record[key] for key in kept} | {"score": 0.9} for record in truth["annotations"]]
    (desk.here / "perfect.json").write_text(json.dumps(perfect))
    yield "globox: annotation id 0 is found, AP 100", *_scored(desk, "globox", "perfect", 100.0)


def _scored(desk: Desk, truth: str, results: str, wanted: float | None = None) -> tuple[str, bool]:
    said = desk.tailseg("eval", f"{truth}.json", f"{results}.json")
    found = scores(said)
    return line(said, r"^ ?boxes|error"), found is not None and (wanted is None or found == wanted)


@case("annotations")
def _(desk: Desk) -> Iterator[Answer]:
    """Verdicts of training and evaluation."""
    with (desk.here / "VERDICTS.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    draw(desk)
    for row in rows:
        for use, column in (("training_masks", "training"), ("masks", "evaluation")):
            wanted = row[column].split("masks")[-1].strip(": ") if "masks:" in row[column] else row[column]
            letter, said = verdict(desk.here / row["file"], use, desk.here)
            yield f"{row['file']}, {column}: {row[column]}", said, letter in expected(wanted)


@case("wild")
def _(desk: Desk) -> Iterator[Answer]:
    """Files of the wild: opened for the boxes of each; results against their truth."""
    with (desk.here / "MANIFEST.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if "_results" not in row["file"]]
    draw(desk)
    for row in rows:
        letter, said = verdict(desk.here / row["file"], "boxes", desk.here)
        opened, text = verdict(desk.here / row["file"], "training", desk.here)
        noted = "note" in row["wanted"] and opened in "ni"
        yield f"{row['file']}: {row['wanted']}", text if noted else said, letter in expected(row["wanted"]) or noted
    for results, ap, kind in (("coco_fakebbox100", 50.5, "boxes"), ("coco_fakesegm100", 32.0, "masks")):
        said = desk.tailseg("eval", "coco_val2014_100.json", f"{results}_results.json")
        yield f"{results}: AP {ap}", line(said, rf"^ ?{kind}"), scores(said, kind) == ap
    yield "fce_dt_dataset: polygons are scored", *_scored(desk, "fce_gt_dataset", "fce_dt_dataset_results")
    yield "fce_dt_ignore: scored", *_scored(desk, "fce_gt_ignore", "fce_dt_ignore_results")
    yield "sahi_visdrone: boxes are scored", *_scored(desk, "sahi_visdrone_gt", "sahi_visdrone_results")
    for part, ap in (("val", 29.1), ("train", 31.4)):
        truth = desk.cases.parent / "data/coco_tail" / f"{part}.json"
        said = desk.tailseg("eval", truth, f"centernet_mbv3_coco_tail_{part}_results.json")
        yield f"centernet {part}: AP {ap}", line(said, r"^ ?boxes|error"), scores(said) == ap


def expected(wanted: str) -> str:
    """The letters that a verdict in words allows."""
    if not wanted.startswith("accept"):
        return "x" if "refuse" in wanted else "?"
    return "ni" if "note" in wanted else "-in"


def verdict(path: Path, use: Any, images: Path) -> tuple[str, str]:
    """The letter of `tailseg.annotations.kinds`, and what is said."""
    import warnings

    from tailseg.annotations.problems import DatasetError
    from tailseg.annotations.read import read_dataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = read_dataset(path, use=use, images=images)
        except DatasetError as error:
            return "x", f"refused: {' '.join(str(error).split())[-160:]}"
    said = [*read.notes, *read.remarks]
    return "n" if read.notes else "i" if read.remarks else "-", str(said[0])[:160] if said else "accepted"


def draw(desk: Desk) -> None:
    """The pictures of all annotation files of a folder, gray."""
    from PIL import Image

    for path in desk.here.glob("*.json"):
        content = json.loads(path.read_bytes())
        for image in content.get("images", []) if isinstance(content, dict) else []:
            name = Path(str(image.get("file_name", "")).replace("\\", "/")).name
            if name and not (desk.here / name).exists():
                size = (int(image.get("width") or 80), int(image.get("height") or 60))
                Image.new("L", size).save(desk.here / name)
