"""Writes COCO's and LVIS's form, with the records as they were read."""

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from tailseg.annotations.types import frequency_group
from tailseg.annotations.writers.labels import Labels, Pictures, is_region
from tailseg.files import write_bytes

LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes a COCO file.

    Args:
        labels: the data set.
        out: the file.
        split: not used: a file is a split.
        pictures: not used: names are relative to the images' folder.
    """
    write_bytes(out, msgspec.json.encode(make_coco(labels)))


def write_lvis(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes an LVIS file.

    Args:
        labels: the data set; it counts what is lost.
        out: the file.
        split: not used: a file is a split.
        pictures: not used: names are relative to the images' folder.
    """
    write_bytes(out, msgspec.json.encode(make_lvis(labels)))


def make_coco(labels: Labels) -> dict[str, Any]:
    """The content of a COCO file."""
    annotations = [record for image in labels.images for record in labels.objects[image["id"]]]
    annotations.sort(key=lambda record: record["id"])
    return {"images": labels.images, "annotations": annotations, "categories": labels.categories}


def make_lvis(labels: Labels) -> dict[str, Any]:
    """The content of an LVIS file.

    All classes of a COCO file were looked for in all images: each class without an object in an image is listed as
    absent there. LVIS has no crowd regions; the class of one is listed as not exhaustively annotated.
    """
    content = make_coco(labels)
    images, annotations = [], []
    counts: Counter[int] = Counter()
    objects: Counter[int] = Counter()
    ids = [category["id"] for category in labels.categories]
    for image in labels.images:
        records = labels.objects[image["id"]]
        present = {record["category_id"] for record in records if not is_region(record)}
        regions = {record["category_id"] for record in records if is_region(record)}
        counts.update(present)
        objects.update(record["category_id"] for record in records if not is_region(record))
        lists = [[key for key in ids if key not in present | regions], sorted(regions)]
        images.append(image | {name: image.get(name, value) for name, value in zip(LVIS_LISTS, lists, strict=True)})
    for record in content["annotations"]:
        if is_region(record):
            labels.lose("crowd or ignore [region|regions]: the class is listed as not exhaustively annotated there")
        else:
            annotations.append({key: value for key, value in record.items() if key not in ("iscrowd", "ignore")})
    categories = [
        {
            "frequency": frequency_group(counts[key]),
            "image_count": counts[key],
            "instance_count": objects[key],
            **category,
        }
        for key, category in zip(ids, labels.categories, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
