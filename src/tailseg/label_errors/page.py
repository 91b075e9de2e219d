"""The page of suspected label errors: pictures that a key confirms or dismisses, and a button that saves the patch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.patch import FORMAT
from tailseg.annotations.types import RunLengths
from tailseg.label_errors.changes import make_change
from tailseg.label_errors.suspects import KIND_NAMES, Kind, Suspect, read_mask
from tailseg.report.builder import MAX_BYTES, build_page, pack
from tailseg.report.galleries import Galleries, Photographs, fit, remove_folders
from tailseg.report.page import GROUPS
from tailseg.report.thumbnails import Crop, crop_around, trace_box, trace_outline
from tailseg.words import count_noun

LONGEST: Final = 240
"""The longest side of a picture in pixels."""


def render(annotations: Annotations, suspects: Mapping[Kind, Sequence[Suspect]], *, limit: int) -> tuple[str, int]:
    """Writes the page.

    Args:
        annotations: the data set.
        suspects: by kind, ranked.
        limit: the largest number of suspects of each kind.

    Returns:
        The text of the page, and the number of suspects that it shows.
    """
    photographs = Photographs(annotations)
    galleries = Galleries(suspects, room=round(0.8 * MAX_BYTES))
    for place in range(min(limit, max(map(len, suspects.values()), default=0))):  # the first of each kind come first
        for kind, ranked in suspects.items():
            if place < min(limit, len(ranked)):
                _add(galleries, kind, ranked[place], annotations, photographs)
    names = {category.id: category.name for category in annotations.categories}

    def build() -> str:
        data = {
            "patch": {"format": FORMAT, "file": annotations.path.name, "key": annotations.key},
            "kinds": KIND_NAMES,
            "groups": GROUPS,
            "names": names,
            "galleries": galleries.of,
        }
        shown = sum(len(gallery["items"]) for gallery in galleries.of.values())
        return build_page(
            "errors.html",
            styles=["base", "report", "errors"],
            scripts=["elements", "gallery", "errors"],
            blocks={"data": pack(data)},
            title=f"Label errors: {annotations.path.name}",
            subtitle=f"{count_noun(shown, 'suspect')} of {sum(map(len, suspects.values())):,}",
            note=remove_folders(photographs.problem, "--images"),
        )

    text = fit(galleries, build, limit=MAX_BYTES)
    return text, sum(len(gallery["items"]) for gallery in galleries.of.values())


def _add(
    galleries: Galleries, kind: Kind, suspect: Suspect, annotations: Annotations, photographs: Photographs
) -> None:
    height, width = annotations.sizes[suspect.index].tolist()
    boxes = np.array([suspect.box, suspect.new_box or suspect.box])
    crop = crop_around([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)], height=height, width=width)
    item: list[Any] = [
        round(suspect.score, 3),
        suspect.group,
        suspect.image_id,
        _trace_annotated(annotations, suspect.row, suspect.index, crop),
        _trace_proposed(annotations, suspect, crop),
        asdict(make_change(suspect)),
        suspect.category_id,
    ]
    place = suspect.index, crop
    galleries.add(kind, place, lambda: photographs.cut(suspect.index, crop, LONGEST), item)


def _trace_annotated(annotations: Annotations, row: int, index: int, crop: Crop) -> str:
    if row < 0:
        return ""
    if annotations.objects.masked[row]:
        return trace_outline(read_mask(annotations, row, index), crop, LONGEST)
    return trace_box(annotations.objects.boxes[row].tolist(), crop, LONGEST)


def _trace_proposed(annotations: Annotations, suspect: Suspect, crop: Crop) -> str:
    if suspect.other_row >= 0:
        return _trace_annotated(annotations, suspect.other_row, suspect.index, crop)
    return _trace_shape(suspect.new_mask, suspect.new_box, crop)


def _trace_shape(mask: RunLengths | None, box: Sequence[float] | None, crop: Crop) -> str:
    outline = trace_outline(mask, crop, LONGEST) if mask is not None else ""
    return outline or (trace_box(box, crop, LONGEST) if box is not None else "")
