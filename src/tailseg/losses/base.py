"""The interface of every classification loss.

Shapes: R regions, C foreground classes, L logits per region. Labels are ``0 .. C-1``; ``C`` is background.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int64
from torch import Tensor, nn


class ClassificationLoss(nn.Module, ABC):
    """Turns region logits into a training loss and into test scores.

    The heads ask a loss how many logits it wants, how the classifier's bias starts, what training costs and what the
    scores are; they know nothing else about it.

    Attributes:
        num_classes: C, foreground classes only.
        num_logits: L; C, C + 1 (background is the last logit) or C + 2, as the loss decides.
    """

    num_classes: int
    num_logits: int

    @abstractmethod
    def init_bias(self) -> Float[Tensor, " L"]:
        """The classifier's bias before the first step."""

    @abstractmethod
    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Named scalar losses, in float32 or wider, finite and differentiable for R = 0 too.

        Raises:
            ValueError: a label lies outside ``0 .. C``, or shapes disagree.
        """

    @abstractmethod
    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Scores in ``[0, 1]`` of the foreground classes, in float32 or wider."""
