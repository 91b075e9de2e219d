"""Cut-outs of the objects of a training set, for copy-paste: a file that all loader processes map.

The file is ``$TAILSEG_HOME/cutouts/<key>.safetensors`` (``~/.cache/tailseg/cutouts``). The key is a hash of what
training uses of the annotations, of the image files (name, size and time of modification), and of the limits. So every
run on the same training set takes the same file, and a changed training set gets another one. The folder may be deleted
at any time.

A cut-out is the whole annotated mask of one object: RGB and mask of the smallest rectangle around it, with a margin of
two pixels for blurred edges. A crowd region, an object without a mask, or one of fewer than ``MIN_PIXELS`` gives none.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Int64, UInt8
from safetensors import SafetensorError
from torchvision.transforms.v2 import functional

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.fingerprint import compute_fingerprint
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.kinds import BITS
from tailseg.annotations.ragged import compute_offsets, map_arrays, write_arrays
from tailseg.annotations.types import ImageInfo
from tailseg.data.images import read_annotated
from tailseg.data.workers import Workers
from tailseg.files import get_cache_folder, write_atomically
from tailseg.ops.masks import Region, decode_mask, find_extents, rasterize
from tailseg.structures import Frame

VERSION: Final = "1"
"""Version of the file's format and of the choice of the objects."""
MIN_PIXELS: Final = 25
"""Least number of pixels of a mask that is cut out."""
MAX_SIDE: Final = 512
"""Longest side of a stored cut-out in pixels; a larger object is stored smaller."""
MARGIN: Final = 2
"""Pixels around the mask that are stored with it: as far as the blur of an edge reaches."""
MEGABYTE: Final = 10**6
LOCK_TIMEOUT: Final = 3600.0
"""Seconds to wait for another process that cuts out the same objects."""

ARRAYS: Final = ("pixels", "offsets", "shapes", "sizes", "image_sizes", "labels", "areas")

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Shows progress: gets items, a title and their number, returns the items."""


@dataclass(frozen=True, eq=False)
class Cutouts:
    """All cut-outs of a training set; ``M`` objects, ordered by class.

    Attributes:
        pixels: uint8, the stored ``[h, w, 4]`` of all objects, one after the other.
        offsets: int64 ``[M + 1]``: object ``m`` has the pixels ``offsets[m] : offsets[m + 1]``.
        shapes: int64 ``[M, 2]``: height and width as stored.
        sizes: int64 ``[M, 2]``: height and width in the original image.
        image_sizes: int64 ``[M, 2]``: height and width of that image.
        labels: int64 ``[M]``.
        areas: int64 ``[M]``: pixels of the mask in the original image; 0 for an object that could not be cut out.
    """

    pixels: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray
    sizes: np.ndarray
    image_sizes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 4"]:
        """The colors and the mask (0 or 255) of object ``index``, as stored."""
        height, width = self.shapes[index].tolist()
        return np.asarray(self.pixels[self.offsets[index] : self.offsets[index + 1]]).reshape(height, width, 4)


def open_cutouts(
    annotations: Annotations,
    *,
    objects_per_class: int,
    max_megabytes: int,
    workers: int = 0,
    track: Track = lambda items, _title, _total: items,
) -> Cutouts:
    """Maps the cut-outs of a training set, and makes them first if nobody has made them.

    Args:
        annotations: the training set.
        objects_per_class: the largest number of cut-outs of a class; they are chosen at random, always the same ones.
        max_megabytes: the largest size of all of them; every class has fewer if necessary.
        workers: loader processes that read the images; 0 reads them in this process.
        track: shows the progress.

    Returns:
        The cut-outs. They are in memory if the file cannot be written.

    Raises:
        ValueError: the training set has no object with a mask that can be cut out.
    """
    rows, regions, shapes = choose_objects(annotations, objects_per_class, max_megabytes * MEGABYTE)
    if not len(rows):
        raise ValueError(
            f"data.paste: {annotations.path} has no object with a mask of {MIN_PIXELS} pixels or more, so there is "
            "nothing to paste. Leave out --data.paste, or use annotations with masks"
        )
    images = annotations.objects.images[rows]
    key = _compute_key(annotations, rows, np.unique(images))
    try:
        folder = get_cache_folder() / "cutouts"
    except OSError as error:
        warnings.warn(f"the cut-outs for data.paste are made for each run: {error}", stacklevel=2)
        return _cut_out(annotations, rows, regions, shapes, workers, track)
    file = folder / f"{key}.safetensors"
    if (cutouts := _load(file)) is not None:
        return cutouts
    lock = FileLock(folder / f"{key}.lock", timeout=LOCK_TIMEOUT)
    held = False
    with suppress(OSError, NotImplementedError):  # without locks in the file system, two processes may make it
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        held = True
    try:
        if (cutouts := _load(file)) is not None:  # another process made it meanwhile
            return cutouts
        cutouts = _cut_out(annotations, rows, regions, shapes, workers, track)
        try:
            with write_atomically(file) as written:
                arrays = {name: getattr(cutouts, name) for name in ARRAYS}
                write_arrays(arrays, written, {"version": VERSION})
        except OSError as error:
            warnings.warn(
                f"{error}. The cut-outs for data.paste stay in memory; set TAILSEG_HOME to a folder with "
                f"{len(cutouts.pixels) / MEGABYTE:,.0f} MB of free space",
                stacklevel=2,
            )
            return cutouts
        return _load(file) or cutouts
    finally:
        if held:
            lock.release()


def choose_objects(
    annotations: Annotations, objects_per_class: int, max_bytes: int
) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, "M 4"], Int64[np.ndarray, "M 2"]]:
    """Chooses the objects that are cut out.

    Args:
        annotations: the training set.
        objects_per_class: the largest number of objects of a class.
        max_bytes: the largest number of bytes of all cut-outs.

    Returns:
        The rows of the objects, ordered by class; their rectangles in the image, with the margin; and the height and
        width that are stored.
    """
    objects = annotations.objects
    usable = objects.trainable & objects.masked & ((objects.faults & BITS["mask_empty"]) == 0)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(usable))
    rows = rows[np.argsort(objects.labels[rows], kind="stable")]
    ranks = _rank_in_groups(objects.labels[rows])
    rows, ranks = rows[ranks < objects_per_class], ranks[ranks < objects_per_class]
    regions, shapes = _measure(annotations, rows)
    fits = np.all(regions[:, 2:] > regions[:, :2], axis=1)
    rows, ranks, regions, shapes = rows[fits], ranks[fits], regions[fits], shapes[fits]
    sizes = 4 * shapes.prod(axis=1)
    sums = np.cumsum(np.bincount(ranks, weights=sizes, minlength=1))  # with one object of each class, with two ...
    allowed = max(1, int(np.searchsorted(sums, max_bytes, side="right")))
    chosen = ranks < allowed
    return rows[chosen], regions[chosen], shapes[chosen]


def _rank_in_groups(labels: np.ndarray) -> np.ndarray:
    """The position of each row among the rows of its label; the labels are sorted."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    return np.arange(len(labels)) - np.repeat(starts, np.diff(starts, append=len(labels)))


def _measure(annotations: Annotations, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rectangle of each mask with its margin, within the image, and the height and width that are stored."""
    images = annotations.objects.images[rows].tolist()
    masks = [annotations.get_segmentation(row, image) for row, image in zip(rows.tolist(), images, strict=True)]
    extents = find_extents(masks, [Frame()] * len(masks))
    outwards = np.concatenate([np.floor(extents[:, :2]) - MARGIN, np.ceil(extents[:, 2:]) + MARGIN], axis=1)
    limits = np.tile(annotations.sizes[images][:, ::-1], 2)
    regions = np.clip(outwards, 0, limits).astype(np.int64)
    sizes = (regions[:, 2:] - regions[:, :2])[:, ::-1]
    scale = np.minimum(1, MAX_SIDE / np.maximum(sizes.max(axis=1, keepdims=True, initial=1), 1))
    return regions, np.maximum(1, np.round(sizes * scale)).astype(np.int64)


def _compute_key(annotations: Annotations, rows: np.ndarray, images: np.ndarray) -> str:
    """A hash of the annotations, of the chosen objects and of their images."""
    digest = hashlib.sha256(f"{VERSION} {MIN_PIXELS} {MAX_SIDE} {MARGIN} {annotations.orientation}".encode())
    digest.update(compute_fingerprint(annotations).encode())
    digest.update(np.ascontiguousarray(rows).data)
    for index in images.tolist() if annotations.source is None else []:
        with suppress(ImageError, OSError):
            file = Path(annotations.get_info(index).file)
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    if annotations.source is not None:  # images that a program makes: the first ones stand for all
        for index in images[:4].tolist():
            with suppress(ImageError):
                digest.update(read_annotated(annotations, annotations.get_info(index))[0].numpy().tobytes())
    return digest.hexdigest()


def _load(file: Path) -> Cutouts | None:
    """Maps a file of cut-outs; None if there is none, or if its parts do not fit together."""
    try:
        cutouts = Cutouts(**map_arrays(file, ARRAYS))
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    lengths = 4 * cutouts.shapes.prod(axis=1)
    fits = np.array_equal(cutouts.offsets, compute_offsets(lengths)) and cutouts.offsets[-1] == len(cutouts.pixels)
    return cutouts if fits else None


class _Task(NamedTuple):
    """The objects of one image: their positions among all cut-outs, their rows, rectangles and stored sizes."""

    image: int
    positions: list[int]
    rows: list[int]
    regions: list[Region]
    shapes: list[tuple[int, int]]


def _cut_out(
    annotations: Annotations, rows: np.ndarray, regions: np.ndarray, shapes: np.ndarray, workers: int, track: Track
) -> Cutouts:
    """Reads the images and cuts out the objects."""
    objects = annotations.objects
    images = objects.images[rows]
    offsets = compute_offsets(4 * shapes.prod(axis=1))
    pixels, areas = np.zeros(offsets[-1], np.uint8), np.zeros(len(rows), np.int64)
    order = np.argsort(images, kind="stable").tolist()
    tasks = [
        _Task(
            image,
            (places := list(group)),
            rows[places].tolist(),
            [(r[0], r[1], r[2], r[3]) for r in regions[places].tolist()],
            [(s[0], s[1]) for s in shapes[places].tolist()],
        )
        for image, group in groupby(order, key=lambda place: int(images[place]))
    ]
    make = _Cutter(annotations)
    pool = Workers(make, min(workers, len(tasks))) if workers else None
    results: Iterator[Any] = pool.map(tasks, say=lambda _line: None, check=lambda: None) if pool else map(make, tasks)
    try:
        for task, made in track(zip(tasks, results, strict=True), "Cutting out objects", len(tasks)):
            for place, (rgba, area) in zip(task.positions, made, strict=True):
                pixels[offsets[place] : offsets[place + 1]] = rgba.reshape(-1)
                areas[place] = area
    finally:
        if pool:
            pool.stop()
    return Cutouts(
        pixels=pixels,
        offsets=offsets,
        shapes=shapes,
        sizes=(regions[:, 2:] - regions[:, :2])[:, ::-1].copy(),
        image_sizes=annotations.sizes[images],
        labels=objects.labels[rows],
        areas=areas,
    )


class _Cutter:
    """Cuts out the objects of an image. An image that cannot be read gives none: training names it when it needs it."""

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations

    def __call__(self, task: _Task) -> list[tuple[np.ndarray, int]]:
        try:
            info: ImageInfo = self.annotations.get_info(task.image)
            image = read_annotated(self.annotations, info)[0]
        except ImageError:
            return [(np.zeros((*shape, 4), np.uint8), 0) for shape in task.shapes]
        made = []
        for row, region, shape in zip(task.rows, task.regions, task.shapes, strict=True):
            left, top, right, bottom = region
            mask = decode_mask(rasterize(self.annotations.get_segmentation(row, task.image), Frame(), region))
            area = int(np.count_nonzero(mask))
            rgba = torch.cat([image[:, top:bottom, left:right], torch.from_numpy(mask).to(torch.uint8)[None] * 255])
            if rgba.shape[-2:] != shape:
                rgba = functional.resize(rgba, list(shape), antialias=True)
            made.append((rgba.permute(1, 2, 0).contiguous().numpy(), area if area >= MIN_PIXELS else 0))
        return made
