"""Splits a data set with a long tail: every class on both sides, groups of images together, classes in proportion.

The split is iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data",
ECML PKDD 2011) of groups of images: the class with the fewest groups comes first, and each of its groups goes to the
part that still needs the class most. Here a part without the class comes before a part that has it.

Shapes: G groups, C classes, P parts.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.formats.registry import read_images, read_sections
from tailseg.annotations.groups import group_by_content, group_by_name, merge_groups
from tailseg.annotations.image_files import ImageError
from tailseg.annotations.json_file import decode_record, join_sections
from tailseg.annotations.leaks import Track, group_by_looks, track_silently
from tailseg.annotations.problems import DatasetError
from tailseg.files import write_bytes
from tailseg.words import count_noun

MAX_EXCHANGED: Final = 500
"""Groups that are tried in exchange for another one: memory, and in a large data set single groups can move."""


@dataclass(frozen=True)
class Split:
    """The parts of a data set.

    Attributes:
        parts: int64 ``[images]``: the part of each image.
        groups: int64 ``[images]``: the group of each image.
        divided: the classes that have at least two groups and are not in both of the first two parts, or with folds, in
            one fold only.
        alone: the classes with objects in one group only.
    """

    parts: np.ndarray
    groups: np.ndarray
    divided: tuple[str, ...]
    alone: tuple[str, ...]


def find_groups(
    annotations: Annotations, *, by: str | None = None, looks: bool = False, track: Track = track_silently
) -> np.ndarray:
    """Finds the images that must stay in one part.

    Images with the same content or the same picture name always belong together.

    Args:
        annotations: the data set.
        by: a field of the image records, such as ``patient`` or ``site``, or a regular expression that is searched in
            the file names: images with the same match, or the same first group of it, belong together. None finds
            frames of videos by ``video_id``, if all records have it, and by their names.
        looks: whether images that look alike belong together, too.
        track: shows the progress of comparing looks.

    Returns:
        int64 ``[images]``: the group of each image.

    Raises:
        DatasetError: ``by`` is neither a field nor a regular expression that matches.
    """
    names = [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]
    files = [_find_file(annotations, row) for row in range(annotations.num_images)]
    groups = merge_groups(group_by_name(names, videos=False), group_by_content(files))
    if by is None:
        frames = group_by_name(names, [category.name for category in annotations.categories])
        if np.bincount(frames).max(initial=0) * 2 <= len(names):
            groups = merge_groups(groups, frames)
        videos = _read_field(annotations, "video_id")
        if None not in videos:
            groups = merge_groups(groups, np.unique(list(map(str, videos)), return_inverse=True)[1])
    else:
        values = _read_values(annotations, by, names)
        groups = merge_groups(groups, np.unique(values, return_inverse=True)[1])
    return merge_groups(groups, group_by_looks(files, track)) if looks else groups


def _find_file(annotations: Annotations, row: int) -> Path | None:
    try:
        return annotations.finder.find(annotations.names.text(row).split("\n"))
    except ImageError:
        return None


def _read_field(annotations: Annotations, name: str) -> list[Any]:
    records = {int(image["id"]): image for image in read_images(annotations.path)}
    return [records[key].get(name) for key in annotations.image_ids.tolist()]


def _read_values(annotations: Annotations, by: str, names: Sequence[str]) -> list[str]:
    values = _read_field(annotations, by)
    if any(value is not None for value in values):
        return [f"alone {row}" if value is None else f"value {value!r}" for row, value in enumerate(values)]
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise DatasetError(f"--by {by}: no image has this field, and it is no regular expression: {error}") from error
    matches = [pattern.search(name) for name in names]
    if not any(matches):
        raise DatasetError(f"--by {by}: no image has this field, and no file name matches it, such as {names[0]!r:.80}")
    return [
        f"alone {row}" if match is None else f"value {match[1] if pattern.groups else match[0]}"
        for row, match in enumerate(matches)
    ]


def split_groups(
    annotations: Annotations, groups: np.ndarray, shares: Sequence[float], *, seed: int = 0, folds: bool = False
) -> Split:
    """Splits groups of images into parts. The same input gives the same split.

    Args:
        annotations: the data set.
        groups: int64 ``[images]``, from `find_groups`.
        shares: the share of each part; their sum is the whole.
        seed: of the order of equally suitable groups.
        folds: whether each part is the validation set of the others, instead of training, validation and test.

    Returns:
        The split.

    Raises:
        DatasetError: there are fewer groups than parts.
    """
    num_groups = int(groups.max(initial=-1)) + 1
    if num_groups < len(shares):
        raise DatasetError(
            f"{annotations.path} has {count_noun(num_groups, 'group')} of images that belong together, fewer than "
            f"{len(shares)} parts. Choose smaller groups (--by)"
        )
    sizes = np.bincount(groups, minlength=num_groups).astype(np.float64)
    objects = annotations.objects
    rows = objects.trainable
    pairs = np.unique(np.stack([objects.images[rows], objects.labels[rows]]), axis=1)
    counts = np.zeros((num_groups, annotations.num_classes))
    np.add.at(counts, (groups[pairs[0]], pairs[1]), 1)
    chosen = _stratify(counts, sizes, np.array(shares) / sum(shares), random.Random(seed))
    _move_for_classes(counts > 0, chosen, folds=folds)
    has = np.stack([(counts[chosen == part] > 0).any(axis=0) for part in range(len(shares))])
    on_both_sides = has.sum(axis=0) >= 2 if folds else has[0] & has[1]
    num_holders = (counts > 0).sum(axis=0)
    names = [category.name for category in annotations.categories]
    return Split(
        chosen[groups],
        groups,
        tuple(name for name, both, number in zip(names, on_both_sides.tolist(), num_holders, strict=True)
              if number >= 2 and not both),
        tuple(name for name, number in zip(names, num_holders, strict=True) if number == 1),
    )  # fmt: skip


def _stratify(counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray, rng: random.Random) -> np.ndarray:
    """Assigns each group a part, int64 ``[G]``."""
    order = list(range(len(sizes)))
    rng.shuffle(order)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    wanted = shares[:, None] * counts.sum(axis=0)
    wanted_sizes = shares * sizes.sum()
    chosen = np.full(len(sizes), -1)
    while (chosen < 0).any():
        left = chosen < 0
        holders = (counts[left] > 0).sum(axis=0)
        if not holders.any():  # groups without objects
            for group in sorted(np.flatnonzero(left).tolist(), key=lambda group: (-sizes[group], rank[group])):
                part = int(wanted_sizes.argmax())
                chosen[group] = part
                wanted_sizes[part] -= sizes[group]
            break
        label = int(np.where(holders > 0, holders, np.iinfo(np.int64).max).argmin())
        members = np.flatnonzero(left & (counts[:, label] > 0)).tolist()
        for group in sorted(members, key=lambda group: (-counts[group, label], rank[group])):
            present = [bool((chosen[counts[:, label] > 0] == part).any()) for part in range(len(shares))]
            key = [(not present[p], wanted[p, label], wanted_sizes[p], -p) for p in range(len(shares))]
            part = max(range(len(shares)), key=key.__getitem__)
            chosen[group] = part
            wanted[part] -= counts[group]
            wanted_sizes[part] -= sizes[group]
    return chosen


def _move_for_classes(has: np.ndarray, chosen: np.ndarray, *, folds: bool) -> None:
    """Moves groups where a class would otherwise be missing in a part, see `_count_missing`.

    A group moves, alone or in exchange for another one, if then fewer classes are missing.
    """
    shared, number = has.sum(axis=0) >= 2, has.view(np.int8)
    parts = range(max(int(chosen.max()) + 1, 2))
    for label in np.argsort(has.sum(axis=0), kind="stable").tolist():
        for part in parts if folds else (0, 1):
            holders = np.flatnonzero(has[:, label])
            present = {*chosen[holders].tolist()}
            if part in present or not shared[label] or (folds and len(present) > 1):
                continue
            counts = np.stack([number[chosen == side].sum(axis=0) for side in parts])[:, None]
            exchanged = np.flatnonzero(chosen == part)[:MAX_EXCHANGED]
            back = np.concatenate([np.zeros_like(number[:1]), number[exchanged]])
            found = []
            for group in holders.tolist():
                signs = np.array([(side == part) - (side == int(chosen[group])) for side in parts])[:, None, None]
                missing = _count_missing(counts + signs * (number[group] - back), shared, folds=folds)
                best = int(np.argmin(missing))
                found.append((int(missing[best]), best > 0, int(number[group].sum()), group, best))
            least, _, _, group, best = min(found)
            if least < _count_missing(counts, shared, folds=folds)[0]:
                if best:
                    chosen[exchanged[best - 1]] = chosen[group]
                chosen[group] = part


def _count_missing(counts: np.ndarray, shared: np.ndarray, *, folds: bool) -> np.ndarray:
    """Counts the classes that are not in both of the first two parts, or with folds, in one part only.

    Args:
        counts: ``[P, K, C]``: the groups with each class, for K ways to split.
        shared: bool ``[C]``: whether the class has two groups.
        folds: whether the parts are folds.

    Returns:
        ``[K]``; a class that is in neither of the first two parts counts twice.
    """
    if folds:
        return (((counts > 0).sum(axis=0) < 2) & shared).sum(axis=-1)
    return ((counts[:2] == 0) & shared).sum(axis=(0, 2))


def write_parts(annotations: Annotations, parts: np.ndarray, files: Sequence[Path]) -> None:
    """Writes each part as an annotation file with all categories; records are as they were read.

    Args:
        annotations: the data set.
        parts: int64 ``[images]``: the part of each image.
        files: the file of each part.
    """
    sections = read_sections(annotations.path)
    part_by_image = dict(zip(annotations.image_ids.tolist(), parts.tolist(), strict=True))
    for part, file in enumerate(files):
        images = [image for image in sections.images if part_by_image[int(image["id"])] == part]
        ids = {int(image["id"]) for image in images}
        objects = [record for record in sections.annotations if _get_image(record) in ids]
        write_bytes(file, join_sections(images, objects, sections.categories, sections.header))


def _get_image(record: Any) -> int:  # noqa: ANN401 - a record, decoded or not
    return int(decode_record(record)["image_id"])
