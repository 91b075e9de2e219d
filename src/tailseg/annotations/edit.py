"""Changes labeled data sets: merges, filters, renames and samples them, and lists what was looked for.

The functions change `tailseg.annotations.writers.labels.Labels` in place, or return new ones; `write` writes them.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tailseg.annotations.problems import DatasetError
from tailseg.annotations.writers import coco
from tailseg.annotations.writers.coco import LVIS_LISTS
from tailseg.annotations.writers.labels import Labels, is_region
from tailseg.annotations.writers.records import ObjectRecords
from tailseg.words import count_noun


def write(labels: Labels, out: Path, *, lvis: bool = False) -> None:
    """Writes labels as an annotation file.

    Args:
        labels: the records.
        out: the file.
        lvis: whether the images get LVIS's lists of classes.

    Raises:
        DatasetError: no image or no class is left.
    """
    missing = next((what for what, left in (("image", labels.images), ("class", labels.categories)) if not left), None)
    if missing:
        raise DatasetError(f"no {missing} is left, so {out} is not written. Loosen what is asked for")
    (coco.write_lvis if lvis else coco.write)(labels, out)


def merge(sources: Sequence[Labels]) -> Labels:
    """Merges data sets; classes with the same name become one, with the id of the first data set that has it.

    Images and annotations whose ids are taken are numbered again. LVIS's lists of classes follow the new ids.

    Args:
        sources: the data sets.

    Returns:
        The merged data set; its ``losses`` count new ids.

    Raises:
        DatasetError: two classes of one data set have one name, or two images have one file name.
    """
    for labels in sources:
        labels.require_unique_names()
    headers = [labels.header for labels in sources]
    same = {key: value for key, value in headers[0].items() if all(other.get(key) == value for other in headers)}
    merged = Labels(sources[0].annotations, [], ObjectRecords(), [], same)
    for key in sorted({key for header in headers for key in header} - same.keys()):
        merged.lose(f"section [{key}|{key}] that is not the same in all files")
    ids: dict[str, int] = {}
    images, annotations = _Ids(), _Ids()
    names: dict[str, Path] = {}
    for labels in sources:
        new = {}
        for category in labels.categories:
            name = category["name"]
            if name not in ids:
                taken = {*ids.values()}
                ids[name] = category["id"] if category["id"] not in taken else max(taken) + 1
                merged.categories.append(category | {"id": ids[name]})
            new[category["id"]] = ids[name]
        for image in labels.images:
            name, path = image["file_name"], labels.annotations.path
            if name in names:
                raise DatasetError(
                    f"{name} is an image of {names[name]} and of {path}. Rename one of them, or leave one out"
                )
            names[name] = path
            key = images.choose(image["id"])
            merged.lose("image [id was|ids were] taken: numbered again", int(key != image["id"]))
            lists = {field: [new[k] for k in image[field] if k in new] for field in LVIS_LISTS if field in image}
            merged.images.append(image | {"id": key} | lists)
            records = []
            for record in labels.objects[image["id"]]:
                number = annotations.choose(record["id"])
                merged.lose("annotation [id was|ids were] taken: numbered again", int(number != record["id"]))
                changed = {"id": number, "image_id": key, "category_id": new[record["category_id"]]}
                records.append(record | changed)
            merged.objects[key] = records
    merged.categories.sort(key=lambda category: category["id"])
    return merged


class _Ids:
    """Ids that are taken."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._highest = 0

    def choose(self, wanted: int) -> int:
        """Takes the wanted id, or the next one above all others if it is taken."""
        number = wanted if wanted not in self._taken else self._highest + 1
        self._taken.add(number)
        self._highest = max(self._highest, number)
        return number


def keep_classes(labels: Labels, names: Collection[str]) -> None:
    """Keeps the objects of some classes; images stay, also without objects.

    Args:
        labels: the data set.
        names: the classes.

    Raises:
        DatasetError: there is no such class.
    """
    missing = sorted({*names} - {*labels.names.values()})
    if missing:
        raise DatasetError(f"{labels.annotations.path} has no class {', '.join(missing):.200}")
    ids = {key for key, name in labels.names.items() if name in names}
    _keep_categories(labels, ids)


def drop_rare(labels: Labels, min_images: int) -> None:
    """Leaves out the classes with objects in fewer images.

    Args:
        labels: the data set.
        min_images: least number of images of a class that stays.
    """
    counts = count_images(labels)
    _keep_categories(labels, {key for key in labels.names if counts[key] >= min_images})


def count_images(labels: Labels) -> Counter[int]:
    """The number of images with an object of each class, by its id."""
    counts: Counter[int] = Counter()
    for records in labels.objects.values():
        counts.update({record["category_id"] for record in records if not is_region(record)})
    return counts


def _keep_categories(labels: Labels, ids: Collection[int]) -> None:
    labels.categories = [category for category in labels.categories if category["id"] in ids]
    for key, records in labels.objects.items():
        remaining = [record for record in records if record["category_id"] in ids]
        labels.lose("[object|objects] of classes that were left out", len(records) - len(remaining))
        labels.objects[key] = remaining
    for image in labels.images:
        for field in LVIS_LISTS:
            if field in image:
                image[field] = [key for key in image[field] if key in ids]


def drop_small(labels: Labels, min_area: float) -> None:
    """Leaves out objects with a smaller area in pixels; the area of the box where none is written.

    Args:
        labels: the data set.
        min_area: least area.
    """
    for key, records in labels.objects.items():
        remaining = [record for record in records if _get_area(record) >= min_area or is_region(record)]
        labels.lose("[object|objects] below the least area", len(records) - len(remaining))
        labels.objects[key] = remaining


def _get_area(record: Mapping[str, Any]) -> float:
    area, box = record.get("area"), record.get("bbox") or (0, 0, 0, 0)
    return float(box[2] * box[3] if area is None else area)


def keep_images(labels: Labels, ids: Collection[int]) -> None:
    """Keeps the images with these ids."""
    labels.lose("[image|images]", sum(image["id"] not in ids for image in labels.images))
    labels.images = [image for image in labels.images if image["id"] in ids]
    labels.objects = labels.objects.select(image["id"] for image in labels.images)


def drop_empty(labels: Labels) -> None:
    """Leaves out images without annotations."""
    keep_images(labels, {key for key, records in labels.objects.items() if records})


def rename_classes(labels: Labels, names: Mapping[str, str]) -> None:
    """Renames classes. Classes that get one name become one class, with the id of the first.

    Args:
        labels: the data set.
        names: the new name of each class that changes.

    Raises:
        DatasetError: there is no such class.
    """
    labels.require_unique_names()
    missing = sorted(names.keys() - {*labels.names.values()})
    if missing:
        raise DatasetError(f"{labels.annotations.path} has no class {', '.join(missing):.200}")
    ids: dict[str, int] = {}
    new: dict[int, int] = {}
    categories = []
    for category in labels.categories:
        name = names.get(category["name"], category["name"])
        if name not in ids:
            ids[name] = category["id"]
            categories.append(category | {"name": name})
        new[category["id"]] = ids[name]
    labels.categories = categories
    for image, records in labels.objects.items():
        labels.objects[image] = [record | {"category_id": new[record["category_id"]]} for record in records]
    for image in labels.images:
        present = {record["category_id"] for record in labels.objects[image["id"]]}
        for field in LVIS_LISTS:
            if field in image:
                image[field] = _merge_list(image[field], new, present if field == LVIS_LISTS[0] else set())


def _merge_list(ids: Sequence[int], new: Mapping[int, int], present: set[int]) -> list[int]:
    """The new ids of a list of classes. A merged class is absent only if all of its former classes were."""
    if not present and len({*new.values()}) == len(new):
        return [new[key] for key in ids if key in new]
    former = Counter(new.values())
    listed = Counter(new[key] for key in ids if key in new)
    return [
        key
        for key in dict.fromkeys(new[k] for k in ids if k in new)
        if listed[key] == former[key] and key not in present
    ]


def sample_images(labels: Labels, number: int, *, seed: int = 0) -> None:
    """Keeps a number of images in which every class has as many of its images as fit, the rarest first.

    Args:
        labels: the data set.
        number: of images.
        seed: of the order.

    Raises:
        DatasetError: there are fewer images.
    """
    if number > len(labels.images):
        raise DatasetError(
            f"{labels.annotations.path} has {count_noun(len(labels.images), 'image')}, fewer than {number}"
        )
    order = [image["id"] for image in labels.images]
    random.Random(seed).shuffle(order)
    counts = count_images(labels)
    chosen: dict[int, None] = {}
    for key in sorted(labels.names, key=lambda key: (counts[key], key)):  # one image of each class, the rarest first
        holders = (image for image in order if any(r["category_id"] == key for r in labels.objects[image]))
        image = next(holders, None)
        if image is not None and len(chosen) < number:
            chosen.setdefault(image)
    for image in order:
        if len(chosen) < number:
            chosen.setdefault(image)
    keep_images(labels, chosen)


def federate(labels: Labels, looked_for: Mapping[str, Sequence[str]]) -> None:
    """Writes LVIS's lists from what was looked for: a class that was looked for and has no object is absent.

    Args:
        labels: the data set.
        looked_for: the names of the classes that annotators looked for, by the file name of the image, or by ``*`` for
            all other images.

    Raises:
        DatasetError: a class is unknown, or an image is not listed.
    """
    labels.require_unique_names()
    ids = {name: key for key, name in labels.names.items()}
    unknown = sorted({name for names in looked_for.values() for name in names} - ids.keys())
    if unknown:
        raise DatasetError(f"{labels.annotations.path} has no class {', '.join(unknown):.200}, which was looked for")
    files = {image["file_name"] for image in labels.images}
    labels.lose("listed [image|images] that the file lacks", len(looked_for.keys() - files - {"*"}))
    for image in labels.images:
        names = looked_for.get(image["file_name"], looked_for.get("*"))
        if names is None:
            raise DatasetError(
                f"image {image['file_name']} is not in the list of what was looked for, and there is no '*'"
            )
        present = {record["category_id"] for record in labels.objects[image["id"]]}
        image["neg_category_ids"] = sorted({ids[name] for name in names} - present)
        image.setdefault("not_exhaustive_category_ids", sorted(present - {ids[name] for name in names}))
