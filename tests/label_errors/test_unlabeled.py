"""Which unlabeled image comes first."""

from pathlib import Path

import pytest
import torch

from tailseg.label_errors.unlabeled import rank_image
from tailseg.structures import Detections

NAMES, GROUPS = ("ant", "bee", "cat"), ("f", "c", "r")


def ranked(*found):
    labels, scores = [label for label, _ in found], [score for _, score in found]
    detections = Detections(
        torch.zeros(len(found), 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64), None, 10, 10
    )
    return rank_image(Path("a.jpg"), detections, NAMES, GROUPS, named=2)


def test_the_best_score_of_each_class_counts_by_its_group():
    image = ranked((0, 0.9), (0, 0.8), (2, 0.5), (2, 0.25))
    assert image.score == pytest.approx(0.01 * 0.9 + 0.5)
    assert image.expected == pytest.approx({"r": 0.5, "c": 0.0, "f": 0.9})
    assert [name for name, _ in image.classes] == ["cat", "ant"]


def test_a_rare_class_comes_before_certain_frequent_ones():
    assert ranked((2, 0.1)).score > ranked((0, 1.0), (1, 0.5)).score
    assert ranked().score == 0
