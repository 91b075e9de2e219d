"""What the labels of a model mean: the category id of each. It is stated by the caller and never guessed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, get_args

import numpy as np

from tailseg.evaluation.ground_truth import is_member
from tailseg.words import count_noun

Numbering = Literal["category_ids", "from_0", "from_1"]
Labels = Numbering | Mapping[int, int] | Sequence[int]
"""A numbering, or the category id of each label."""
EXPECTED: Final = (
    "'category_ids', 'from_0', 'from_1' (such as torchvision's models, whose 0 is background), or the category id of "
    "each label"
)


class LabelTable:
    """The category ids of labels.

    Args:
        labels: what labels mean, see `tailseg.evaluation.evaluator.Evaluator`.
        listed: the category ids in the order of the annotation file.
        path: how messages call the annotation file.
        ignored: labels that stand for no class.

    Raises:
        ValueError: it is none of these, names an unknown category, or is a place among categories that the file does
            not list in order of id.
    """

    def __init__(self, labels: object, listed: Sequence[int], path: str, ignored: Collection[int] = ()) -> None:
        self._labels, self._path, self._count = labels, path, len(listed)
        self._ignored = np.array(sorted(ignored), np.int64)
        pairs = sorted(_list_pairs(labels, listed, path).items())
        self._keys = np.array([key for key, _ in pairs], np.int64)
        self._ids = np.array([value for _, value in pairs], np.int64)
        if len(wrong := self._ids[~np.isin(self._ids, listed)]):
            raise ValueError(f"labels: the category id {wrong[0]} is not in {path}: give ids of its categories")

    def convert(self, labels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Converts labels to category ids.

        Args:
            labels: int64 ``[D]``.
            where: how errors call the image.

        Returns:
            The rows whose labels are not ignored, and their category ids, both int64.

        Raises:
            ValueError: a label stands for no class and is not ignored.
        """
        rows = np.flatnonzero(~is_member(labels, self._ignored))
        known = is_member(labels[rows], self._keys)
        if not known.all():
            raise ValueError(f"{where}: {self._explain(int(labels[rows][known.argmin()]))}")
        return rows, self._ids[np.searchsorted(self._keys, labels[rows])]

    def _explain(self, label: int) -> str:
        least, most = (int(self._keys[0]), int(self._keys[-1])) if len(self._keys) else (0, -1)
        given = repr(self._labels) if isinstance(self._labels, str) else "the given category ids"
        remedies = {
            (
                "from_0",
                self._count,
            ): f"if they count from 1, give 'from_1'; if it is a background, ignored_labels=({label},)",
            ("from_1", 0): "if they count from 0, give 'from_0'; if it is a background, ignored_labels=(0,)",
        }
        other = f"give another one of {EXPECTED}; or ignored_labels=({label},) if it stands for no class"
        remedy = remedies.get((self._labels, label), other) if isinstance(self._labels, str) else other
        return (
            f"the label {label} is no class: labels={given} has {least} to {most} for the "
            f"{count_noun(self._count, 'category', 'categories')} of {self._path}; {remedy}"
        )


def _list_pairs(labels: object, listed: Sequence[int], path: str) -> dict[int, int]:
    """The category id of each label."""
    if labels == "category_ids":
        return {key: key for key in listed}
    if isinstance(labels, str) and labels in get_args(Numbering):
        if list(listed) != sorted(listed):
            raise ValueError(
                f"labels={labels!r}: {path} does not list its categories in order of id, so that a place can mean "
                "two of them: give the category id of each label, such as labels={0: 7, 1: 3}"
            )
        return dict(enumerate(listed, start=int(labels == "from_1")))
    if isinstance(labels, Mapping):
        return {int(key): int(value) for key, value in labels.items()}
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        return {key: int(value) for key, value in enumerate(labels)}
    raise ValueError(f"labels should be {EXPECTED}; got {labels!r:.80}")
