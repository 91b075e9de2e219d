"""Finds what is most likely wrong in an annotation file, with the region features and the outlines of a trained run."""

from tailseg.label_errors.regions import read_regions as read_regions
from tailseg.label_errors.suspects import Suspect as Suspect
from tailseg.label_errors.suspects import find_suspects as find_suspects

__all__ = ["Suspect", "find_suspects", "read_regions"]
