"""Reads, checks, repairs, caches, splits and summarizes annotation files; without torch."""

from typing import TYPE_CHECKING

from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.annotations.dataset import Annotations, Category, Objects, Record
    from tailseg.annotations.hold_out import hold_out_validation
    from tailseg.annotations.image_files import ImageError
    from tailseg.annotations.leaks import find_leaks
    from tailseg.annotations.lints import lint
    from tailseg.annotations.problems import DatasetError, Problem
    from tailseg.annotations.read import read_dataset
    from tailseg.annotations.repair import repair_file
    from tailseg.annotations.summary import Summary, summarize
    from tailseg.annotations.types import ClassCounts, ImageInfo
else:
    __getattr__, __dir__ = on_demand(
        __name__,
        {
            "dataset": ("Annotations", "Category", "Objects", "Record"),
            "hold_out": ("hold_out_validation",),
            "image_files": ("ImageError",),
            "leaks": ("find_leaks",),
            "lints": ("lint",),
            "problems": ("DatasetError", "Problem"),
            "read": ("read_dataset",),
            "repair": ("repair_file",),
            "summary": ("Summary", "summarize"),
            "types": ("ClassCounts", "ImageInfo"),
        },
    )

__all__ = [
    "Annotations",
    "Category",
    "ClassCounts",
    "DatasetError",
    "ImageError",
    "ImageInfo",
    "Objects",
    "Problem",
    "Record",
    "Summary",
    "find_leaks",
    "hold_out_validation",
    "lint",
    "read_dataset",
    "repair_file",
    "summarize",
]
