"""What to try after a training that taught the model nothing."""

from typing import Final

import numpy as np

from tailseg.annotations.dataset import Annotations
from tailseg.evaluation.metrics import ROW_NAMES, IouType, Metrics, format_percent
from tailseg.models.config import ModelConfig, ResNetConfig
from tailseg.recipes.recipe import Recipe
from tailseg.words import count_noun

MIN_AP: Final = 0.005
"""A model with an AP below this has learned nothing that is of use: in tables the AP is 0.4 percent or less."""
FEW_STEPS: Final = 3000
"""Steps below which more of them are worth a try. The small networks of tailseg need some thousands."""
SMALL_SIDE: Final = 16
"""Side in pixels, at the size that the model sees, below which an object covers a few cells of the finest feature map
(stride 4)."""


def explain_no_learning(recipe: Recipe, metrics: Metrics, annotations: Annotations, *, steps: int) -> str:
    """Says that a trained model has learned nothing, and what to try.

    Args:
        recipe: of the run.
        metrics: of its last evaluation.
        annotations: the validation set; the sizes of its objects say whether the images are too small.
        steps: the number of steps of the whole training.

    Returns:
        A note, or nothing if the AP (of masks, or of boxes without masks) is at least `MIN_AP` or is not defined.
    """
    kind: IouType = "segm" if "segm" in metrics else "bbox"
    score = metrics[kind]["AP"]
    if score is None or score >= MIN_AP:
        return ""
    remedies = [
        *_advise_weights(recipe),
        *_advise_steps(recipe, steps),
        *_advise_sizes(recipe, annotations),
        _advise_rate(recipe.optim.lr),
    ]
    numbered = "; ".join(f"({number}) {text}" for number, text in enumerate(remedies, 1))
    return (
        f"The model has learned almost nothing: AP of {ROW_NAMES[kind]} is {format_percent(score)} after "
        f"{count_noun(steps, 'step')}. Look at the annotations first (`tailseg data check`). Then try, in this order: "
        f"{numbered}"
    )


def _advise_weights(recipe: Recipe) -> list[str]:
    model = recipe.model
    if recipe.run.init_from or not isinstance(model, ModelConfig):
        return []
    weights = getattr(model.backbone, "weights", "")
    start = {"none": "random weights", "tiny": "a backbone that has seen only drawn shapes"}.get(weights)
    coco = "start from a detector that has seen photographs: --init-from coco, on a GPU"
    if start is None:
        is_resnet = isinstance(model.backbone, ResNetConfig) and model.backbone.depth == 50
        return [coco] if is_resnet else []
    return [f"start from trained weights: this run began with {start}. --init-from imagenet on any machine; {coco}"]


def _advise_steps(recipe: Recipe, steps: int) -> list[str]:
    """Advises more epochs, as many as make `FEW_STEPS` steps."""
    if not 0 < steps < FEW_STEPS:
        return []
    epochs = -(-recipe.optim.epochs * FEW_STEPS // steps)
    schedule = "" if recipe.optim.schedule == "cosine" else ", with milestones in proportion or --optim.schedule cosine"
    return [f"train longer: --optim.epochs {epochs} makes about {FEW_STEPS:,} steps{schedule}"]


def _advise_sizes(recipe: Recipe, annotations: Annotations) -> list[str]:
    """Advises larger images if half of the objects are small at the size that the model sees."""
    objects, sizes = annotations.objects, annotations.sizes[annotations.objects.images].astype(float)
    rows = objects.trainable & (sizes > 0).all(axis=1)
    if not rows.any():
        return []
    short, long = sizes[rows].min(axis=1), sizes[rows].max(axis=1)
    scales = np.minimum(recipe.data.test_short_side / short, recipe.data.max_long_side / long)
    boxes = objects.boxes[rows]
    side = float(np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) * scales))
    if side >= SMALL_SIDE:
        return []
    text = (
        f"take larger images: in images with a short side of {recipe.data.test_short_side} pixels, half of the objects "
        f"have sides below {side:.1f} pixels. Raise --data.short-sides, --data.test-short-side and --data.max-long-side"
    )
    return [text]


def _advise_rate(rate: float) -> str:
    if rate == 0:
        return "a learning rate above 0 (--optim.lr): with 0 nothing is learned"
    return (
        f"another learning rate: if the loss in log.jsonl has hardly fallen, --optim.lr {rate * 4:.2g}; if it jumps, "
        f"--optim.lr {rate / 4:.2g}"
    )
