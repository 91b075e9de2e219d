"""Images of a validation set that the training set has as well; `tailseg data check TRAIN --val VAL` looks for them.

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
"""Shows how far a loop is: over the same items, with a title and how many they are."""

COMPARED_SIDE: Final = 24
"""Pixels of a picture's side when it is compared by its looks."""

MAX_CHANGE: Final = 16.0
"""Gray values by which neighboring pixels differ at most: the edges of a black frame must not outweigh the picture."""

MIN_CORRELATION: Final = 0.95
"""Correlation of these differences from which on two pictures look the same. Copies of half the size, as JPEG at
quality 60, have 0.976 and more; other pictures up to 0.24, or 0.92 where all of them show fog with the same letters."""

MIN_SQUARES: Final = 8.0
"""Sum of squares of these differences below which a picture shows nothing to compare."""

IMAGES_PER_BLOCK: Final = 256
"""Validation images compared at a time with all training images: bounds the memory."""


def track_silently(items: Iterable[int], _title: str, _total: int) -> Iterable[int]:
    """Shows nothing; see `Track`."""
    return items


def find_leaks(
    train: Annotations, val: Annotations, *, decode: bool, track: Track = track_silently
) -> tuple[Problem, ...]:
    """What both have: file names, contents, videos and, if ``decode``, looks; and how their classes differ.

    Contents are compared where the files are found and have the same size in bytes. A name that stands for two
    different pictures is no leak.
    """
    problems = Problems()
    names, files = zip(*((_get_names(part), _find_files(part)) for part in (train, val)), strict=True)
    place = {name: index for index, name in enumerate(names[0]) if name}
    same_content = _find_same_content(files)
    by_name = [
        index
        for index, name in enumerate(names[1])
        if name in place and (None in (files[1][index], files[0][place[name]]) or index in same_content)
    ]
    problems.add("leak_names", by_name, names[1].__getitem__)
    found = set(by_name)
    by_content = sorted(same_content.keys() - found)
    problems.add(
        "leak_content", by_content, lambda index: f"{names[1][index]} has that of {names[0][same_content[index]]}"
    )
    found |= same_content.keys()
    problems.add("leak_scenes", _find_shared_scenes(names, train), str)
    if decode:
        alike = _find_similar(files, found, track)
        problems.add("leak_pixels", list(alike), lambda index: f"{names[1][index]} looks like {names[0][alike[index]]}")
    problems.add("classes_differ", _describe_class_differences(train, val))
    return tuple(problems.entries)


def _get_names(annotations: Annotations) -> list[str]:
    """Of the images' files, as written."""
    return [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]


def _find_files(annotations: Annotations) -> list[Path | None]:
    """The images' files; None for one that is not found."""
    files: list[Path | None] = []
    for row in range(annotations.num_images):
        try:
            files.append(annotations.finder.find(annotations.names.text(row).split("\n")))
        except ImageError:
            files.append(None)
    return files


def _find_same_content(files: Sequence[Sequence[Path | None]]) -> dict[int, int]:
    """Validation images with the content of a training image, and which that is."""
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
    """Videos and pictures with images of other names in both files."""
    shown = find_scenes([*names[0], *names[1]], [category.name for category in train.categories])
    frames: defaultdict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for index, (scene, name) in enumerate(zip(shown, [*names[0], *names[1]], strict=True)):
        frames[scene][index >= len(names[0])].add(name)
    return [scene for scene, (ours, theirs) in frames.items() if scene and ours and theirs and len(ours | theirs) > 1]


def _find_similar(files: Sequence[Sequence[Path | None]], known: set[int], track: Track) -> dict[int, int]:
    """Validation images that look like a training image, and like which; without those that are known already."""
    train = [index for index, path in enumerate(files[0]) if path]
    val = [index for index, path in enumerate(files[1]) if path and index not in known]
    both = zip(files, (train, val), strict=True)
    paths = [path for part, kept in both for index in kept if (path := part[index]) is not None]
    looks = np.zeros((len(paths), 2 * (COMPARED_SIDE - 1) ** 2), np.float32)
    for row in track(range(len(paths)), "Comparing the pictures", len(paths)):
        looks[row] = _compute_changes(paths[row])
    ours, theirs = looks[: len(train)], looks[len(train) :]
    found: dict[int, int] = {}
    for start in range(0, len(theirs) if len(ours) else 0, IMAGES_PER_BLOCK):
        alike = theirs[start : start + IMAGES_PER_BLOCK] @ ours.T
        nearest = alike.argmax(axis=1)
        for row in np.flatnonzero(alike.max(axis=1) >= MIN_CORRELATION).tolist():
            found[val[start + row]] = train[nearest[row]]
    return found


def _compute_changes(path: Path) -> np.ndarray:
    """How a small gray picture changes to the right and downwards, a unit vector; 0 for one that shows nothing."""
    from PIL import Image

    try:
        with open_picture(path) as picture:
            picture.draft("L", (8 * COMPARED_SIDE, 8 * COMPARED_SIDE))  # JPEG is decoded at a fraction of its size
            gray = np.asarray(
                picture.convert("L").resize((COMPARED_SIDE, COMPARED_SIDE), Image.Resampling.BOX), np.float32
            )
    except Exception:  # noqa: BLE001 - damaged files meet exceptions of many kinds, and `data check` names them
        return np.zeros(2 * (COMPARED_SIDE - 1) ** 2, np.float32)
    corner = gray[:-1, :-1]
    changes = np.concatenate([(gray[:-1, 1:] - corner).ravel(), (gray[1:, :-1] - corner).ravel()]).clip(
        -MAX_CHANGE, MAX_CHANGE
    )
    squares = changes @ changes
    return changes / np.sqrt(squares) if squares > MIN_SQUARES else np.zeros_like(changes)


def _describe_class_differences(train: Annotations, val: Annotations) -> list[str]:
    """The classes that only one of the two has, by id and name; of one that has another id there, both."""
    ours, theirs = ({(category.id, category.name) for category in part.categories} for part in (train, val))
    found = []
    for key, name in sorted(ours ^ theirs):
        mine, others, here = (ours, theirs, "training") if (key, name) in ours else (theirs, ours, "validation")
        ids = [other for other, same in others if same == name and (other, same) not in mine]
        if not ids:
            found.append(f"{key} {name!r:.60}, only in the {here} file")
        elif here == "training":
            found.append(f"{name!r:.60} is {key} in the training file and {ids[0]} in the validation file")
    return found
