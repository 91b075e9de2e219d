"""Finds images of a validation set that are also in the training set: `tailseg data check TRAIN --val VAL`.

Shapes: N images.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import open_picture
from tailseg.annotations.problems import Problem, Problems
from tailseg.annotations.videos import find_scenes

Track = Callable[[Iterable[int], str, int], Iterable[int]]
"""Shows the progress of a loop: takes the items, a title and the number of items, and returns the items."""

COMPARED_SIDE: Final = 24
"""Side in pixels of the small images whose looks are compared."""

MAX_CHANGE: Final = 16.0
"""Limit of the difference of neighboring gray values: the edges of a black frame should not dominate."""

MIN_CORRELATION: Final = 0.95
"""Least correlation of these differences for images that look the same. Copies of half the size, as JPEG with quality
60, have 0.976 or more; different images have up to 0.24, or 0.92 if all of them show fog with the same letters."""

MIN_SQUARES: Final = 8.0
"""Least sum of squares of these differences: an image below it shows too little for a comparison."""

IMAGES_PER_BLOCK: Final = 256
"""Validation images that are compared together with all training images: this limits the memory."""


def track_silently(items: Iterable[int], _title: str, _total: int) -> Iterable[int]:
    """Returns the items without showing progress; see `Track`."""
    return items


def find_leaks(
    train: Annotations, val: Annotations, *, decode: bool, track: Track = track_silently
) -> tuple[Problem, ...]:
    """Finds images that are in both data sets, and differences of their classes.

    Images are compared by file names, contents and videos. Contents are compared if both files are found and have the
    same size in bytes. The same name for two different images is not a leak.

    Args:
        train: the training set.
        val: the validation set.
        decode: whether the looks of the images are compared, too.
        track: shows the progress.

    Returns:
        The problems, all of them notes.
    """
    problems = Problems()
    names, files = zip(*((_get_names(dataset), _find_files(dataset)) for dataset in (train, val)), strict=True)
    train_index = {name: index for index, name in enumerate(names[0]) if name}
    same_content = _find_same_content(files)
    by_name = [
        index
        for index, name in enumerate(names[1])
        if name in train_index and (None in (files[1][index], files[0][train_index[name]]) or index in same_content)
    ]
    problems.add("leak_names", by_name, names[1].__getitem__)
    reported = set(by_name)
    by_content = sorted(same_content.keys() - reported)
    problems.add(
        "leak_content",
        by_content,
        lambda index: f"{names[1][index]} has the content of {names[0][same_content[index]]}",
    )
    reported |= same_content.keys()
    problems.add("leak_scenes", _find_shared_scenes(names, train), str)
    if decode:
        similar = _find_similar(files, reported, track)
        problems.add(
            "leak_pixels", list(similar), lambda index: f"{names[1][index]} looks like {names[0][similar[index]]}"
        )
    problems.add("classes_differ", _describe_class_differences(train, val))
    return tuple(problems.entries)


def _get_names(annotations: Annotations) -> list[str]:
    """The names of the image files, as written."""
    return [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]


def _find_files(annotations: Annotations) -> list[Path | None]:
    """The image files; None for a file that is not found."""
    files: list[Path | None] = []
    for row in range(annotations.num_images):
        try:
            files.append(annotations.finder.find(annotations.names.text(row).split("\n")))
        except ImageError:
            files.append(None)
    return files


def _find_same_content(files: Sequence[Sequence[Path | None]]) -> dict[int, int]:
    """Finds validation images with the content of a training image.

    Returns:
        The index of the training image, by the index of the validation image.
    """
    sizes = [[path.stat().st_size if path else -1 for path in part] for part in files]
    both = {*sizes[0]} & {*sizes[1]} - {-1}
    hashes = [
        {
            index: hashlib.sha256(path.read_bytes()).digest()
            for index, (path, size) in enumerate(zip(part, part_sizes, strict=True))
            if path and size in both
        }
        for part, part_sizes in zip(files, sizes, strict=True)
    ]
    first = {digest: index for index, digest in reversed(hashes[0].items())}
    return {index: first[digest] for index, digest in hashes[1].items() if digest in first}


def _find_shared_scenes(names: Sequence[list[str]], train: Annotations) -> list[str]:
    """Finds videos and augmented pictures with images of different names in both files."""
    image_scenes = find_scenes([*names[0], *names[1]], [category.name for category in train.categories])
    frames: defaultdict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for index, (scene, name) in enumerate(zip(image_scenes, [*names[0], *names[1]], strict=True)):
        frames[scene][index >= len(names[0])].add(name)
    return [scene for scene, (ours, theirs) in frames.items() if scene and ours and theirs and len(ours | theirs) > 1]


def _find_similar(files: Sequence[Sequence[Path | None]], reported: set[int], track: Track) -> dict[int, int]:
    """Finds validation images that look like a training image, except those already reported.

    Returns:
        The index of the training image, by the index of the validation image.
    """
    train = [index for index, path in enumerate(files[0]) if path]
    val = [index for index, path in enumerate(files[1]) if path and index not in reported]
    both = zip(files, (train, val), strict=True)
    paths = [path for part, indices in both for index in indices if (path := part[index]) is not None]
    looks = np.zeros((len(paths), 2 * (COMPARED_SIDE - 1) ** 2), np.float32)
    for row in track(range(len(paths)), "Comparing the images", len(paths)):
        looks[row] = _compute_changes(paths[row])
    ours, theirs = looks[: len(train)], looks[len(train) :]
    similar: dict[int, int] = {}
    for start in range(0, len(theirs) if len(ours) else 0, IMAGES_PER_BLOCK):
        correlations = theirs[start : start + IMAGES_PER_BLOCK] @ ours.T
        nearest = correlations.argmax(axis=1)
        for row in np.flatnonzero(correlations.max(axis=1) >= MIN_CORRELATION).tolist():
            similar[val[start + row]] = train[nearest[row]]
    return similar


def group_by_looks(files: Sequence[Path | None], track: Track = track_silently) -> np.ndarray:
    """Groups images that look alike, such as neighboring frames or copies with another size or compression.

    Args:
        files: the image files; an image without one has its own group.
        track: shows the progress.

    Returns:
        int64 ``[images]``: the group of each image.
    """
    looks = np.zeros((len(files), 2 * (COMPARED_SIDE - 1) ** 2), np.float32)
    for row in track(range(len(files)), "Comparing the images", len(files)):
        if (path := files[row]) is not None:
            looks[row] = _compute_changes(path)
    groups = np.arange(len(files))
    for start in range(0, len(files), IMAGES_PER_BLOCK):
        pairs = np.argwhere(looks[start : start + IMAGES_PER_BLOCK] @ looks.T >= MIN_CORRELATION)
        for row, other in (pairs + [start, 0]).tolist():
            if row < other:
                groups[groups == groups[other]] = groups[row]
    return np.unique(groups, return_inverse=True)[1]


def _compute_changes(path: Path) -> np.ndarray:
    """The changes of a small gray image to the right and downwards as a unit vector; 0 if it shows too little."""
    from PIL import Image

    try:
        with open_picture(path) as picture:
            picture.draft("L", (8 * COMPARED_SIDE, 8 * COMPARED_SIDE))  # JPEG is decoded at a fraction of the size
            gray = np.asarray(
                picture.convert("L").resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BOX), np.float32
            )
    except Exception:  # noqa: BLE001 - damaged files raise many kinds of exceptions; `data check` reports them
        return np.zeros(2 * (COMPARED_SIDE - 1) ** 2, np.float32)
    corner = gray[:-1, :-1]
    changes = np.concatenate([(gray[:-1, 1:] - corner).ravel(), (gray[1:, :-1] - corner).ravel()]).clip(
        -MAX_CHANGE, MAX_CHANGE
    )
    squares = changes @ changes
    return changes / np.sqrt(squares) if squares > MIN_SQUARES else np.zeros_like(changes)


def _describe_class_differences(train: Annotations, val: Annotations) -> list[str]:
    """Describes the classes that only one of the two files has, and those with another id in the other file."""
    ours, theirs = ({(category.id, category.name) for category in dataset.categories} for dataset in (train, val))
    texts = []
    for key, name in sorted(ours ^ theirs):
        mine, others, here = (ours, theirs, "training") if (key, name) in ours else (theirs, ours, "validation")
        ids = [other for other, same in others if same == name and (other, same) not in mine]
        if not ids:
            texts.append(f"{key} {name!r:.60}, only in the {here} file")
        elif here == "training":
            texts.append(f"{name!r:.60} is {key} in the training file and {ids[0]} in the validation file")
    return texts
