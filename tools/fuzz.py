"""Searches for files on which a reader fails without a message, guided by coverage (atheris).

    uv run --with atheris python tools/fuzz.py TARGET [SECONDS | INPUT]

TARGET is annotations, results, run_lengths, polygons, checkpoint or cache; the default is 60 seconds. The
search ends at the first failure (an undocumented exception, a crash, 10 seconds for one input, more than 3 GB of
memory) with an exit code other than 0 and prints the path of the input. With this path as INPUT, the input is run
again.
"""

import contextlib
import json
import logging
import os
import random
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import atheris

logging.getLogger().setLevel(logging.WARNING)
with atheris.instrument_imports(include=["tailseg"]):
    import numpy as np
    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_torch_file

    from tailseg.annotations import cache
    from tailseg.annotations.dataset import Annotations, Category
    from tailseg.annotations.image_files import ImageError, is_safe_name
    from tailseg.annotations.problems import DatasetError
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.run_lengths import count_pixels
    from tailseg.evaluation.detections import match_results, read_detections
    from tailseg.evaluation.ground_truth import read_ground_truth
    from tailseg.ops.masks import (
        decode_mask,
        encode_mask,
        mask_area,
        mask_box,
        mask_targets,
        polygons_to_rle,
        segmentation_to_rle,
    )
    from tailseg.recipes import get_recipe
    from tailseg.recipes.saved import from_plain, to_plain
    from tailseg.structures import ClassFrequency, Frame, RunLengths
    from tailseg.training import checkpoint, fit

Use = Callable[[bytes], None]

LONGEST = 20_000
"""Largest input in bytes."""
NASTY = [
    *[None, True, -1, 0, 1, 0.5, 2**31, 2**53, 2**63 - 1, 2**63, 10**400, 1e308, -1e5, float("nan"), float("inf")],
    *["", "..", "../../x", "/dev/zero", "a\nb", "\0", "\ud800", "5:FIT", "T1d3`0", "r", [], {}, [[]], [0] * 6, [1] * 4],
]
SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
BITMAP = np.pad(np.ones((20, 20), bool), ((5, 11), (10, 18)))
MASKS: list[Any] = [[SQUARE], {"size": [36, 48], "counts": [100, 28, 1600]}, dict(encode_mask(BITMAP))]
DATASET = {
    "images": [
        {"id": i, "file_name": "a.jpg", "coco_url": "http://x.org/train/a.jpg", "height": 36, "width": 48}
        | {"neg_category_ids": [7], "not_exhaustive_category_ids": [3]}
        for i in (20, 10)
    ],
    "annotations": [
        {"id": i, "image_id": 10, "category_id": 3, "bbox": [10.0, 5.0, 20.0, 20.0], "area": 400.0, "iscrowd": i % 2}
        | {"ignore": 0, "segmentation": mask}
        for i, mask in enumerate(MASKS)
    ],
    "categories": [{"id": 7, "name": "seven", "frequency": "r"}, {"id": 3, "name": "three", "frequency": "f"}],
}
RESULTS = [
    {"image_id": 10, "category_id": 3, "bbox": [9.0, 5.0, 20.0, 21.0], "score": 0.5, "segmentation": mask}
    for mask in MASKS[1:]
]


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def annotations(folder: Path) -> tuple[list[bytes], Use]:
    """Runs `read_dataset` and all methods of the data set; `read_ground_truth` and its masks."""
    path = folder / "set.json"
    coco = [{key: image[key] for key in ("id", "file_name", "height", "width")} for image in DATASET["images"]]

    def use(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(DatasetError):
            look_at(read_dataset(path))
        with contextlib.suppress(ValueError):
            truth = read_ground_truth(path, masks=True)
            if truth.image_sizes.max() <= 2000:
                assert len(truth.object_masks) == len(truth.objects)

    return [text(DATASET), text({**DATASET, "images": coco}), json.dumps(DATASET).encode("utf-16")], use


def look_at(dataset: Annotations) -> None:
    """Calls everything that training needs of a data set."""
    assert dataset.has_masks in (True, False)
    for i in range(dataset.num_images):
        record = dataset.get_record(i)
        assert ((record.labels >= 0) & (record.labels < dataset.num_classes)).all()
        assert {*record.negative_ids, *record.not_exhaustive_ids} <= {category.id for category in dataset.categories}
        if dataset.sizes[i].max() <= 2000:
            for mask, box in zip(record.segmentations, record.boxes, strict=True):
                segmentation_to_rle(mask, *dataset.sizes[i].tolist())
                mask_targets([mask], Frame(), torch.from_numpy(box[None].copy()))
        assert all(map(is_safe_name, dataset.names.text(i).split("\n")))
        with contextlib.suppress(ImageError):
            dataset.get_info(i)


def results(folder: Path) -> tuple[list[bytes], Use]:
    """Runs `read_detections` and matches the detections."""
    path, truth_path = folder / "results.json", folder / "truth.json"
    truth_path.write_bytes(text(DATASET))
    truth = read_ground_truth(truth_path, masks=True)

    def use(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_detections(path, truth, ("bbox", "segm"))
        except ValueError:
            return
        for iou_type in ("bbox", "segm"):
            match_results(truth, found, np.arange(len(found)), iou_type)

    return [text(RESULTS), text([{**record, "image_id": "a"} for record in RESULTS])], use


def run_lengths(folder: Path) -> tuple[list[bytes], Use]:  # noqa: ARG001
    """Runs the decoder with the size that fits the counts and with another one."""

    def use(content: bytes) -> None:
        counts = content[1:] if content[:1] < b"\x80" else bytes(48 + byte % 64 for byte in content[1:])
        total = count_pixels(counts) or 0
        for height, width in ((1, total), (9, total // 9), (7, 5)):
            rle = RunLengths(size=[height, width], counts=counts)
            fills = count_pixels(counts) == height * width
            if fills and not 0 < total < 100_000:
                continue
            for function in (
                decode_mask,
                mask_area,
                mask_box,
                lambda rle, h=height, w=width: segmentation_to_rle(rle, h, w),
            ):
                try:
                    function(rle)
                except ValueError:
                    assert not fills
                else:
                    assert fills
            if fills:
                bitmap = decode_mask(rle)
                assert bitmap.shape == (height, width)
                assert bitmap.sum() == mask_area(rle) == mask_area(encode_mask(bitmap))
                mask_targets([rle], Frame(), torch.tensor([[0.0, 0.0, width, height]]))

    bitmaps = [np.random.default_rng(i).random((9, 9)) < i / 4 for i in range(5)]
    return [b"\0" + encode_mask(bitmap)["counts"].encode() for bitmap in bitmaps], use


def polygons(folder: Path) -> tuple[list[bytes], Use]:  # noqa: ARG001
    """Draws polygons into an image and as targets."""

    def use(content: bytes) -> None:
        try:
            height, width, box, lists = json.loads(content)
            height, width = int(height) % 500 + 1, int(width) % 500 + 1
            corners = torch.tensor([box], dtype=torch.float32).reshape(1, 4)
            masks = tuple(np.array(points, np.float64).reshape(-1, 2) for points in lists)
        except (ValueError, TypeError, RuntimeError, OverflowError, RecursionError):
            return
        with contextlib.suppress(ValueError):
            assert 0 <= mask_area(polygons_to_rle(masks, height, width)) <= height * width
        if corners.isfinite().all():
            with contextlib.suppress(ValueError):
                mask_targets([masks], Frame(1.5, -1.5, 3.0, 40.0), corners)

    return [text([36, 48, [10, 5, 30, 25], [SQUARE]]), text([36, 48, [0, 0, 9, 9], [SQUARE, SQUARE[:6]]])], use


def checkpoints(folder: Path) -> tuple[list[bytes], Use]:
    """Runs `checkpoint.load` and its checks on any bytes, an archive with any pickle, and weights with any header."""
    counts = torch.tensor([5, 50])
    recipe, model = get_recipe("tiny_gumbel"), torch.nn.Linear(2, 1)
    saved = checkpoint.Checkpoint(
        recipe=to_plain(recipe),
        categories=(Category(3, "cat", "r"), Category(7, "dog", "c")),
        frequency=ClassFrequency.from_counts(counts, counts * 2, 60),
        model=model.state_dict(),
        optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        progress=checkpoint.Progress(epoch=1, step=3, best=0.25, window={"loss_cls": 0.1}),
    )
    whole, weights = folder / "whole.pt", folder / "whole.safetensors"
    checkpoint.save(saved, whole)
    checkpoint.save_weights(saved, weights)
    with zipfile.ZipFile(whole) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))

    def use(content: bytes) -> None:
        path = folder / ("x.safetensors" if content[:1] in (b"{", b"w") else "x.pt")
        if content[:1] == b"p":
            with zipfile.ZipFile(path, "w") as archive:
                for name, part in {**parts, pickled: content[1:]}.items():
                    archive.writestr(name, part)
        elif content[:1] == b"{":
            try:
                told = {
                    key: value if isinstance(value, str) else json.dumps(value)
                    for key, value in json.loads(content).items()
                }
                save_torch_file(saved.model, path, told)
            except Exception:  # noqa: BLE001 (no file can say this)
                return
        else:
            path.write_bytes(content[1:])
        with contextlib.suppress(checkpoint.CheckpointError):
            loaded = checkpoint.load(path)
            with contextlib.suppress(ValueError):
                from_plain(loaded.recipe)
            for check, ours in (
                (fit.check_classes, saved.categories),
                (fit.check_model, model),
                (fit.check_recipe, recipe),
            ):
                with contextlib.suppress(checkpoint.CheckpointError):
                    check(loaded, ours, path)

    with safe_open(weights, framework="pt") as tensors:
        header = {key: value if key == "format" else json.loads(value) for key, value in tensors.metadata().items()}
    return [text(header), b"w" + weights.read_bytes(), b"z" + whole.read_bytes(), b"p" + parts[pickled]], use


def right(*_: object) -> str:
    return "right"


def caches(folder: Path) -> tuple[list[bytes], Use]:
    """Reads a cache file with a right checksum; an input is its metadata and its arrays."""
    os.environ["TAILSEG_HOME"] = str(folder)
    cache.MIN_CACHED_BYTES, cache.SETTLED_SECONDS = 0, 0.0
    mock.patch.object(cache, "_checksum", right).start()
    path = folder / "set.json"
    path.write_bytes(text(DATASET))
    dataset = read_dataset(path)
    file = cache.get_cache_file(folder / "annotations", dataset.key)
    arrays = cache.map_arrays(file, cache.DTYPES)
    with safe_open(file, framework="pt") as tensors:
        metadata = tensors.metadata()

    def use(content: bytes) -> None:
        try:
            told, lists = json.loads(content)
            forged = {
                name: np.asarray(lists[name], np.uint8 if dtype is np.bool_ else dtype).view(dtype)
                for name, dtype in cache.DTYPES.items()
            }
            file.unlink(missing_ok=True)
            save_file(forged, file, told)
        except Exception:  # noqa: BLE001 (no cache file can say this)
            return
        with contextlib.suppress(ValueError):  # polygons are looked at when they are used
            look_at(read_dataset(path))

    return [text([metadata, {name: array.tolist() for name, array in arrays.items()}])], use


TARGETS = {
    "annotations": annotations,
    "results": results,
    "run_lengths": run_lengths,
    "polygons": polygons,
    "checkpoint": checkpoints,
    "cache": caches,
}


def mutated(content: bytes, longest: int, seed: int) -> bytes:
    """Mutates JSON mostly by removing, doubling or replacing values; otherwise, and for other files, by bytes."""
    chance = random.Random(seed)
    try:
        value = json.loads(content) if chance.random() < 0.8 else None
    except (ValueError, RecursionError):
        value = None
    spots = list(places(value))
    if not spots:
        return atheris.Mutate(content, longest)
    for inside, key in chance.choices(spots, k=chance.choice([1, 1, 2, 4])):
        other, at = chance.choice(spots)
        how = chance.randrange(6)
        with contextlib.suppress(LookupError, OverflowError):  # an earlier change has taken it away
            if how == 0:
                del inside[key]
            elif how == 1 and isinstance(inside, list):
                inside.insert(key, deepcopy(inside[key]))
            elif how == 2 and type(inside[key]) in (int, float):
                inside[key] += chance.choice([-1000, -1, -0.5, 0.5, 1, 1000])
            else:
                inside[key] = deepcopy(other[at]) if how == 3 else chance.choice(NASTY)
    changed = text(value)
    return changed if len(changed) <= longest else atheris.Mutate(content, longest)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Lists every list and dictionary in a value, with each of its keys."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from places(inner)


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or arguments[0] not in TARGETS:
        print(__doc__)
        return 2
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    (folder / "corpus").mkdir()
    seeds, use = TARGETS[arguments[0]](folder)
    if len(arguments) == 2 and not arguments[1].isdecimal():
        use(Path(arguments[1]).read_bytes())
        return 0
    for i, seed in enumerate(seeds):
        (folder / "corpus" / str(i)).write_bytes(seed)
    limits = ["-timeout=10", "-rss_limit_mb=3000", f"-max_total_time={[*arguments, '60'][1]}", f"-max_len={LONGEST}"]
    atheris.Setup(["fuzz", *limits, f"-artifact_prefix={folder}/", str(folder / "corpus")], use, custom_mutator=mutated)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
