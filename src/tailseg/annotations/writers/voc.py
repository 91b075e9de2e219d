"""Writes Pascal VOC: XML files with boxes, and masks as PNG where the objects have masks.

Corners are pixels counted from 1, the last one included, as the format defines; ``<source>`` says so. Numbers with
fractions are written as they are.
"""

from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import numpy as np

from tailseg.annotations.formats.voc import PASCAL, VOID, make_color
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.writers.labels import (
    Labels,
    Pictures,
    format_number,
    get_shape,
    is_region,
    place_picture,
)
from tailseg.files import write_atomically, write_text

MAX_OBJECTS: Final = VOID - 1
"""Most objects and classes that a mask of 8 bits can number: 0 is background, 255 void."""


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:
    """Writes a data set into a folder.

    Args:
        labels: the data set; it counts what is lost.
        out: the folder.
        split: the name of the list in ``ImageSets/Main``.
        pictures: whether image files are linked, copied or left where they are.

    Raises:
        DatasetError: two classes or two images have one name.
    """
    labels.require_unique_names()
    labels.lose_fields()
    labels.lose_measures(boxes=False)
    names = labels.names
    stems: dict[str, str] = {}
    for image in labels.images:
        file_name = Path(image["file_name"]).name
        stem = Path(file_name).stem
        if stem in stems:
            raise DatasetError(
                f"{labels.annotations.path}: {stems[stem]} and {image['file_name']} have one name without folder and "
                "extension, and Pascal VOC has one folder. Rename one of them"
            )
        stems[stem] = image["file_name"]
        if file_name != image["file_name"]:
            labels.lose("[folder|folders] in the names of images")
        has_masks = _write_masks(labels, image, out, stem)
        write_text(out / "Annotations" / f"{stem}.xml", _make_xml(labels, image, names, file_name, masks=has_masks))
        place_picture(labels, image, out / "JPEGImages" / file_name, pictures)
    write_text(out / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    colors = [make_color(number) for number in range(len(names) + 1)]
    lines = [
        f"{name}:{','.join(map(str, color))}::"
        for name, color in zip(["background", *names.values()], colors, strict=True)
    ]
    write_text(out / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines, ""]))


def _make_xml(labels: Labels, image: dict[str, Any], names: dict[int, str], file_name: str, *, masks: bool) -> str:
    lines = [
        "<annotation>",
        f"  <filename>{escape(file_name)}</filename>",
        f"  <source><database>tailseg</database><annotation>{PASCAL}</annotation></source>",
        f"  <size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>",
        f"  <segmented>{int(masks)}</segmented>",
    ]
    for record in labels.objects[image["id"]]:
        x, y, w, h = get_shape(record, image["height"], image["width"]).box
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
        box = "".join(f"<{key}>{format_number(value)}</{key}>" for key, value in corners)
        region = is_region(record)
        labels.lose("crowd [region is|regions are] marked difficult, without a mask", int(bool(record.get("iscrowd"))))
        lines += [
            "  <object>",
            f"    <name>{escape(names[record['category_id']])}</name>",
            f"    <difficult>{int(region)}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _write_masks(labels: Labels, image: dict[str, Any], out: Path, stem: str) -> bool:
    """Writes the class and the instance mask of an image; smaller objects lie on larger ones."""
    height, width = image["height"], image["width"]
    numbers = {key: number for number, key in enumerate(labels.names, start=1)}
    objects = []
    for place, record in enumerate(labels.objects[image["id"]], start=1):
        shape = get_shape(record, height, width)
        if shape.has_mask and not is_region(record):
            objects.append((place, numbers[record["category_id"]], shape.draw(height, width)))
    if not objects:
        return False
    if len(labels.names) > MAX_OBJECTS:
        labels.lose(f"[mask|masks] of a data set with more than {MAX_OBJECTS} classes", len(objects))
        return False
    first = [item for item in objects if item[0] <= MAX_OBJECTS]
    labels.lose(f"[mask|masks] of objects beyond the first {MAX_OBJECTS} of an image", len(objects) - len(first))
    instances, kinds = (np.zeros((height, width), np.uint8) for _ in range(2))
    for place, kind, mask in sorted(first, key=lambda item: -int(item[2].sum())):
        instances[mask], kinds[mask] = place, kind
    covered = sum(int((instances == place).sum() < mask.sum()) for place, _, mask in first)
    labels.lose("[mask has|masks have] pixels that a smaller object covers: a pixel belongs to one object", covered)
    for folder, pixels in (("SegmentationObject", instances), ("SegmentationClass", kinds)):
        _write_png(out / folder / f"{stem}.png", pixels)
    return True


def _write_png(file: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    picture = Image.fromarray(pixels, "P")
    picture.putpalette([band for number in range(256) for band in make_color(number)])
    with write_atomically(file) as written:
        picture.save(written, "PNG")
