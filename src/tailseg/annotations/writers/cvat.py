"""Writes CVAT for images 1.1: one XML file that a task imports, such as predictions as pre-labels."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from tailseg.annotations.writers.labels import (
    Labels,
    Pictures,
    format_number,
    get_shape,
    is_region,
    place_picture,
)
from tailseg.files import write_text


def write(labels: Labels, out: Path, *, split: str = "train", pictures: Pictures = "link") -> None:  # noqa: ARG001
    """Writes ``annotations.xml`` into a folder.

    Args:
        labels: the data set; it counts what is lost.
        out: the folder.
        split: not used: a file is a task.
        pictures: whether image files are linked, copied or left where they are.

    Raises:
        DatasetError: two classes have one name.
    """
    labels.require_unique_names()
    labels.lose_fields()
    labels.lose_measures()
    names = [f"<label><name>{escape(name)}</name></label>" for name in labels.names.values()]
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    lines.append(f"  <meta><task><labels>{''.join(names)}</labels></task></meta>")
    groups = count(1)  # CVAT keeps 31 bits, and 0 is no group: ids of annotations can be anything
    for number, image in enumerate(labels.images):
        sides = f'width="{image["width"]}" height="{image["height"]}"'
        lines.append(f'  <image id="{number}" name={quoteattr(image["file_name"])} {sides}>')
        for record in labels.objects[image["id"]]:
            if is_region(record):
                labels.leave_out("crowd or ignore [region|regions]")
            else:
                lines += _format(labels, record, image, groups)
        lines.append("  </image>")
        place_picture(labels, image, out / "images" / image["file_name"], pictures)
    write_text(out / "annotations.xml", "\n".join([*lines, "</annotations>", ""]))


def _format(labels: Labels, record: dict[str, Any], image: dict[str, Any], groups: Iterator[int]) -> list[str]:
    shape = get_shape(record, image["height"], image["width"])
    start = f'label={quoteattr(labels.names[record["category_id"]])} occluded="0" z_order="0"'
    if shape.mask is not None:
        rows, columns = np.flatnonzero(shape.mask.any(axis=1)), np.flatnonzero(shape.mask.any(axis=0))
        if not len(rows):
            labels.leave_out("[mask|masks] without a pixel")
            return []
        part = shape.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        edges = np.flatnonzero(np.diff(part.ravel())) + 1
        runs = np.diff([0, *edges.tolist(), part.size]).tolist()
        runs = [0, *runs] if part.ravel()[0] else runs
        sides = f'left="{columns[0]}" top="{rows[0]}" width="{part.shape[1]}" height="{part.shape[0]}"'
        return [f'    <mask {start} rle="{", ".join(map(str, runs))}" {sides}/>']
    if not shape.rings:
        x, y, w, h = shape.box
        corners = zip(("xtl", "ytl", "xbr", "ybr"), (x, y, x + w, y + h), strict=True)
        return [f"    <box {start} {' '.join(f'{key}={quoteattr(format_number(value))}' for key, value in corners)}/>"]
    group = f' group_id="{next(groups)}"' if len(shape.rings) > 1 else ""
    return [
        f"    <polygon {start}{group} "
        f'points="{";".join(f"{format_number(x)},{format_number(y)}" for x, y in ring.tolist())}"/>'
        for ring in shape.rings
    ]
