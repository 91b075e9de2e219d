"""The base of the losses that ask each class a yes-no question: through regions, and through any other head.

Shapes: R regions, C foreground classes, L logits per region; ``*N`` are any dimensions: images, anchors, queries.
"""

from abc import abstractmethod
from dataclasses import dataclass
from math import inf, prod

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.losses.base import ClassificationLoss, is_true
from tailseg.losses.binary import ClassFactors, Dropped, EntryCost, binary_cost, sum_class_gradients
from tailseg.losses.links import Link


@dataclass(frozen=True)
class Entries:
    """What a `BinaryLoss` computes the cost of.

    Attributes:
        logits: one row for each region, anchor or query.
        labels: ``0 .. C``, C for none; or the target of each entry, in [0, 1]. Ignored ones are C, or 0.
        weights: of the rows or entries.
        quality: the target of each row's label; None is 1.
        ignored: entries that cost nothing.
        normalizer: divides the sum; None is R.
    """

    logits: Float[Tensor, "R L"]
    labels: Int64[Tensor, " R"] | Float[Tensor, "R L"]
    weights: Float[Tensor, " R"] | Float[Tensor, "R L"] | None = None
    quality: Float[Tensor, " R"] | None = None
    ignored: Bool[Tensor, "R #L"] | None = None
    normalizer: float | Float[Tensor, ""] | None = None

    def cost(
        self, link: Link | EntryCost, *, dropped: Dropped | None = None, factors: ClassFactors | None = None
    ) -> Float[Tensor, ""]:
        """Computes `tailseg.losses.binary_cost` of these entries.

        Args:
            link: turns logits into probabilities; or the cost of an entry.
            dropped: negatives that cost nothing.
            factors: weights and exponents of the classes.

        Returns:
            The sum, divided by the normalizer.
        """
        return binary_cost(
            self.logits,
            self.labels,
            link,
            dropped=dropped,
            weights=self.weights,
            quality=self.quality,
            ignored=self.ignored,
            factors=factors,
            normalizer=self.normalizer,
        )

    def sum_class_gradients(
        self, link: Link | EntryCost, *, factors: ClassFactors | None = None
    ) -> Float[Tensor, "2 L"]:
        """Computes `tailseg.losses.binary.sum_class_gradients` of these entries."""
        return sum_class_gradients(
            self.logits,
            self.labels,
            link,
            weights=self.weights,
            quality=self.quality,
            ignored=self.ignored,
            factors=factors,
        )


def find_foreground(labels: Int64[Tensor, " R"] | Float[Tensor, "R C"], num_classes: int) -> Bool[Tensor, " R"]:
    """Tells which rows have a class, by their labels or by the targets of their entries."""
    return labels < num_classes if labels.ndim == 1 else (labels > 0).any(1)


def count_positives(labels: Int64[Tensor, " R"] | Float[Tensor, "R C"], num_classes: int) -> Int64[Tensor, " C"]:
    """Counts the positive entries of each class: the labels, or the targets above 0."""
    if labels.ndim == 2:
        return (labels > 0).sum(0)
    counts = torch.zeros(num_classes + 1, dtype=torch.int64, device=labels.device)
    return counts.index_add(0, labels, torch.ones_like(labels))[:num_classes]


class BinaryLoss(ClassificationLoss):
    """Asks each class a yes-no question. A subclass says in `cost` what the answers cost.

    `forward` is for regions. `dense` is for every other head: dense detectors, DETR-like queries, classifiers.
    """

    @abstractmethod
    def cost(self, entries: Entries) -> Float[Tensor, ""]:
        """Computes the loss of checked entries."""

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Returns ``{"loss_cls": loss}``; 0 for R = 0. All processes must call.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """
        self.check(logits, labels)
        return {"loss_cls": self.cost(Entries(logits, labels, self.weigh_regions(logits, labels)))}

    def dense(
        self,
        logits: Float[Tensor, "*N L"],
        targets: Int64[Tensor, "*N"] | Float[Tensor, "*N L"] | Bool[Tensor, "*N L"],
        *,
        quality: Float[Tensor, "*N"] | None = None,
        weights: Float[Tensor, "*N"] | Float[Tensor, "*N L"] | None = None,
        ignored: Bool[Tensor, "*N"] | Bool[Tensor, "*N L"] | None = None,
        normalizer: float | Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        """Computes the loss of logits of any shape: the sum over all entries, divided by ``normalizer``.

        For regions and without the options, it is the loss of `forward`. Targets by index need the least memory: no
        tensor of the logits' size is made in addition to the gradient. Class weights weigh each row by its label; a
        row with several labels, by the mean of their weights.

        Args:
            logits: the last dimension are those of the loss, `num_logits`.
            targets: the class of each row, ``0 .. C-1``, and C for none; or the target of each entry: one-hot,
                multi-label, or soft in [0, 1].
            quality: the target of each row's class instead of 1, such as the IoU of its box; with indices only.
            weights: of the rows or of the entries; they get no gradient.
            ignored: rows or entries that cost nothing and are not counted anywhere, whatever their logits are.
            normalizer: such as the number of objects, above 0: give at least 1 for batches without objects (a tensor is
                not checked). None is the number of rows that are not ignored, at least 1.

        Returns:
            The loss, in float32 or wider; 0 without rows.

        Raises:
            ValueError: a target lies outside ``0 .. C`` or [0, 1], a logit is infinite, the normalizer is a number that
                is not above 0, or shapes or types disagree.
        """
        self._check_shapes(logits, targets, quality, weights, ignored)
        if isinstance(normalizer, float | int) and not 0 < normalizer < inf:
            raise ValueError(
                f"normalizer is above 0, got {normalizer}: give max(number of objects, 1), for batches without objects"
            )
        rows, width = prod(logits.shape[:-1]), logits.shape[-1]
        by_index = targets.dtype == torch.int64
        logits = logits.reshape(rows, width)
        labels = targets.reshape(rows) if by_index else targets.reshape(rows, width)
        if ignored is not None:
            ignored = ignored.reshape(rows, -1 if ignored.numel() else 1)
            if normalizer is None:
                normalizer = (~ignored).any(1).sum().clamp(min=1).to(torch.promote_types(logits.dtype, torch.float32))
            if by_index:
                column = labels.clamp(0, width - 1).unsqueeze(1) if ignored.shape[1] > 1 else 0 * labels.unsqueeze(1)
                labels = labels.masked_fill(ignored.gather(1, column).squeeze(1), self.num_classes)
            else:
                labels = labels.masked_fill(ignored, 0)
        self._check_values(logits, labels, ignored)
        if not by_index:
            labels = labels.to(torch.promote_types(logits.dtype, torch.float32))
        return self.cost(
            Entries(
                logits,
                labels,
                weights=self._combine_weights(logits, labels, weights),
                quality=None if quality is None else quality.reshape(rows),
                ignored=ignored,
                normalizer=normalizer,
            )
        )

    def _combine_weights(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor | None:
        """The weights of the rows or entries, times those of the labels."""
        if weights is not None:
            weights = weights.reshape(len(logits), -1) if weights.numel() > len(logits) else weights.reshape(-1)
        label_weights = self.get_label_weights(logits)
        if label_weights is None:
            return weights
        if labels.ndim == 1:
            own = label_weights[labels]
        else:
            total = labels.sum(1)
            own = torch.where(total > 0, labels @ label_weights[:-1].to(labels.dtype) / total.clamp(min=1e-12), 1)
        if weights is None:
            return own
        return weights * (own if weights.ndim == 1 else own.unsqueeze(1))

    def _check_shapes(
        self,
        logits: Tensor,
        targets: Tensor,
        quality: Tensor | None,
        weights: Tensor | None,
        ignored: Tensor | None,
    ) -> None:
        name, by_index = type(self).__name__, targets.dtype == torch.int64
        if not logits.ndim or logits.shape[-1] != self.num_logits:
            hint = " (set background=False for a loss without a logit of background)"
            raise ValueError(
                f"{name} of {self.num_classes} classes expects logits [..., {self.num_logits}], got "
                f"{list(logits.shape)}{hint if self.num_logits > self.num_classes else ''}"
            )
        if not by_index and not targets.is_floating_point() and targets.dtype != torch.bool:
            raise ValueError(
                f"targets are int64 (the class of each row) or float or bool (the target of each entry), got "
                f"{targets.dtype}: convert classes with targets.long()"
            )
        expected = logits.shape[:-1] if by_index else logits.shape
        if targets.shape != expected:
            raise ValueError(
                f"{targets.dtype} targets for logits {list(logits.shape)} have the shape {list(expected)}, got "
                f"{list(targets.shape)}"
                + (": give one-hot targets as bool" if by_index and targets.shape == logits.shape else "")
            )
        if not by_index and self.num_logits > self.num_classes:
            raise ValueError(
                f"{name} has a logit of background, which targets by entry do not state: give the class of each row "
                "(int64), or build the loss with background=False"
            )
        if quality is not None and (not by_index or quality.shape != expected):
            raise ValueError(
                f"quality is one number for each row [{', '.join(map(str, logits.shape[:-1]))}] with int64 targets, "
                f"got {list(quality.shape)} and {targets.dtype} targets: put it into the targets by entry"
            )
        for what, tensor in (("weights", weights), ("ignored", ignored)):
            if tensor is not None and tensor.shape not in (logits.shape, logits.shape[:-1]):
                raise ValueError(
                    f"{what} has the shape of the logits {list(logits.shape)} or of the rows "
                    f"{list(logits.shape[:-1])}, got {list(tensor.shape)}"
                )

    def _check_values(self, logits: Tensor, labels: Tensor, ignored: Tensor | None) -> None:
        """Refuses values as `check` does; infinite logits may be ignored ones."""
        if labels.ndim == 1 and ignored is None:
            self.check(logits, labels)
            return
        highest = self.num_classes if labels.ndim == 1 else 1
        out_of_range = ~((labels >= 0) & (labels <= highest)).all()
        if torch.compiler.is_compiling():
            torch._assert_async(~out_of_range, f"targets must lie in 0 .. {highest}")  # noqa: SLF001
            return
        if is_true(out_of_range):
            raise ValueError(
                f"targets {'by class ' if labels.ndim == 1 else ''}must lie in 0 .. {highest}, got "
                f"{labels.min().item()} .. {labels.max().item()}"
                + (": use contiguous labels, not category ids" if labels.ndim == 1 else "")
            )
        if is_true(~logits.detach().sum(dtype=torch.float32).isfinite()):
            counted = logits if ignored is None else logits.masked_fill(ignored, 0)
            self._refuse(counted, labels.new_zeros(0))
