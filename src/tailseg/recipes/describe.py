"""Short descriptions of recipes, for `tailseg recipes` and docs/recipes.md."""

from collections.abc import Iterable
from pathlib import Path

from tailseg.losses import BuildsLoss, DropLossConfig, EQLConfig
from tailseg.models.config import (
    AnyDetector,
    BuildsBackbone,
    CascadeConfig,
    HTCConfig,
    ModelConfig,
)
from tailseg.recipes.published import PUBLISHED, Figures
from tailseg.recipes.recipe import DataConfig, Recipe

LINK_NAMES = {"gumbel": "Gumbel", "sigmoid": "sigmoid", "normal": "normal"}
LOSS_NAMES = {
    "GumbelCEConfig": "Gumbel",
    "SigmoidCEConfig": "sigmoid",
    "SoftmaxCEConfig": "softmax",
    "ClassRelativeLossConfig": "class-relative",
    "LogitAdjustedSoftmaxConfig": "balanced softmax",
}
"""Names of losses by the class of their config; other losses have the name of their class."""


def detector(model: AnyDetector) -> str:
    """``Mask R-CNN``, ``Faster R-CNN``, ``Cascade Mask R-CNN``, ``HTC``, or the name of your own config."""
    if not isinstance(model, ModelConfig):
        return type(model).__name__.removesuffix("Config")
    match model.cascade:
        case HTCConfig():
            return "HTC"
        case CascadeConfig():
            return "Cascade Mask R-CNN" if model.mask else "Cascade R-CNN"
        case None:
            return "Mask R-CNN" if model.mask else "Faster R-CNN"


def backbone(config: BuildsBackbone) -> str:
    """``R50``, ``X101-64x4d``, ``Swin-T``, a name of timm's, or your own ``short_name``."""
    return getattr(config, "short_name", type(config).__name__)


def loss(config: BuildsLoss) -> str:
    """``Gumbel``, ``EQL sigmoid``, ``Seesaw`` ..."""
    match config:
        case DropLossConfig():
            return f"DropLoss {LINK_NAMES[config.link]}"
        case EQLConfig():
            return f"EQL {LINK_NAMES[config.link]}"
    name = type(config).__name__
    return LOSS_NAMES.get(name, name.removesuffix("Config").removesuffix("Loss"))


def normalized(model: AnyDetector) -> str:
    """Which predictors are normalized: ``mask``, ``class``, ``both`` or nothing."""
    if not isinstance(model, ModelConfig):
        return ""
    mask = model.mask is not None and model.mask.normalized is not None
    classifier = model.box.normalized is not None
    return {(True, True): "both", (True, False): "mask", (False, True): "class"}.get((mask, classifier), "")


def data(config: DataConfig) -> str:
    """``LVIS v1``, ``LVIS v0.5``, ``tiny_tail`` or ``your file``."""
    if not config.train:
        return "your file"
    name = Path(config.train).name
    for version in ("v1", "v0.5"):
        if name.startswith(f"lvis_{version}_"):
            return f"LVIS {version}"
    return name.split(":")[0]


SAMPLING_NAMES = {"repeat": "RFS", "instance_repeat": "IRFS", "exponential_repeat": "E-IRFS"}
"""Names of the kinds of repeat factor sampling; the others have their own."""


def sampling(config: DataConfig) -> str:
    """``RFS`` (repeat factor sampling), ``random``, ``class-aware`` ..."""
    if config.sampling == "repeat" and not config.repeat_threshold:
        return "random"
    return SAMPLING_NAMES.get(config.sampling, config.sampling.replace("_", "-"))


def heading(recipe: Recipe) -> str:
    """The heading of the table that a recipe belongs to: ``Mask R-CNN R50, LVIS v1``."""
    network = f" {backbone(recipe.model.backbone)}" if isinstance(recipe.model, ModelConfig) else ""
    return f"{detector(recipe.model)}{network}, {data(recipe.data)}"


def group_by_heading(recipes: Iterable[Recipe]) -> dict[str, list[Recipe]]:
    """Groups recipes by `heading`, in their order."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(heading(recipe), []).append(recipe)
    return groups


def average_precision(recipe: Recipe) -> tuple[str, str, str, str, str]:
    """The published AP, APr, APc, APf and APb, empty if none was published; ``≈`` precedes figures read from a plot."""
    published = PUBLISHED.get(recipe.name)
    figures = published.figures if published else None
    if figures is None:
        return "", "", "", "", ""
    return (
        _percent(figures.ap, figures),
        _percent(figures.apr, figures),
        _percent(figures.apc, figures),
        _percent(figures.apf, figures),
        _percent(figures.apb, figures),
    )


def _percent(value: float | None, figures: Figures) -> str:
    return "" if value is None else f"{'≈' if figures.approximate else ''}{value:.1f}"
