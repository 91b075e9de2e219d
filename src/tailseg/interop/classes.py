"""Reads the classes of a model, with ids, names and frequencies, from an annotation file or a list of classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tailseg.annotations.dataset import Category
from tailseg.annotations.json_file import decompress
from tailseg.annotations.read import read_dataset
from tailseg.interop.rules import shorten
from tailseg.structures import ClassFrequency, frequency_group
from tailseg.training.checkpoint import CheckpointError
from tailseg.training.first_weights import simplify_name
from tailseg.words import count_noun, verb_form


def read_classes(path: str | Path) -> tuple[tuple[Category, ...], ClassFrequency]:
    """Reads the classes, ordered by id, and how often each occurs in the training set.

    The frequency is what every loss of tailseg takes; label j is the class ``categories[j]``.

    The file is the training set's annotation file, packed by gzip or not, or a list without annotations,
    ``{"num_images": annotated images, "categories": [{"id", "name", "image_count", "instance_count",
    "frequency" (optional)}, ...]}``.

    Raises:
        CheckpointError: there is no such file, or it has another format.
        DatasetError: a malformed annotation file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"no file {path}: class names and frequencies come from the training set's annotation file; give it with "
            "--classes"
        )
    try:
        content = json.loads(bytes(decompress(path.read_bytes(), path)))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): expected an annotation file") from None
    if not (isinstance(content, dict) and isinstance(content.get("categories"), list)):
        raise CheckpointError(f"{path} has no list of categories: expected an annotation file in COCO or LVIS format")
    if "annotations" in content:
        annotations = read_dataset(path)
        return annotations.categories, ClassFrequency.from_class_counts(annotations.frequency)
    return _from_list(content, path)


def _from_list(content: dict[str, Any], path: Path) -> tuple[tuple[Category, ...], ClassFrequency]:
    try:
        records = sorted(content["categories"], key=lambda record: record["id"])
        images = torch.tensor([record["image_count"] for record in records], dtype=torch.int64)
        groups = tuple(record.get("frequency") or frequency_group(record["image_count"]) for record in records)
        categories = tuple(
            Category(record["id"], record["name"], group) for record, group in zip(records, groups, strict=True)
        )
        instances = torch.tensor([record["instance_count"] for record in records], dtype=torch.int64)
        return categories, ClassFrequency(images, instances, int(content["num_images"]), groups)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} has no annotations, and its list of classes is not complete ({error!r}): expected num_images, "
            "and categories with id, name, image_count and instance_count"
        ) from None


def check_class_names(stated: Sequence[str], categories: Sequence[Category], source: str) -> list[str]:
    """Compares the class names of a checkpoint with the data set's.

    Args:
        stated: the names in the checkpoint, by label.
        categories: the classes of the data set, by label.
        source: what errors call the checkpoint.

    Returns:
        A note if some names are spelled differently.

    Raises:
        CheckpointError: the number of classes differs, or a class has another label: every label would be wrong.
    """
    if len(stated) != len(categories):
        raise CheckpointError(
            f"{source} states {len(stated)} classes, expected {len(categories)}: give the annotation file that it was "
            "trained on (--classes)"
        )
    theirs = [simplify_name(name) for name in stated]
    ours = [simplify_name(category.name) for category in categories]
    differ = [(i, name) for i, name in enumerate(theirs) if name != ours[i]]
    moved = [f"{stated[i]!r} is {i} there and {ours.index(name)} here" for i, name in differ if name in set(ours)]
    if moved:
        raise CheckpointError(
            f"{source} has its classes in another order: {shorten(moved)}. Give the annotation file that it was "
            "trained on (--classes)"
        )
    spelled = [f"{stated[i]!r} for {categories[i].name!r}" for i, _ in differ]
    if not spelled:
        return []
    count = f"{count_noun(len(spelled), 'class name')} {verb_form(len(spelled), 'is', 'are')}"
    return [f"{count} spelled differently in the file: {shorten(spelled)}"]
