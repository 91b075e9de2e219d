"""Weights of the classes: a region counts as much as the weight of its label says.

C. Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001 (inverse); Y. Cui et al., "Class-Balanced Loss Based
on Effective Number of Samples", CVPR 2019 (effective).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from tailseg.losses.settings import BaseLossConfig
from tailseg.ranges import SettingError
from tailseg.structures import ClassFrequency


def compute_label_weights(
    frequency: ClassFrequency | int, config: BaseLossConfig
) -> Float64[Tensor, " C_and_background"] | None:
    """Computes the weight of each label; None without class weights.

    With n_c the training objects of class c, at least 1, and e the exponent:

        inverse      v_c = (1 / n_c)^e
        effective    v_c = ((1 - beta) / (1 - beta^n_c))^e
        numbers      v_c = number_c^e
        weight_c = v_c * (sum of n) / (sum of n_c v_c)        weight_background = 1

    So the mean weight of all training objects is 1, and background keeps its share of the loss. With ``inverse`` and
    e = 1, all classes together count alike, and one object of a class with n_c objects counts (sum of n) / (C n_c).

    Args:
        frequency: of the classes in the training set.
        config: the settings.

    Returns:
        C + 1 weights, background last.

    Raises:
        SettingError: there are as many numbers as there are not classes, or the frequency is not known.
    """
    if config.class_weights is None:
        return None
    if isinstance(frequency, int):
        raise SettingError(
            f"loss.class_weights is {config.class_weights!r}, and the loss was built for {frequency} classes of "
            "unknown frequency: build it with a ClassFrequency"
        )
    counts = frequency.instance_counts.clamp(min=1).double()
    if isinstance(config.class_weights, tuple):
        if len(config.class_weights) != frequency.num_classes:
            raise SettingError(
                f"loss.class_weights has {len(config.class_weights)} numbers, and the data has {frequency.num_classes} "
                "classes: give one number for each class, in the order of the category ids"
            )
        values = torch.tensor(config.class_weights, dtype=torch.float64)
    elif config.class_weights == "inverse":
        values = 1 / counts
    else:
        values = (1 - config.class_weight_beta) / (1 - config.class_weight_beta**counts)
    values = values**config.class_weight_exponent
    return F.pad(values * (counts.sum() / (counts * values).sum()), (0, 1), value=1.0)
