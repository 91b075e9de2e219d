"""Recipes of the runs that tools/write_old_files.sh trained with build 2f2c8dc, as a user of that build wrote them.

They use the names of that build, so they show that these are still accepted.
"""

from dataclasses import dataclass, replace

from tailseg.losses import GumbelCE, GumbelCEConfig
from tailseg.recipes import Recipe, get_recipe


@dataclass(frozen=True)
class OwnLossConfig(GumbelCEConfig):
    """The Gumbel loss with an offset of the logits: a user's own loss."""

    offset: float = 0.5

    def build(self, frequency):
        """Build the loss."""
        return OwnLoss(self, frequency.num_classes)


class OwnLoss(GumbelCE):
    def __init__(self, config, num_classes):
        super().__init__(num_classes)
        self.offset = config.offset

    def forward(self, logits, labels):
        return super().forward(logits + self.offset, labels)


def own_loss() -> Recipe:
    """A loss of the user's own: the run opens only with ``--recipe old_recipes:own_loss``."""
    return replace(get_recipe("tiny_gumbel"), name="old_recipes:own_loss", loss=OwnLossConfig())


def gol_normalized() -> Recipe:
    """GOL with normalized predictors of boxes and masks."""
    from tailseg.models import NormalisedConfig

    recipe = get_recipe("tiny_gol")
    box = replace(recipe.model.box, normalised=NormalisedConfig(temperature=5.0))
    mask = replace(recipe.model.mask, normalised=NormalisedConfig())
    return replace(recipe, name="old_recipes:gol_normalized", model=replace(recipe.model, box=box, mask=mask))


def adamw_swin() -> Recipe:
    """A Swin Transformer, AdamW, a moving average of the weights, a step in two parts, low-quality matching off."""
    from tailseg.models import SwinConfig
    from tailseg.recipes import AdamWConfig

    recipe = get_recipe("tiny_seesaw")
    backbone = SwinConfig(embed_dim=2, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=4, weights="none")
    box = replace(recipe.model.box, low_quality=False, iou=0.4)
    optim = AdamWConfig(lr=0.002, epochs=4, steps=(3,), warmup_iterations=3, average=0.9, accumulate=2)
    model = replace(recipe.model, backbone=backbone, box=box)
    return replace(recipe, name="old_recipes:adamw_swin", model=model, optim=optim)
