"""Whether two data sets teach the same."""

import hashlib

import numpy as np

from tailseg.annotations.dataset import Annotations, Objects
from tailseg.annotations.ragged import Ragged, compute_offsets, expand_spans

BLOCK = 1 << 16
"""Objects looked at together: bounds the memory."""


def compute_fingerprint(annotations: Annotations) -> str:
    """Of all that a data set teaches: images, objects and classes; not of where its files lie. SHA-256."""
    found = hashlib.sha256(repr([(each.id, each.name) for each in annotations.categories]).encode())
    objects = annotations.objects
    arrays = (annotations.image_ids, annotations.sizes, objects.boxes, objects.labels, objects.ignored, objects.offsets)
    for array in (*arrays, compute_offsets(objects.polygon_counts)):
        found.update(np.ascontiguousarray(array).data)
    _add_polygons(objects, found)
    for array in (objects.run_lengths.values, objects.run_lengths.offsets):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _add_polygons(objects: Objects, found: "hashlib._Hash") -> None:
    """The polygons in the order of the objects."""
    lengths = []
    for start in range(0, len(objects), BLOCK):
        part = slice(start, start + BLOCK)
        rows = expand_spans(objects.first_polygons[part], objects.polygon_counts[part])
        taken: Ragged = objects.polygons.take(rows)
        found.update(taken.values.data)
        lengths.append(np.diff(taken.offsets))
    found.update(compute_offsets(np.concatenate([np.empty(0, np.int64), *lengths])).data)
