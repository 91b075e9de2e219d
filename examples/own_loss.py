"""A loss of your own: Poly-1 (Z. Leng et al., "PolyLoss", ICLR 2022), softmax cross entropy plus epsilon (1 - p).

tailseg train tiny_gumbel --loss own_loss:config --loss.epsilon 2
"""

from dataclasses import dataclass

from torch import Tensor

from tailseg.losses import BaseLossConfig, ClassFrequency, ConfiguredLoss, at_least_float32


@dataclass(frozen=True)
class PolyLossConfig(BaseLossConfig):
    """Poly-1 loss."""

    epsilon: float = 1.0
    """Weight of the term 1 - p, where p is the probability of the label; 0 is softmax cross entropy."""

    def build(self, frequency: ClassFrequency) -> "PolyLoss":
        return PolyLoss(frequency, self, extra_logits=1)  # the last logit is background


class PolyLoss(ConfiguredLoss):
    config: PolyLossConfig
    scores_are_exclusive = True

    def forward(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.check(logits, labels)
        log_p = at_least_float32(logits).log_softmax(1).gather(1, labels.unsqueeze(1))
        costs = -log_p + self.config.epsilon * (1 - log_p.exp())
        return {"loss_cls": self.config.weight * costs.sum() / max(len(labels), 1)}

    def scores(self, logits: Tensor) -> Tensor:
        return at_least_float32(logits).softmax(1)[:, :-1]


config = PolyLossConfig
