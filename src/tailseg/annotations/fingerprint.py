"""A fingerprint of a data set: equal for data sets that give the same training."""

import hashlib

import numpy as np

from tailseg.annotations.dataset import Annotations, Objects
from tailseg.annotations.ragged import Ragged, compute_offsets, expand_spans

BLOCK = 1 << 16
"""Objects that are hashed together: this limits the memory."""


def compute_fingerprint(annotations: Annotations) -> str:
    """SHA-256 of everything that training uses: images, objects and classes, but not the paths of files."""
    digest = hashlib.sha256(repr([(category.id, category.name) for category in annotations.categories]).encode())
    objects = annotations.objects
    arrays = (annotations.image_ids, annotations.sizes, objects.boxes, objects.labels, objects.ignored, objects.offsets)
    for array in (*arrays, compute_offsets(objects.polygon_counts)):
        digest.update(np.ascontiguousarray(array).data)
    _add_polygons(objects, digest)
    for array in (objects.run_lengths.values, objects.run_lengths.offsets):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _add_polygons(objects: Objects, digest: "hashlib._Hash") -> None:
    """Adds the polygons in the order of the objects."""
    lengths = []
    for start in range(0, len(objects), BLOCK):
        block = slice(start, start + BLOCK)
        rows = expand_spans(objects.first_polygons[block], objects.polygon_counts[block])
        polygons: Ragged = objects.polygons.take(rows)
        digest.update(polygons.values.data)
        lengths.append(np.diff(polygons.offsets))
    digest.update(compute_offsets(np.concatenate([np.empty(0, np.int64), *lengths])).data)
