"""A validation set for those who have only one annotation file."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

from tailseg.annotations.columns import read_columns, whole
from tailseg.annotations.dataset import Annotations
from tailseg.annotations.json_file import Sections, join, split, unpack
from tailseg.annotations.videos import scenes
from tailseg.files import unfinished

HELD_OUT_SHARE = 0.1


def hold_out(annotations: Annotations, folder: Path, *, share: float = HELD_OUT_SHARE) -> tuple[Path, Path]:
    """Splits a data set into the annotation files ``folder/train.json`` and ``folder/val.json``.

    The same file gives the same split every time. An image is held out only while each of its classes stays in some
    other training image, so that no rare class is lost to training; both files list all categories. Frames of one
    video, and augmentations of one picture, stay together (`tailseg.annotations.videos`). The files are written once:
    ``folder/held_out.json`` says of which content they are, and such a split is used as it is.

    Args:
        annotations: the whole.
        folder: made if need be; files in it are replaced.
        share: of the images, in (0, 1).

    Raises:
        ValueError: no image can be held out.
    """
    paths, note = (folder / "train.json", folder / "val.json"), folder / "held_out.json"
    if _read(note) == _note(annotations, share, paths):
        return paths
    sections = split(unpack(annotations.path.read_bytes(), annotations.path), annotations.path)
    held_out = _held_out(annotations, share, _scenes(annotations, sections))
    if not held_out:
        raise ValueError(
            f"{annotations.path}: no image can be held out for validation without losing a class from training, or "
            "parting a video; name a validation set (data.val)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    image_of = read_columns(sections.annotations).image_ids.tolist()
    for path, wanted in zip(paths, (False, True), strict=True):
        mine = [(image in held_out) == wanted for image in image_of]
        objects = list(compress(sections.annotations, mine))
        part = [image for image in sections.images if (whole(image["id"]) in held_out) == wanted]
        with unfinished(path) as file:
            file.write_bytes(join(part, objects, sections.categories))
    with unfinished(note) as file:
        file.write_text(json.dumps(_note(annotations, share, paths)))
    return paths


def _note(annotations: Annotations, share: float, paths: tuple[Path, ...]) -> dict[str, object]:
    """What the parts are made of, and their sizes as they lie there: a power failure may cut files short."""
    return {
        "of": annotations.key,
        "share": share,
        "bytes": [path.stat().st_size if path.is_file() else 0 for path in paths],
    }


def _read(note: Path) -> object:
    try:
        return json.loads(note.read_bytes())
    except (OSError, ValueError):
        return None


def _scenes(annotations: Annotations, sections: Sections) -> list[object]:
    """What each image shows: its video where the file says so, else as its name tells."""
    if sections.has_videos:
        videos = {whole(image["id"]): whole(image.get("video_id")) for image in sections.images}
        return [key if videos[key] is None else ("video", videos[key]) for key in annotations.image_ids.tolist()]
    names = [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]
    found = scenes(names, [category.name for category in annotations.categories])
    return [scene or row for row, scene in enumerate(found)]  # an image without a name stands alone


def _held_out(annotations: Annotations, share: float, shown: Sequence[object]) -> set[int]:
    """Ids of the images held out, drawn by scenes with objects first to last in a fixed random order."""
    ids = annotations.image_ids.tolist()
    classes = {ids[index]: set(annotations.classes_of(index).tolist()) for index in range(annotations.num_images)}
    images_left = Counter(label for labels in classes.values() for label in labels)
    scene_of = dict(zip(ids, shown, strict=True))
    together: defaultdict[object, list[int]] = defaultdict(list)
    for image_id, scene in scene_of.items():
        together[scene].append(image_id)
    order = sorted(image for image, labels in classes.items() if labels)
    random.Random(0).shuffle(order)
    wanted = max(1, round(share * annotations.num_images))
    held_out: set[int] = set()
    shortest = sorted(order, key=lambda image: len(together[scene_of[image]]))
    for candidates, most in ((order, 2 * wanted), (shortest, len(ids))):  # a long video only if there is nothing else
        for scene in dict.fromkeys(scene_of[image] for image in candidates):
            if len(held_out) >= wanted:
                break
            images = together[scene]
            lost = Counter(label for image in images for label in classes[image])
            if len(held_out) + len(images) <= most and all(images_left[label] > lost[label] for label in lost):
                held_out.update(images)
                images_left.subtract(lost)
        if held_out:
            break
    return held_out
