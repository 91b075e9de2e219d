"""The classes that an LVIS file verifies in each image. This module does not import torch."""

import numpy as np
from jaxtyping import Bool, Int64

from tailseg.annotations.dataset import Annotations
from tailseg.words import count_noun


def find_unverified(
    annotations: Annotations, index: int, category_ids: Int64[np.ndarray, " C"]
) -> Bool[np.ndarray, " C"]:
    """Finds the classes that are no negatives in an image, by the rule of LVIS's evaluation.

    A class is a negative where annotators looked for it: it has an annotation in the image and all its objects are
    annotated, or it is in ``neg_category_ids``. A class in ``not_exhaustive_category_ids`` has objects without an
    annotation: as in the evaluation, only the annotated ones count, and nothing else is an error.

    Args:
        annotations: the data set, an LVIS file.
        index: the image.
        category_ids: the ids of the classes, ascending.

    Returns:
        True for each class that is no negative.
    """
    objects = annotations.objects
    unverified = np.ones(len(category_ids), bool)
    unverified[objects.labels[objects.offsets[index] : objects.offsets[index + 1]]] = False
    unverified[np.searchsorted(category_ids, annotations.negative[index])] = False
    unverified[np.searchsorted(category_ids, annotations.not_exhaustive[index])] = True
    return unverified


def describe_verified(annotations: Annotations) -> str:
    """Describes what ``data.only_verified`` does with a training set: a note for the user."""
    if annotations.format != "lvis":
        return (
            f"data.only_verified has no effect: the images of {annotations.path} do not list the classes that were "
            "looked for (neg_category_ids, as in LVIS)"
        )
    ids = np.array([category.id for category in annotations.categories], np.int64)
    step = max(1, annotations.num_images // 1000)
    verified = [(~find_unverified(annotations, index, ids)).sum() for index in range(0, annotations.num_images, step)]
    return (
        f"data.only_verified: {np.mean(verified):.1f} of {count_noun(len(ids), 'class')} are negatives in an image on "
        "average, the others were not looked for there"
    )
