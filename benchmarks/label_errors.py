"""How many planted label errors `tailseg data errors` ranks first, next to the ways of other tools.

    uv run python benchmarks/label_errors.py plant trashcan/val.json runs/label_errors/trashcan
    tailseg train custom_frozen --data.train runs/label_errors/trashcan/all.json --data.train-images trashcan/images \\
        --model.backbone.weights tf_efficientnet_lite0.safetensors --optim.epochs 3 --optim.milestones 2 \\
        --optim.warmup-iterations 40 --data.repeat-threshold 0 --run.eval-every 0 --run.out runs/label_errors/run
    ln -s ../../../trashcan/images runs/label_errors/trashcan/images
    uv run --with cleanlab python benchmarks/label_errors.py measure runs/label_errors/run runs/label_errors/trashcan \\
        --name trashcan --checkpoint last

`plant` writes a copy of an annotation file for each kind of error, with errors in 5 % of the objects: another class
(drawn by frequency), the object left out, an outline of IoU 0.5, or a second copy of the object. ``all.json`` has the
errors of all kinds, on different objects. The network is trained on this file: it has seen every error that it must
find, and never the right label. `measure` looks for each kind in its own file.
"""

import itertools
import json
import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from measure import table, write
from pycocotools import mask as coco
from scipy import ndimage

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.inference import Predictor
from tailseg.label_errors import find_suspects, read_regions
from tailseg.label_errors.regions import Regions, compute_iou
from tailseg.words import count_noun

SHARE = 0.05
"""Share of the objects that get an error of each kind."""
KINDS = ("class", "missing", "outline", "duplicate")
IOU = 0.5
"""Of a wrong outline with the right one."""
JITTER = 0.05
"""The largest shift of a second copy, as a share of the box's sides."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Plant:
    """Writes annotation files with errors."""

    source: Annotated[Path, tyro.conf.Positional]
    """Annotation file with run lengths."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of the copies."""
    seed: int = 0


def plant(options: Plant) -> None:
    """Writes the copies, and planted.json with the errors of each kind."""
    options.folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(options.source.read_text())
    rng = random.Random(options.seed)
    objects = [one for one in content["annotations"] if not one.get("iscrowd")]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    new_ids = itertools.count(max(one["id"] for one in content["annotations"]) + 1)
    chosen = rng.sample(objects, round(SHARE * len(objects)) * len(KINDS))
    number = len(chosen) // len(KINDS)
    changes: dict[str, Callable[[Json, random.Random], list[Json]]] = {
        "class": lambda one, rng: [one | {"category_id": draw_class(one, objects, rng)}],
        "missing": lambda _one, _rng: [],
        "outline": lambda one, rng: [one | move_outline(draw_mask(one, sizes), rng)],
        "duplicate": lambda one, rng: [one, copy_object(one, draw_mask(one, sizes), rng) | {"id": next(new_ids)}],
    }
    planted, replaced = {}, {}
    for index, kind in enumerate(KINDS):
        part = chosen[index * number : (index + 1) * number]
        planted[kind] = [one["id"] for one in part]
        replaced[kind] = {one["id"]: changes[kind](one, rng) for one in part}
    for name, kinds in {"all": KINDS, **{kind: (kind,) for kind in KINDS}}.items():
        new = {key: records for kind in kinds for key, records in replaced[kind].items()}
        records = [record for one in content["annotations"] for record in new.get(one["id"], [one])]
        images = list_absent(content["images"], records, objects)
        (options.folder / f"{name}.json").write_text(json.dumps(content | {"images": images, "annotations": records}))
    (options.folder / "planted.json").write_text(json.dumps(planted))
    (options.folder / "right.json").write_text(json.dumps(content))


def list_absent(images: list[Json], records: list[Json], objects: list[Json]) -> list[Json]:
    """Images with LVIS's lists after the changes: a class whose last object is gone was looked for and is absent."""
    before, after = ({(one["image_id"], one["category_id"]) for one in part} for part in (objects, records))
    gone: dict[int, set[int]] = {}
    for image, category in before - after:
        gone.setdefault(image, set()).add(category)
    changed = []
    for image in images:
        if "neg_category_ids" in image:
            absent = {*image["neg_category_ids"]} | gone.get(image["id"], set())
            image = image | {"neg_category_ids": sorted(key for key in absent if (image["id"], key) not in after)}
        changed.append(image)
    return changed


def draw_class(one: Json, objects: list[Json], rng: random.Random) -> int:
    """Draws the class of a random object of another class."""
    return rng.choice([other["category_id"] for other in objects if other["category_id"] != one["category_id"]])


def move_outline(right: np.ndarray, rng: random.Random) -> Json:
    """Shifts or scales a mask until its IoU with the right one is 0.5; shrinks it where the image ends."""
    y, x = np.nonzero(right)
    center, angle = np.array([y.mean(), x.mean()]), rng.uniform(0, 2 * np.pi)
    step = np.array([np.sin(angle) * (np.ptp(y) + 1), np.cos(angle) * (np.ptp(x) + 1)])
    ways = {
        "shift": lambda t: ndimage.shift(right, t * step, order=0),
        "enlarge": lambda t: scale(right, center, 1 + 2 * t),
        "shrink": lambda t: scale(right, center, 1 - t),
    }
    for name in (rng.choice(("shift", "enlarge", "shrink")), "shrink"):
        moved = min((ways[name](t) for t in np.linspace(0.04, 0.96, 24)), key=lambda m: abs(iou(right, m) - IOU))
        if moved.any() and abs(iou(right, moved) - IOU) < 0.1:
            break
    return encode(moved if moved.any() else right)


def scale(mask: np.ndarray, center: np.ndarray, factor: float) -> np.ndarray:
    """Scales a mask around a point."""
    return ndimage.affine_transform(mask, np.eye(2) / factor, center - center / factor, order=0)


def copy_object(one: Json, mask: np.ndarray, rng: random.Random) -> Json:
    """Copies an object, shifted a little."""
    _, _, width, height = one["bbox"]
    shift = [round(rng.uniform(-JITTER, JITTER) * height), round(rng.uniform(-JITTER, JITTER) * width)]
    moved = ndimage.shift(mask, shift, order=0)
    return one | encode(moved if moved.any() else mask)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


def draw_mask(one: Json, sizes: dict[int, tuple[int, int]]) -> np.ndarray:
    """The mask of an annotation, uint8 ``[h, w]``."""
    segmentation, (height, width) = one["segmentation"], sizes[one["image_id"]]
    if isinstance(segmentation, list):
        return coco.decode(coco.merge(coco.frPyObjects(segmentation, height, width)))
    return coco.decode({"size": segmentation["size"], "counts": segmentation["counts"].encode()})


def encode(mask: np.ndarray) -> Json:
    """The fields of an annotation that follow from its mask."""
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "bbox": coco.toBbox(rle).tolist(),
        "area": int(coco.area(rle)),
    }


@dataclass(frozen=True)
class Measure:
    """Ranks the suspects of each kind, and counts the planted errors among the first."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run that was trained on all.json."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder that `plant` wrote; the images must be found from there."""
    name: str
    """Name of the data, for the results file."""
    note: str = "trained on all.json."
    """What the network was trained on, for the results file."""
    checkpoint: Literal["best", "last"] = "best"


def measure(options: Measure) -> None:
    """Writes the table of one data set into benchmarks/results."""
    planted = json.loads((options.folder / "planted.json").read_text())
    right = {one["id"]: one for one in json.loads((options.folder / "right.json").read_text())["annotations"]}
    predictor = Predictor.from_run(options.run, checkpoint=options.checkpoint, device="cpu")
    began = time.process_time()
    seen = read_union(options, predictor, planted)
    print(f"the network: {time.process_time() - began:.0f} CPU seconds", flush=True)
    rows = []
    for kind in KINDS:
        annotations = read_dataset(options.folder / f"{kind}.json", on_problem="repair")
        regions = select_regions(seen, annotations, planted["outline"] if kind == "outline" else ())
        began = time.process_time()
        (ranked,) = find_suspects(annotations, regions, kinds=[kind]).values()
        took = time.process_time() - began
        budget = round(0.1 * len(right))
        hits = mark_hits(
            kind, [(s.image_id, s.annotation_id, s.box, s.other_row) for s in ranked], planted, right, annotations
        )
        ways = {
            "tailseg": hits,
            **{
                name: mark_hits(kind, list(found), planted, right, annotations)
                for name, found in rank_elsewhere(kind, annotations, regions)
            },
        }
        total = len(planted[kind])
        for way, marks in ways.items():
            shares = [
                len({hit for hit in marks[: round(share * len(right))] if hit is not None}) / total for share in SHARES
            ]
            rows.append([kind, way, str(total), str(len(marks)), *(f"{100 * share:.0f} %" for share in shares)])
            print(rows[-1], flush=True)
        groups = {g: [k for k in planted[kind] if group_of(right[k], annotations) == g] for g in "rcf"}
        first = {hit for hit in hits[:budget] if hit is not None}
        rows[-len(ways)] += [f"{len(first & {*keys})} of {len(keys)}" for keys in groups.values()] + [f"{took:.0f}"]
    header = [
        "kind",
        "way",
        "planted",
        "listed",
        *(f"first {100 * share:g} %" for share in SHARES),
        "rare",
        "common",
        "frequent",
        "CPU s",
    ]
    body = table(header, [row + [""] * (len(header) - len(row)) for row in rows])
    text = (
        f"{predictor.recipe.name}, {predictor.checkpoint.progress.step} steps; {options.note} "
        f"{count_noun(len(right), 'object')} in {count_noun(annotations.num_images, 'image')}. Of the planted errors "
        "of each kind, the share among the first 5, 10 and 20 % of the list; 10 % are as many entries as a tenth of "
        "the objects. By group: found in the first 10 %. All ways get the detections of the same run.\n\n" + body
    )
    write(
        "label_errors",
        f"Label errors planted in {options.name}",
        text,
        threads=torch.get_num_threads(),
        file=f"label_errors-{options.name}",
    )


SHARES = (0.05, 0.1, 0.2)
MOVED = 10_000_000
"""Is added to the ids of the annotations with wrong outlines in the file that the network reads once."""


def read_union(options: Measure, predictor: Predictor, planted: dict[str, list[int]]) -> dict[str, Any]:
    """Runs the network once over all objects, wrong outlines and second copies."""
    contents = {
        name: json.loads((options.folder / f"{name}.json").read_text()) for name in ("right", "outline", "duplicate")
    }
    moved = {*planted["outline"]}
    ids = {one["id"] for one in contents["right"]["annotations"]}
    union = [
        *contents["right"]["annotations"],
        *(one | {"id": one["id"] + MOVED} for one in contents["outline"]["annotations"] if one["id"] in moved),
        *(one for one in contents["duplicate"]["annotations"] if one["id"] not in ids),
    ]
    path = options.folder / "union.json"
    path.write_text(json.dumps(contents["right"] | {"annotations": union}))
    annotations = read_dataset(path, on_problem="repair")
    regions = read_regions(predictor, annotations)
    keys = np.where(regions.is_object, annotations.objects.ids[regions.rows], -1)
    return {"regions": regions, "places": {key: place for place, key in enumerate(keys.tolist()) if key >= 0}}


def select_regions(seen: dict[str, Any], annotations: Annotations, moved: Collection[int]) -> Regions:
    """The regions of the objects of one file, with its labels, and the detections with their overlaps there."""
    regions, places, moved = seen["regions"], seen["places"], {*moved}
    objects = annotations.objects
    rows = np.flatnonzero(objects.trainable)
    own = np.array([places[key + MOVED * (key in moved)] for key in objects.ids[rows].tolist()])
    found = np.flatnonzero(~regions.is_object)
    take = np.concatenate([own, found])
    overlaps = regions.overlaps[take]
    for index in range(annotations.num_images):
        here = len(own) + np.flatnonzero(regions.images[found] == index)
        boxes = objects.boxes[objects.offsets[index] : objects.offsets[index + 1]]
        overlaps[here] = compute_iou(regions.boxes[take[here]], boxes).max(axis=1, initial=0)
    return Regions(
        x=regions.x[take],
        images=regions.images[take],
        boxes=regions.boxes[take],
        labels=np.concatenate([objects.labels[rows], regions.labels[found]]),
        rows=np.concatenate([rows, np.full(len(found), -1)]),
        scores=regions.scores[take],
        overlaps=overlaps,
        masks=tuple(regions.masks[place] for place in take.tolist()),
        refined=regions.refined[take],
        places=regions.places[np.cumsum(regions.is_object)[own] - 1],
    )


def mark_hits(
    kind: str, suspects: list[tuple], planted: dict[str, list[int]], right: dict[int, Json], annotations: Annotations
) -> list[int | None]:
    """For each suspect (image, annotation, xyxy box, other row) the planted error that it names, or None."""
    wanted = {*planted[kind]}
    if kind == "missing":
        by_image: dict[int, list[int]] = {}
        for key in wanted:
            by_image.setdefault(right[key]["image_id"], []).append(key)
        marks = []
        for image, _, box, *_ in suspects:
            keys = by_image.get(image, [])
            gone = np.array([right[key]["bbox"] for key in keys]).reshape(-1, 4)
            gone[:, 2:] += gone[:, :2]
            overlaps = compute_iou(np.array([box]), gone)[0]
            marks.append(keys[int(overlaps.argmax())] if overlaps.max(initial=0) >= 0.5 else None)
        return marks
    if kind == "duplicate":  # the copy or its original, by the original's id
        originals = find_originals(annotations, right)
        pairs = [(originals.get(key, key), other) for _, key, _, other in suspects]
        names = [(key, int(annotations.objects.ids[other]) if other >= 0 else key) for key, other in pairs]
        return [next((n for n in pair if n in wanted), None) for pair in names]
    return [key if key in wanted else None for _, key, *_ in suspects]


def find_originals(annotations: Annotations, right: dict[int, Json]) -> dict[int, int]:
    """The original of each second copy, which follows it in the file."""
    content = json.loads(annotations.path.read_text())["annotations"]
    return {one["id"]: before["id"] for before, one in itertools.pairwise(content) if one["id"] not in right}


def group_of(one: Json, annotations: Annotations) -> str:
    return next(category.group for category in annotations.categories if category.id == one["category_id"])


def rank_elsewhere(kind: str, annotations: Annotations, regions: Regions) -> Iterator[tuple[str, Iterator[tuple]]]:
    """The rankings of the same errors by cleanlab's ObjectLab and by hotcoco, from the detections."""
    if kind in ("class", "missing", "outline"):
        yield "cleanlab", rank_by_cleanlab(kind, annotations, regions)
    if kind in ("class", "missing"):
        yield "hotcoco", rank_by_hotcoco(kind, annotations, regions)


def rank_by_cleanlab(kind: str, annotations: Annotations, regions: Regions) -> Iterator[tuple]:
    """ObjectLab's scores of boxes (Tkachenko, Thyagarajan and Mueller 2023): swapped, overlooked, badly located."""
    from cleanlab.object_detection import rank

    labels, predictions, boxes, names = [], [], [], []
    for index in range(annotations.num_images):
        here = regions.images == index
        own, found = np.flatnonzero(here & regions.is_object), np.flatnonzero(here & ~regions.is_object)
        if not len(own) or not len(found):
            continue
        labels.append({"bboxes": regions.boxes[own], "labels": regions.labels[own]})
        by_class = [found[regions.labels[found] == label] for label in range(annotations.num_classes)]
        predictions.append(
            np.array(
                [np.concatenate([regions.boxes[r], regions.scores[r, None]], axis=1) for r in by_class], dtype=object
            )
        )
        rows = own if kind != "missing" else np.concatenate(by_class)
        names += [
            (int(annotations.image_ids[index]), int(annotations.objects.ids[r]) if r >= 0 else None)
            for r in regions.rows[rows].tolist()
        ]
        boxes += regions.boxes[rows].tolist()
    score = {
        "class": rank.compute_swap_box_scores,
        "missing": rank.compute_overlooked_box_scores,
        "outline": rank.compute_badloc_box_scores,
    }[kind]
    scores = np.concatenate(score(labels=labels, predictions=predictions))
    for place in np.argsort(scores, kind="stable").tolist():  # the lowest quality first; NaN, no confident box, last
        if not np.isnan(scores[place]):
            yield (*names[place], boxes[place], -1)


def rank_by_hotcoco(kind: str, annotations: Annotations, regions: Regions) -> Iterator[tuple]:
    """The candidates of `COCOeval.image_diagnostics`, the highest score first."""
    from hotcoco import COCO, COCOeval

    truth = COCO(str(annotations.path))
    found = np.flatnonzero(~regions.is_object)
    sides = regions.boxes[found].astype(float)
    sides[:, 2:] -= sides[:, :2]
    ids = [category.id for category in annotations.categories]
    detections = [
        {
            "image_id": int(annotations.image_ids[regions.images[r]]),
            "category_id": ids[regions.labels[r]],
            "bbox": box,
            "score": float(regions.scores[r]),
        }
        for r, box in zip(found.tolist(), sides.tolist(), strict=True)
    ]
    evaluation = COCOeval(truth, truth.load_res(detections), "bbox")
    evaluation.evaluate()
    wanted = {"class": "wrong_label", "missing": "missing_annotation"}[kind]
    candidates = evaluation.image_diagnostics(score_thr=0.05)["label_errors"]
    for one in sorted((one for one in candidates if one["type"] == wanted), key=lambda one: -one["dt_score"]):
        x, y, width, height = detections[one["dt_id"] - 1]["bbox"]
        yield one["image_id"], one["gt_id"], (x, y, x + width, y + height), -1


if __name__ == "__main__":
    chosen = tyro.cli(Plant | Measure)
    if isinstance(chosen, Plant):
        plant(chosen)
    else:
        measure(chosen)
