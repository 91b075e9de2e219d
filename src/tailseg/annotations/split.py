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
    table = _Table.count(annotations, groups, num_groups)
    chosen = _stratify(table, sizes, np.array(shares) / sum(shares), random.Random(seed))
    holders = _count_holders(table, chosen, len(shares))
    _move_for_classes(table, holders, chosen, folds=folds)
    on_both_sides = (holders > 0).sum(axis=0) >= 2 if folds else (holders[:2] > 0).all(axis=0)
    num_holders = holders.sum(axis=0)
    names = [category.name for category in annotations.categories]
    divided, alone = np.flatnonzero((num_holders >= 2) & ~on_both_sides), np.flatnonzero(num_holders == 1)
    return Split(chosen[groups], groups, tuple(names[i] for i in divided), tuple(names[i] for i in alone))


@dataclass(frozen=True)
class _Table:
    """The images with each class in each group; only pairs that occur, of which LVIS has a hundredth.

    Attributes:
        groups, labels: int64 ``[pairs]``: the pairs, sorted by group.
        counts: float64 ``[pairs]``: the images of the group with the class.
        starts: int64 ``[G + 1]``: the first pair of each group.
        num_classes: C.
    """

    groups: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    starts: np.ndarray
    num_classes: int

    @classmethod
    def count(cls, annotations: Annotations, groups: np.ndarray, num_groups: int) -> "_Table":
        objects, num_classes = annotations.objects, annotations.num_classes
        images, labels = objects.images[objects.trainable], objects.labels[objects.trainable]
        in_images = np.unique(images.astype(np.int64) * num_classes + labels)
        keys = groups[in_images // num_classes] * num_classes + in_images % num_classes
        keys, counts = np.unique(keys, return_counts=True)
        pair_groups = keys // num_classes
        starts = np.searchsorted(pair_groups, np.arange(num_groups + 1))
        return cls(pair_groups, keys % num_classes, counts.astype(np.float64), starts, num_classes)

    def of(self, group: int) -> slice:
        """The pairs of a group."""
        return slice(int(self.starts[group]), int(self.starts[group + 1]))

    def sum(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The sum of the pairs' weights (1 without them) of each class, ``[C]``."""
        return np.bincount(self.labels, weights, minlength=self.num_classes)

    def find(self, label: int) -> np.ndarray:
        """The pairs of a class, by group."""
        return np.flatnonzero(self.labels == label)

    def mark(self, groups: Sequence[int]) -> np.ndarray:
        """Marks the classes of some groups, int8 ``[len(groups), C]``."""
        has = np.zeros((len(groups), self.num_classes), np.int8)
        for row, group in enumerate(groups):
            has[row, self.labels[self.of(group)]] = 1
        return has


def _stratify(table: _Table, sizes: np.ndarray, shares: np.ndarray, rng: random.Random) -> np.ndarray:
    """Assigns each group a part, int64 ``[G]``."""
    order = list(range(len(sizes)))
    rng.shuffle(order)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    wanted = shares[:, None] * table.sum(table.counts)
    wanted_sizes = shares * sizes.sum()
    chosen = np.full(len(sizes), -1)
    present = np.zeros(wanted.shape, bool)
    holders = table.sum()  # the groups of each class that have no part yet
    while holders.any():
        label = int(np.where(holders > 0, holders, np.iinfo(np.int64).max).argmin())
        pairs = table.find(label)
        pairs = pairs[chosen[table.groups[pairs]] < 0]
        for pair in pairs[np.lexsort((rank[table.groups[pairs]], -table.counts[pairs]))].tolist():
            group = int(table.groups[pair])
            key = [(not present[p, label], wanted[p, label], wanted_sizes[p], -p) for p in range(len(shares))]
            part = max(range(len(shares)), key=key.__getitem__)
            chosen[group] = part
            of_group = table.of(group)
            wanted[part, table.labels[of_group]] -= table.counts[of_group]
            present[part, table.labels[of_group]] = True
            holders[table.labels[of_group]] -= 1
            wanted_sizes[part] -= sizes[group]
    for group in sorted(np.flatnonzero(chosen < 0).tolist(), key=lambda group: (-sizes[group], rank[group])):
        part = int(wanted_sizes.argmax())  # of groups without objects
        chosen[group] = part
        wanted_sizes[part] -= sizes[group]
    return chosen


def _count_holders(table: _Table, chosen: np.ndarray, num_parts: int) -> np.ndarray:
    """Counts the groups of each part with each class, int64 ``[P, C]``."""
    keys = chosen[table.groups] * table.num_classes + table.labels
    return np.bincount(keys, minlength=num_parts * table.num_classes).reshape(num_parts, -1)


def _move_for_classes(table: _Table, holders: np.ndarray, chosen: np.ndarray, *, folds: bool) -> None:
    """Moves groups where a class would otherwise be missing in a part, see `_count_missing`.

    A group moves, alone or in exchange for another one, if then fewer classes are missing.

    Args:
        table: the classes of the groups.
        holders: from `_count_holders`; changed with `chosen`.
        chosen: the part of each group; changed.
        folds: whether the parts are folds.
    """
    number = holders.sum(axis=0)
    shared = number >= 2
    parts = range(len(holders))
    for label in np.argsort(number, kind="stable").tolist():
        for part in parts if folds else (0, 1):
            if holders[part, label] or not shared[label] or (folds and (holders[:, label] > 0).sum() > 1):
                continue
            exchanged = np.flatnonzero(chosen == part)[:MAX_EXCHANGED].tolist()
            groups = table.groups[table.find(label)].tolist()
            back, gone = table.mark(exchanged), table.mark(groups)
            back = np.concatenate([np.zeros_like(back, shape=(1, table.num_classes)), back])
            found = []
            for group, has in zip(groups, gone, strict=True):
                signs = np.array([(side == part) - (side == int(chosen[group])) for side in parts])[:, None, None]
                missing = _count_missing(holders[:, None] + signs * (has - back), shared, folds=folds)
                best = int(np.argmin(missing))
                found.append((int(missing[best]), best > 0, int(has.sum()), group, best))
            least, _, _, group, best = min(found)
            if least < _count_missing(holders[:, None], shared, folds=folds)[0]:
                if best:
                    chosen[exchanged[best - 1]] = chosen[group]
                chosen[group] = part
                holders[:] = _count_holders(table, chosen, len(holders))


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
