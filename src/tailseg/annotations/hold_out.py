"""A validation set for those who have only one annotation file: it is drawn once, and belongs to the run."""

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
from tailseg.annotations.groups import group_by_content, group_by_name, merge_groups
from tailseg.annotations.image_files import ImageError, SharedNameError
from tailseg.annotations.json_file import decompress, join_sections, split_sections
from tailseg.annotations.kinds import BITS, KINDS, Use
from tailseg.files import write_atomically

HELD_OUT_SHARE = 0.1

SplitPaths = tuple[Path, Path]
"""The annotation files of what is trained on, and of what is held out."""


def hold_out(
    annotations: Annotations, folder: Path, *, share: float = HELD_OUT_SHARE, use: Use = "masks"
) -> SplitPaths:
    """Splits a data set into the annotation files ``folder/train.json`` and ``folder/val.json``.

    ``share`` of the images with objects is held out, and as much of those without. Every class keeps a training image:
    an image is held out only while each of its classes stays in some other one. Images that belong together
    (`tailseg.annotations.groups`: frames of a video, copies of a picture) stay in one part. Images with objects that
    evaluation would refuse are trained on. Both files list all categories.

    The same file gives the same split every time. The parts are written once: ``folder/held_out.json`` says of which
    content they are, and how they were drawn.

    Args:
        annotations: the whole.
        folder: made if need be; files in it are replaced.
        share: of the images, in (0, 1).
        use: what the held-out part is for.

    Raises:
        ValueError: no image can be held out.
    """
    paths, note = (folder / "train.json", folder / "val.json"), folder / "held_out.json"
    if _read_record(note).items() >= _make_record(annotations, share, paths).items():
        return paths
    _require_objects(annotations)
    sections = split_sections(decompress(annotations.path.read_bytes(), annotations.path), annotations.path)
    held_out, remarks = _draw_images(annotations, sections.images, share, use)
    if not held_out:
        raise ValueError(
            f"{annotations.path}: no image can be held out for validation without losing a class from training; "
            "name a validation set (data.val)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    image_of = read_columns(sections.annotations).image_ids.tolist()
    for path, wanted in zip(paths, (False, True), strict=True):
        mine = [(image in held_out) == wanted for image in image_of]
        objects = list(compress(sections.annotations, mine))
        part = [image for image in sections.images if (parse_whole_number(image["id"]) in held_out) == wanted]
        with write_atomically(path) as file:
            file.write_bytes(join_sections(part, objects, sections.categories))
    with write_atomically(note) as file:
        file.write_text(json.dumps({**_make_record(annotations, share, paths), "remarks": remarks}))
    return paths


def find_split(folder: Path) -> SplitPaths:
    """The parts that were drawn into a run's folder.

    Raises:
        ValueError: they are not there, or not as they were written.
    """
    paths = (folder / "train.json", folder / "val.json")
    sizes = _get_sizes(paths)
    written = _read_record(folder / "held_out.json").get("bytes", sizes)
    if damaged := [path for path, size, was in zip(paths, sizes, written, strict=True) if not size or size != was]:
        found = "is not as it was written" if damaged[0].is_file() else "is not there"
        raise ValueError(
            f"{damaged[0]} {found}: it belongs to the run's own validation set, which is drawn once. Copy it from "
            "where the run was trained, or name a validation set (--val)"
        )
    return paths


def read_source_key(folder: Path) -> str:
    """The key (see `Annotations`) of the file that the parts in a run's folder were drawn from; empty if unknown."""
    return str(_read_record(folder / "held_out.json").get("of", ""))


def read_remarks(folder: Path) -> list[str]:
    """What is to be known about how the parts in a run's folder were drawn."""
    return list(map(str, _read_record(folder / "held_out.json").get("remarks", [])))


def _make_record(annotations: Annotations, share: float, paths: SplitPaths) -> dict[str, object]:
    """What the parts are made of, and their sizes as they lie there: a power failure may cut files short."""
    return {"of": annotations.key, "share": share, "bytes": _get_sizes(paths)}


def _get_sizes(paths: SplitPaths) -> list[int]:
    return [path.stat().st_size if path.is_file() else 0 for path in paths]


def _read_record(note: Path) -> dict[str, Any]:
    try:
        content = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _require_objects(annotations: Annotations) -> None:
    """Raises ValueError if there is nothing to learn from."""
    objects = annotations.objects
    if len(objects) and objects.ignored.all():
        raise ValueError(
            f"{annotations.path}: all {len(objects):,} objects are crowd regions (iscrowd), which teach nothing. Were "
            "masks exported as crowds, as Datumaro and CVAT do with brush masks? --data.crowds objects takes them as "
            "objects"
        )
    if not objects.trainable.any():
        raise ValueError(f"{annotations.path}: no image has an object to learn from. Annotate objects")


def _draw_images(annotations: Annotations, images: Sequence[Any], share: float, use: Use) -> tuple[set[int], list[str]]:
    """Ids of the images held out, and what is to be known about them.

    Images are put together by all that is known of them, or by less where that would leave no fair choice.
    """
    names = [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]
    same_name = group_by_name(names, videos=False)
    copies = merge_groups(same_name, group_by_content(_find_files(annotations)))
    videos = [image.get("video_id") for image in images]
    frames = group_by_name(names, [category.name for category in annotations.categories])
    if None not in videos:
        frames = merge_groups(frames, np.unique(list(map(str, videos)), return_inverse=True)[1])
    known = {
        "frames of one video": merge_groups(copies, frames),
        "files of one content": copies,
        "files of one name": same_name,
        "": np.arange(len(names)),
    }
    remarks = []
    for (what, groups), less in pairwise([*known.items(), ("", np.empty(0, np.int64))]):
        if np.array_equal(groups, less[1]):
            continue
        largest = int(np.bincount(groups).max())
        if what and largest * 2 > len(names):
            remarks.append(f"{largest:,} of {len(names):,} images would be {what}: these are not kept in one part")
        elif held_out := _draw_rows(annotations, groups, share, use):
            several = np.bincount(groups)[groups] > 1
            if several.any():
                remarks.append(
                    f"{int(several.sum()):,} images are of one video or one picture with others "
                    f"({np.unique(groups[several]).size:,} groups): each group stays in one part"
                )
            return set(annotations.image_ids[held_out].tolist()), remarks
        elif largest > 1:
            remarks.append(f"too few images can be held out where {what} stay in one part: they do not")
    return set(), remarks


def _find_files(annotations: Annotations) -> list[Path | None]:
    """Each image's file; None where it is missing, which is said when it is read.

    Raises:
        SharedNameError: two images would be read from one file: apart, the parts could not tell.
    """

    def found(row: int) -> Path | None:
        try:
            return annotations.finder.find(annotations.names.text(row).split("\n"))
        except SharedNameError:
            raise
        except ImageError:
            return None

    return [found(row) for row in range(annotations.num_images)]


def _draw_rows(annotations: Annotations, groups: np.ndarray, share: float, use: Use) -> list[int]:
    """Rows of the images held out; see `_Drawer`."""
    objects = annotations.objects
    stopping = [kind.name for kind in KINDS.values() if kind.name in BITS and kind.verdict(use) == "x"]
    for_training = set(groups[objects.images[objects.is_marked(*stopping)]].tolist())
    members: dict[int, list[int]] = {}
    for row in np.argsort(annotations.image_ids, kind="stable").tolist():
        members.setdefault(int(groups[row]), []).append(row)
    order = [rows for group, rows in members.items() if group not in for_training]
    random.Random(0).shuffle(order)
    return _Drawer(_collect_labels(annotations), share).rows(order)


class _Drawer:
    """Draws groups of images, those with objects first, while every class keeps a training image.

    Args:
        classes: the labels of what each image has to learn from.
        share: of the images with objects, and of those without.
    """

    def __init__(self, classes: list[set[int]], share: float) -> None:
        self.classes = classes
        self.images_left = Counter(label for labels in classes for label in labels)
        self.with_objects = sum(map(bool, classes))
        self.most = max(1, round(share * self.with_objects))
        self.most_empty = round(share * (len(classes) - self.with_objects))

    def rows(self, groups: list[list[int]]) -> list[int]:
        """The rows drawn. A group that would make them too many is passed over, unless all of them would."""
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
        """Whether each class has other images; these are then no longer counted."""
        mine = Counter(label for row in group for label in self.classes[row])
        if any(self.images_left[label] <= count for label, count in mine.items()):
            return False
        self.images_left.subtract(mine)
        return True


def _collect_labels(annotations: Annotations) -> list[set[int]]:
    """The labels of what each image has to learn from."""
    objects = annotations.objects
    found: list[set[int]] = [set() for _ in range(annotations.num_images)]
    kept = objects.trainable
    for row, label in zip(objects.images[kept].tolist(), objects.labels[kept].tolist(), strict=True):
        found[row].add(label)
    return found
