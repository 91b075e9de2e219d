"""Binary cross entropy over any link, shared by the losses that ask each class a yes-no question."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tailseg.losses.links import Link


def binary_costs(
    q: Float[Tensor, "R L"], labels: Int64[Tensor, " R"], link: Link, *, dropped: Bool[Tensor, "R L"] | None = None
) -> Float[Tensor, "R L"]:
    """The cost of every logit: -log p(q) for the region's label, -log(1 - p(q)) for every other class.

    A label equal to L (background of a loss without a background logit) makes the whole row negative. Where
    ``dropped`` is true the cost is 0, but for the label's own, which always counts. Costs stay apart so that a loss
    can weigh them before it sums.
    """
    num_logits = q.shape[1]
    column = labels.clamp(max=num_logits - 1).unsqueeze(1)
    own = q.gather(1, column)
    is_label = (labels < num_logits).unsqueeze(1)
    negative, own_negative = -link.log_complement(q), -link.log_complement(own)
    if dropped is not None:
        negative = negative.masked_fill(dropped, 0)
        own_negative = own_negative.masked_fill(dropped.gather(1, column), 0)
    # Replaced, not corrected by a difference: for a confident logit the difference would cancel to nothing.
    return negative.scatter(1, column, torch.where(is_label, -link.log_probability(own), own_negative))
