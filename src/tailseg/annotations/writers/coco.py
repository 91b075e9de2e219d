"""Writes COCO's and LVIS's form, with the records as they were read."""

from collections import Counter
from pathlib import Path

import msgspec

from tailseg.annotations.json_file import decode_record, write_sections
from tailseg.annotations.types import frequency_group
from tailseg.annotations.writers.labels import Labels, Pictures, is_region

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes a COCO file.

    Args:
        labels: the data set.
        out: the file.
        split: not used: a file is a split.
        pictures: not used: names are relative to the images' folder.
    """
    write_sections(out, labels.images, _list_texts(labels), labels.categories, labels.header, labels.objects.text)


def write_lvis(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes an LVIS file.

    All classes of a COCO file were looked for in all images: each class without an object in an image is listed as
    absent there. LVIS has no crowd regions; the class of one is listed as not exhaustively annotated.

    Args:
        labels: the data set; it counts what is lost.
        out: the file.
        split: not used: a file is a split.
        pictures: not used: names are relative to the images' folder.
    """
    images = []
    counts: Counter[int] = Counter()
    objects: Counter[int] = Counter()
    ids = [category["id"] for category in labels.categories]
    for image in labels.images:
        records = labels.objects[image["id"]]
        present = {record["category_id"] for record in records if not is_region(record)}
        regions = {record["category_id"] for record in records if is_region(record)}
        counts.update(present)
        objects.update(record["category_id"] for record in records if not is_region(record))
        labels.leave_out(
            "crowd or ignore [region|regions]: the class is listed as not exhaustively annotated there",
            sum(map(is_region, records)),
        )
        lists = [[key for key in ids if key not in present | regions], sorted(regions)]
        images.append(image | {name: image.get(name, value) for name, value in zip(LVIS_LISTS, lists, strict=True)})
    categories = [
        {
            "frequency": frequency_group(counts[key]),
            "image_count": counts[key],
            "instance_count": objects[key],
            **category,
        }
        for key, category in zip(ids, labels.categories, strict=True)
    ]
    records = map(decode_record, _list_texts(labels))
    annotations = (
        {key: value for key, value in record.items() if key not in ("iscrowd", "ignore")}
        for record in records
        if not is_region(record)
    )
    write_sections(out, images, annotations, categories, labels.header, labels.objects.text)


def _list_texts(labels: Labels) -> list[msgspec.Raw]:
    return labels.objects.list_texts(image["id"] for image in labels.images)
