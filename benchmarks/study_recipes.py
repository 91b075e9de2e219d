"""The recipes of the study: `tiny_gol` with one part each, all for the same number of steps; one for photographs.

    PYTHONPATH=benchmarks uv run tailseg train study_recipes:paste

All train in bfloat16, which takes two thirds of the time of float32 here.
"""

from dataclasses import replace

from tailseg.data.settings import ColorConfig, CopyPasteConfig, JitterConfig
from tailseg.losses import LOSSES
from tailseg.models.config import NormalizedConfig, SEConfig, TimmConfig
from tailseg.recipes.bases import with_normalized_classifier
from tailseg.recipes.custom import custom_frozen
from tailseg.recipes.recipe import AdamWConfig, Recipe
from tailseg.recipes.strong import tiny_strong
from tailseg.recipes.tiny import tiny_gol

PASTE = CopyPasteConfig(max_objects=6, scale=(0.5, 1.5), min_visible=0.2)
"""Objects of every class alike often (`repeat_threshold` 0), in sizes that the small network can see."""
LARGE = {"short_sides": (144, 152, 160, 168, 176), "test_short_side": 160, "max_long_side": 320}
JITTER = JitterConfig(scale=(0.5, 1.5))
IMAGENET = TimmConfig(
    name="tf_efficientnet_lite0", weights="../weights/tf_efficientnet_lite0.safetensors", frozen_stages=2
)
"""A backbone of photographs, in place of the one that comes with tailseg (see backbones.py for the file)."""


def _change(name: str, *, data: dict | None = None, optim: dict | None = None, **parts: object) -> Recipe:
    recipe = tiny_gol()
    return replace(
        recipe,
        name=name,
        data=replace(recipe.data, **(data or {})),
        optim=replace(recipe.optim, **(optim or {})),
        run=replace(recipe.run, precision="bfloat16"),
        **parts,
    )


def gol() -> Recipe:
    """GOL alone: what all others are compared with."""
    return _change("gol")


def gumbel() -> Recipe:
    """The Gumbel loss alone."""
    return _change("gumbel", loss=LOSSES["gumbel"])


def softmax() -> Recipe:
    """The softmax alone."""
    return _change("softmax", loss=LOSSES["softmax"])


def paste() -> Recipe:
    """GOL with copy-paste."""
    return _change("paste", data={"paste": PASTE})


def paste_large() -> Recipe:
    """GOL with copy-paste in every image, whose objects keep about their size."""
    return _change("paste_large", data={"paste": replace(PASTE, probability=1.0, scale=(0.8, 1.25))})


def jitter() -> Recipe:
    """GOL with large-scale jitter, in a smaller range than published: images have 128 pixels."""
    return _change("jitter", data={"jitter": JITTER})


def color() -> Recipe:
    """GOL with color jitter."""
    return _change("color", data={"color": ColorConfig()})


def cosine() -> Recipe:
    """GOL with a cosine in place of the milestones."""
    return _change("cosine", optim={"schedule": "cosine"})


def ema() -> Recipe:
    """GOL with a moving average of the weights over about 200 steps."""
    return _change("ema", optim={"ema_decay": 0.995})


def normalized() -> Recipe:
    """GOL with the normalized classifier."""
    return _change("normalized", model=with_normalized_classifier(tiny_gol().model))


def paste_cosine() -> Recipe:
    """GOL with copy-paste and the cosine."""
    return _change("paste_cosine", data={"paste": PASTE}, optim={"schedule": "cosine"})


def paste_clean() -> Recipe:
    """GOL with copy-paste, but in the last epoch."""
    return _change("paste_clean", data={"paste": PASTE, "clean_epochs": 1})


def verified() -> Recipe:
    """GOL whose negatives are the verified ones, as the evaluation counts them."""
    return _change("verified", data={"only_verified": True})


def balanced() -> Recipe:
    """GOL with images drawn by the square root of their classes' frequency, in epochs of the same length."""
    return _change("balanced", data={"sampling": "balanced"})


def class_aware() -> Recipe:
    """GOL with images of each class alike often, in epochs of the same length."""
    return _change("class_aware", data={"sampling": "class_aware"})


def large() -> Recipe:
    """GOL on images that are larger by a quarter; a step takes half as long again."""
    return _change("large", data=LARGE)


def fast() -> Recipe:
    """GOL with twice the learning rate."""
    return _change("fast", optim={"lr": 0.16})


def strong() -> Recipe:
    """All parts that help, together."""
    return _change(
        "strong",
        data={"paste": PASTE, "only_verified": True},
        optim={"schedule": "cosine", "ema_decay": 0.995, "lr": 0.12},
    )


def strong_large() -> Recipe:
    """Copy-paste, the cosine with a higher rate, and larger images; every negative counts."""
    return _change("strong_large", data={"paste": PASTE, **LARGE}, optim={"schedule": "cosine", "lr": 0.12})


def strong_small() -> Recipe:
    """As `strong_large`, with images of tiny_gol's size: a step costs as much as one of tiny_gol."""
    return _change("strong_small", data={"paste": PASTE}, optim={"schedule": "cosine", "lr": 0.12})


def combined() -> Recipe:
    """Copy-paste, the cosine, the normalized classifier, and larger images: tiny_strong in bfloat16."""
    recipe = tiny_strong()
    return replace(recipe, name="combined", run=replace(recipe.run, precision="bfloat16"))


def combined_larger() -> Recipe:
    """As `combined`, on images that are larger by a half."""
    recipe = combined()
    larger = {"short_sides": (176, 184, 192, 200, 208), "test_short_side": 192, "max_long_side": 384}
    return replace(recipe, name="combined_larger", data=replace(recipe.data, **larger))


def combined_often() -> Recipe:
    """As `combined`, with objects pasted into every image."""
    recipe = combined()
    paste = replace(PASTE, probability=1.0)
    return replace(recipe, name="combined_often", data=replace(recipe.data, paste=paste))


def combined_slow() -> Recipe:
    """As `combined`, with a lower learning rate."""
    recipe = combined()
    return replace(recipe, name="combined_slow", optim=replace(recipe.optim, lr=0.05))


def gol_imagenet() -> Recipe:
    """GOL alone, on a backbone with ImageNet weights."""
    recipe = _change("gol_imagenet")
    optim = AdamWConfig(lr=0.001, epochs=4, milestones=(3,), warmup_iterations=200, clip_norm=10.0)
    return replace(recipe, model=replace(recipe.model, backbone=IMAGENET), optim=optim)


def combined_imagenet() -> Recipe:
    """As `combined_larger`, on a backbone with ImageNet weights."""
    recipe, optim = combined_larger(), gol_imagenet().optim
    return replace(
        recipe,
        name="combined_imagenet",
        model=replace(recipe.model, backbone=IMAGENET),
        optim=replace(optim, schedule="cosine", milestones=()),
    )


def slow() -> Recipe:
    """GOL with a lower learning rate."""
    return _change("slow", optim={"lr": 0.05})


def mask_fixed() -> Recipe:
    """GOL with the normalized mask predictor, as in the published models: a fixed temperature of 20."""
    return _change_mask("mask_fixed", normalized=NormalizedConfig())


def mask_learned() -> Recipe:
    """As `mask_fixed`, with a learned temperature, as in the authors' models of 2024."""
    return _change_mask("mask_learned", normalized=NormalizedConfig(temperature=20.25, learned=True))


def mask_carafe() -> Recipe:
    """As `mask_fixed`, with CARAFE in place of the deconvolution."""
    return _change_mask("mask_carafe", normalized=NormalizedConfig(), upsample="carafe")


def _change_mask(name: str, **parts: object) -> Recipe:
    model = tiny_gol().model
    return _change(name, model=replace(model, mask=replace(model.mask, **parts)))


def gate_sigmoid() -> Recipe:
    """GOL with squeeze and excitation in the backbone."""
    return _change_gate("gate_sigmoid", SEConfig())


def gate_apa() -> Recipe:
    """As `gate_sigmoid`, with APA as the gate's activation."""
    return _change_gate("gate_apa", SEConfig(gate="apa"))


def _change_gate(name: str, se: SEConfig) -> Recipe:
    model = tiny_gol().model
    return _change(name, model=replace(model, backbone=replace(model.backbone, se=se)))


def photographs_strong() -> Recipe:
    """custom_frozen with GOL and the parts of `combined` but the larger images: a training takes 30 minutes at most.

    Maps cannot be kept, because every image is another one.
    """
    recipe = custom_frozen()
    return replace(
        recipe,
        name="photographs_strong",
        data=replace(recipe.data, keep_maps=False, paste=PASTE),
        model=with_normalized_classifier(recipe.model),
        loss=LOSSES["gol"],
        optim=replace(recipe.optim, schedule="cosine", milestones=()),
    )
