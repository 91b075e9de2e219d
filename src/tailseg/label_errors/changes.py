"""From suspects to the changes of a patch, and the file that lists all suspects."""

from collections.abc import Mapping, Sequence
from typing import Any

from pycocotools import mask as coco

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.patch import Change
from tailseg.label_errors.suspects import Kind, Suspect


def make_change(suspect: Suspect) -> Change:
    """Makes the change that repairs a suspect.

    A wrong class gets the proposed class, a bad outline the proposed box and mask; a duplicate is removed, and a
    missing object is added.

    Args:
        suspect: the suspect.

    Returns:
        The change.
    """
    was: Mapping[str, Any] | None = {"category_id": suspect.category_id}
    becomes: Mapping[str, Any] | None = None
    if suspect.kind == "class":
        becomes = {"category_id": suspect.new_category_id}
    elif suspect.kind == "outline":
        becomes = _make_shape(suspect)
    elif suspect.kind == "missing":
        was, becomes = None, {"category_id": suspect.new_category_id} | _make_shape(suspect)
    return Change(suspect.kind, suspect.image_id, suspect.annotation_id, was, becomes)


def _make_shape(suspect: Suspect) -> dict[str, Any]:
    """The proposed box, mask and area; the box is the one around the mask, if there is a mask."""
    if suspect.new_mask is not None and int(coco.area([dict(suspect.new_mask)])[0]):
        mask = dict(suspect.new_mask)
        box = coco.toBbox([mask])[0].tolist()
        return {"bbox": box, "segmentation": mask, "area": float(coco.area([mask])[0])}
    assert suspect.new_box is not None
    x1, y1, x2, y2 = (round(side, 2) for side in suspect.new_box)
    return {"bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "area": round((x2 - x1) * (y2 - y1), 2)}


def list_suspects(annotations: Annotations, suspects: Mapping[Kind, Sequence[Suspect]]) -> dict[str, Any]:
    """The content of errors.json.

    Args:
        annotations: the data set.
        suspects: by kind, ranked.

    Returns:
        The name of the file and, for each kind, score, image, annotation and classes of each suspect.
    """
    return {
        "file": annotations.path.name,
        "suspects": {
            kind: [
                {
                    "score": round(suspect.score, 4),
                    "group": suspect.group,
                    "image_id": suspect.image_id,
                    "annotation_id": suspect.annotation_id,
                    "category_id": suspect.category_id,
                    "new_category_id": suspect.new_category_id,
                    "box": [round(side, 2) for side in suspect.box],
                    "other_id": None if suspect.other_row < 0 else int(annotations.objects.ids[suspect.other_row]),
                }
                for suspect in ranked
            ]
            for kind, ranked in suspects.items()
        },
    }
