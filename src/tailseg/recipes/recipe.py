"""What a recipe is: one frozen dataclass that holds every setting of a run.

A recipe is made by a function (``tailseg.recipes.tiny.tiny_gumbel`` ...), varied with ``dataclasses.replace`` or from
the command line, and saved with the run. Model settings stand beside the module that they configure.
"""

from dataclasses import dataclass, field
from typing import Literal

from tailseg.losses import LossConfig
from tailseg.models.config import ModelConfig


@dataclass(frozen=True)
class DataConfig:
    """Which images, at what size, how often."""

    train: str
    """Annotation file of the training set, or ``tiny_tail[:preset]`` for the embedded data set."""
    val: str | None
    """Annotation file of the validation set, or ``tiny_tail[:preset]``; None holds out a tenth of the training set."""
    train_images: str | None = None
    """Folder of the training images; None looks beside the annotation file (see tailseg.data.coco)."""
    val_images: str | None = None
    """Folder of the validation images; None looks beside the annotation file."""
    short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    """Training resizes the short side to one of these, drawn for each image."""
    test_short_side: int = 800
    """Testing resizes the short side to this."""
    max_long_side: int = 1333
    """No long side exceeds this."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    batch_size: int = 16
    """Images a step, over all processes."""
    workers: int = 4
    """Loader processes; 0 loads in the main process."""
    repeat_threshold: float = 0.0
    """Repeat factor sampling: classes in a smaller share of the images are repeated. 0 is plain random sampling."""
    repeat_rounding: Literal["ceil", "stochastic"] = "ceil"
    """ceil as published, or stochastic rounding drawn anew each epoch."""
    filter_empty: bool = True
    """Leave out training images without objects."""


@dataclass(frozen=True)
class OptimConfig:
    """SGD with linear warm-up and steps, as published for 16 images a step."""

    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    epochs: int = 12
    steps: tuple[int, ...] = (8, 11)
    """The rate is multiplied by gamma after these epochs."""
    gamma: float = 0.1
    warmup_iterations: int = 500
    warmup_ratio: float = 0.001
    clip_norm: float | None = None
    """Clip the gradient's global norm to this; None does not clip, as published."""


@dataclass(frozen=True)
class RunConfig:
    """How the run is carried out: nothing here changes what is learned except start_from, seed and precision."""

    out: str = "runs/{name}"
    """Folder of the run; {name} is the recipe's name."""
    start_from: str | None = None
    """Start from the weights of this file, which `tailseg convert` or another run wrote for the same classes and the
    same network; None starts from the backbone's weights alone."""
    seed: int = 0
    device: str = "auto"
    """auto takes cuda when present, else cpu."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32, or bfloat16 autocast."""
    log_every: int = 20
    """Steps between two lines of log.jsonl and TensorBoard."""
    eval_every: int = 1
    """Epochs between two evaluations; the last epoch is always evaluated; 0 evaluates only then."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: int = 2


@dataclass(frozen=True)
class Recipe:
    """A complete run. ``name`` finds the function that made it again."""

    name: str
    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
