"""A validation set for users who have only one annotation file. It is drawn once and belongs to the run."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import compress, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from tailseg.annotations.columns import parse_whole_number, read_columns
from tailseg.annotations.dataset import Annotations
from tailseg.annotations.formats.registry import read_sections
from tailseg.annotations.groups import group_by_content, group_by_name, merge_groups
from tailseg.annotations.image_files import ImageError, SharedNameError
from tailseg.annotations.json_file import join_sections
from tailseg.annotations.kinds import BITS, KINDS, Use
from tailseg.files import write_atomically
from tailseg.words import count_noun

HELD_OUT_SHARE = 0.1
"""Share of the images in the validation set."""

SplitPaths = tuple[Path, Path]
"""The annotation files of the training set and of the validation set."""


def hold_out_validation(
    annotations: Annotations, folder: Path, *, share: float = HELD_OUT_SHARE, use: Use = "masks"
) -> SplitPaths:
    """Splits a data set into the annotation files ``folder/train.json`` and ``folder/val.json``.

    The validation set gets ``share`` of the images with objects, and the same share of the images without. Every class
    keeps a training image: an image moves only if each of its classes has another training image. Images that belong
    together (`tailseg.annotations.groups`: frames of a video, copies of a picture) stay in one set. Images with objects
    that evaluation would refuse stay in the training set. Both files list all categories.

    The same file always gives the same split. The files are written once: ``folder/held_out.json`` records the source
    and how the images were drawn.

    Args:
        annotations: the data set.
        folder: created if necessary; files in it are replaced.
        share: share of the images in the validation set, in (0, 1).
        use: what the validation set is for.

    Returns:
        The annotation files of the training set and of the validation set.

    Raises:
        ValueError: no image can move to the validation set.
    """
    paths, record = (folder / "train.json", folder / "val.json"), folder / "held_out.json"
    if _read_record(record).items() >= _make_record(annotations, share, paths).items():
        return paths
    _require_objects(annotations)
    sections = read_sections(annotations.path)
    held_out, remarks = _draw_images(annotations, sections.images, share, use)
    if not held_out:
        raise ValueError(
            f"{annotations.path}: no image can be used for validation, because some class would have no training "
            f"image. "
            "Name a validation set (data.val)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    image_ids = read_columns(sections.annotations).image_ids.tolist()
    for path, wanted in zip(paths, (False, True), strict=True):
        selected = [(image_id in held_out) == wanted for image_id in image_ids]
        objects = list(compress(sections.annotations, selected))
        images = [image for image in sections.images if (parse_whole_number(image["id"]) in held_out) == wanted]
        with write_atomically(path) as file:
            file.write_bytes(join_sections(images, objects, sections.categories, sections.header))
    with write_atomically(record) as file:
        file.write_text(json.dumps({**_make_record(annotations, share, paths), "remarks": remarks}))
    return paths


def find_split(folder: Path) -> SplitPaths:
    """The training and the validation file that `hold_out_validation` wrote into a folder.

    Raises:
        ValueError: a file is missing or has changed.
    """
    paths = (folder / "train.json", folder / "val.json")
    sizes = _get_sizes(paths)
    written = _read_record(folder / "held_out.json").get("bytes", sizes)
    if damaged := [path for path, size, old in zip(paths, sizes, written, strict=True) if not size or size != old]:
        state = "has changed" if damaged[0].is_file() else "is missing"
        raise ValueError(
            f"{damaged[0]} {state}. It belongs to the run's own validation set, which is drawn once. Copy it from the "
            "machine that trained the run, or name a validation set (--val)"
        )
    return paths


def read_source_key(folder: Path) -> str:
    """The key (see `Annotations`) of the file that was split into this folder; empty if unknown."""
    return str(_read_record(folder / "held_out.json").get("of", ""))


def read_remarks(folder: Path) -> list[str]:
    """Remarks on how the files in this folder were drawn."""
    return list(map(str, _read_record(folder / "held_out.json").get("remarks", [])))


def _make_record(annotations: Annotations, share: float, paths: SplitPaths) -> dict[str, object]:
    """The source of the files and their sizes on the disk: a power failure may truncate files."""
    return {"of": annotations.key, "share": share, "bytes": _get_sizes(paths)}


def _get_sizes(paths: SplitPaths) -> list[int]:
    return [path.stat().st_size if path.is_file() else 0 for path in paths]


def _read_record(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _require_objects(annotations: Annotations) -> None:
    """Raises ValueError if training has no object to use."""
    objects = annotations.objects
    if len(objects) and objects.ignored.all():
        raise ValueError(
            f"{annotations.path}: all {count_noun(len(objects), 'annotation')} are crowd regions (iscrowd), which "
            f"training "
            "ignores. Were masks exported as crowds, as Datumaro and CVAT do with brush masks? Then --data.crowds "
            "objects reads them as objects"
        )
    if not objects.trainable.any():
        raise ValueError(f"{annotations.path}: no image has an object for training. Annotate objects")


def _draw_images(annotations: Annotations, images: Sequence[Any], share: float, use: Use) -> tuple[set[int], list[str]]:
    """Draws the images of the validation set.

    Images are grouped by videos, contents and names; by fewer of these if the groups would be too large.

    Returns:
        The ids of the images, and remarks on them.
    """
    names = [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]
    same_name = group_by_name(names, videos=False)
    copies = merge_groups(same_name, group_by_content(_find_files(annotations)))
    videos = [image.get("video_id") for image in images]
    frames = group_by_name(names, [category.name for category in annotations.categories])
    if None not in videos:
        frames = merge_groups(frames, np.unique(list(map(str, videos)), return_inverse=True)[1])
    groupings = {
        "frames of one video": merge_groups(copies, frames),
        "files of one content": copies,
        "files of one name": same_name,
        "": np.arange(len(names)),
    }
    remarks = []
    for (description, groups), coarser in pairwise([*groupings.items(), ("", np.empty(0, np.int64))]):
        if np.array_equal(groups, coarser[1]):
            continue
        largest = int(np.bincount(groups).max())
        if description and largest * 2 > len(names):
            remarks.append(
                f"{largest:,} of {count_noun(len(names), 'image')} would be {description}: they are not kept in one set"
            )
        elif drawn := _draw_rows(annotations, groups, share, use):
            grouped = np.bincount(groups)[groups] > 1
            if grouped.any():
                remarks.append(
                    f"{int(grouped.sum()):,} images are frames of a video or copies of a picture "
                    f"({count_noun(np.unique(groups[grouped]).size, 'group')}): each group stays in one set"
                )
            return set(annotations.image_ids[drawn].tolist()), remarks
        elif largest > 1:
            remarks.append(f"too few images could be drawn if {description} stayed in one set: they may be in both")
    return set(), remarks


def _find_files(annotations: Annotations) -> list[Path | None]:
    """The file of each image; None if it is missing, which is reported when the image is read.

    Raises:
        SharedNameError: two images would be read from one file. After the split, this could not be noticed.
    """

    def find(row: int) -> Path | None:
        try:
            return annotations.finder.find(annotations.names.text(row).split("\n"))
        except SharedNameError:
            raise
        except ImageError:
            return None

    return [find(row) for row in range(annotations.num_images)]


def _draw_rows(annotations: Annotations, groups: np.ndarray, share: float, use: Use) -> list[int]:
    """Draws the rows of the images in the validation set; see `_Drawer`."""
    objects = annotations.objects
    refused = [kind.name for kind in KINDS.values() if kind.name in BITS and kind.verdict(use) == "x"]
    for_training = set(groups[objects.images[objects.is_marked(*refused)]].tolist())
    members: dict[int, list[int]] = {}
    for row in np.argsort(annotations.image_ids, kind="stable").tolist():
        members.setdefault(int(groups[row]), []).append(row)
    order = [rows for group, rows in members.items() if group not in for_training]
    random.Random(0).shuffle(order)
    return _Drawer(_collect_labels(annotations), share).draw(order)


class _Drawer:
    """Draws groups of images, those with objects first. Every class keeps a training image.

    Args:
        classes: the labels of the objects that training uses, for each image.
        share: share of the images with objects, and of those without.
    """

    def __init__(self, classes: list[set[int]], share: float) -> None:
        self.classes = classes
        self.images_left = Counter(label for labels in classes for label in labels)
        self.with_objects = sum(map(bool, classes))
        self.most = max(1, round(share * self.with_objects))
        self.most_empty = round(share * (len(classes) - self.with_objects))

    def draw(self, groups: list[list[int]]) -> list[int]:
        """Draws rows. A group that is too large is skipped, unless all groups are too large."""
        sized = [(sum(bool(self.classes[row]) for row in group), group) for group in groups]
        drawn: list[int] = []
        left = self.most
        for size, group in sized:
            if 0 < size <= left and self._can_spare(group):
                drawn += group
                left -= size
        for size, group in sorted(sized, key=itemgetter(0)):
            if not drawn and 0 < size * 3 <= self.with_objects and self._can_spare(group):
                drawn += group
        left = self.most_empty - sum(not self.classes[row] for row in drawn)
        for size, group in sized if drawn else ():
            if size == 0 and len(group) <= left:
                drawn += group
                left -= len(group)
        return drawn

    def _can_spare(self, group: list[int]) -> bool:
        """Whether each class has other images; if so, the group's images are no longer counted."""
        counts = Counter(label for row in group for label in self.classes[row])
        if any(self.images_left[label] <= count for label, count in counts.items()):
            return False
        self.images_left.subtract(counts)
        return True


def _collect_labels(annotations: Annotations) -> list[set[int]]:
    """Collects the labels of the objects that training uses, for each image."""
    objects = annotations.objects
    labels: list[set[int]] = [set() for _ in range(annotations.num_images)]
    trainable = objects.trainable
    for row, label in zip(objects.images[trainable].tolist(), objects.labels[trainable].tolist(), strict=True):
        labels[row].add(label)
    return labels
