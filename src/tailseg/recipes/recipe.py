"""What a recipe is: one frozen dataclass that holds every setting of a run.

A recipe is made by a function (``tailseg.recipes.tiny.tiny_gumbel`` ...), varied with ``dataclasses.replace`` or from
the command line, and saved with the run. The settings of models, losses and data stand in their packages; none of them
imports torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from tailseg.data.settings import CropConfig
from tailseg.deprecated import renamed_fields
from tailseg.files import Input, Output
from tailseg.losses.settings import AnyLoss
from tailseg.models.config import AnyDetector, Precision
from tailseg.ranges import Range, SettingError, Settings, check_ranges, require_build

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer

PUBLISHED_BATCH_SIZE: Final = 16
"""Images a step that the published learning rates are meant for: 4 devices with 4 images each."""


@dataclass(frozen=True)
class DataConfig(Settings, at="data"):
    """Which images, at what size, how often."""

    train: Annotated[str, Input()]
    """Annotation file of the training set, or ``tiny_tail[:preset]`` for the embedded data set."""
    val: Annotated[str | None, Input()]
    """Annotation file of the validation set, or ``tiny_tail[:preset]``; None holds out a tenth of the training set."""
    train_images: Annotated[str | None, Input()] = None
    """Folder of the training images; None looks beside the annotation file (see tailseg.annotations.read)."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the validation images; None looks beside the annotation file."""
    short_sides: Annotated[tuple[int, ...], Range(ge=1, some=True)] = (640, 672, 704, 736, 768, 800)
    """Training resizes the short side to one of these, drawn for each image."""
    test_short_side: Annotated[int, Range(ge=1)] = 800
    """Testing resizes the short side to this."""
    max_long_side: Annotated[int, Range(ge=1)] = 1333
    """No long side exceeds this."""
    crop: CropConfig | None = None
    """In training, crop some of the images before they are resized; None crops none, as published for ResNets."""
    flip: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip in training."""
    batch_size: Annotated[int, Range(ge=1)] = 16
    """Images a step, over all processes and over all parts that optim.accumulation_steps makes of it."""
    workers: Annotated[int, Range(ge=0)] = 4
    """Loader processes; 0 loads in the main process."""
    repeat_threshold: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Repeat factor sampling: classes in a smaller share of the images are repeated. 0 is plain random sampling."""
    repeat_rounding: Literal["ceil", "stochastic"] = "ceil"
    """ceil as published, or stochastic rounding drawn again each epoch."""
    groups: Annotated[tuple[int, int], Range(ge=1, ascending=True)] = (10, 100)
    """Bounds of the frequency groups: a class is rare up to the first number of training images, common up to the
    second one, and frequent above. Groups that an annotation file states (LVIS's "frequency") are used while these are
    LVIS's bounds, 10 and 100; other bounds replace them."""
    filter_empty: bool = True
    """Leave out training images without objects."""
    on_problem: Literal["refuse", "repair"] = "refuse"
    """What is done about objects that cannot be used, such as those without a mask: refuse the file and name them, or
    leave them out (repair) and count them. `tailseg data check` lists them."""
    crowds: Literal["ignore", "objects"] = "ignore"
    """Leave crowd regions (iscrowd) alone, or take them as objects: some tools write every mask as a crowd."""
    orientation: Literal["shown", "stored"] = "shown"
    """Pictures whose EXIF says that they are to be turned: as viewers and annotation tools show them, or with their
    pixels as stored. Where the annotated size fits one of these alone, shown takes that one."""
    max_bad_images: Annotated[float, Range(ge=0, le=1)] = 0.001
    """Share of the training images that may turn out missing or unreadable: each is named, and another image is taken
    in its place; one more of them ends the run."""
    source: object | None = None
    """Your own data set in Python: a config whose ``build()`` returns a training and a validation set, see
    `tailseg.data.source`. It takes the place of the annotation files."""
    augmentation: object | None = None
    """Your own augmentation: a config whose ``build(data)`` returns a transform, see `tailseg.data.transforms`. It
    takes the place of the built-in one (short_sides, crop, flip)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, signature, what in (
            ("source", "build()", "a training and a validation set"),
            ("augmentation", "build(data)", "a transform"),
        ):
            if getattr(self, name) is not None:
                require_build(getattr(self, name), f"data.{name}", signature, returns=what)


@renamed_fields(steps="milestones", average="ema_decay", accumulate="accumulation_steps")
@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Settings, at="optim"):
    """What every optimizer has: linear warm-up and steps, as published for 16 images a step.

    The config of an optimizer of your own is a subclass. It adds a method ``build(model)``, and may override
    `learning_rate`. ``build`` returns a ``torch.optim.Optimizer``; the training sets the rate before each step.
    """

    lr: Annotated[float, Range(ge=0)]
    """For 16 images a step; the rate follows data.batch_size in proportion."""
    epochs: Annotated[int, Range(ge=1)] = 12
    milestones: Annotated[tuple[int, ...], Range(ge=1)] = (8, 11)
    """Epochs after which the rate is multiplied by gamma."""
    gamma: Annotated[float, Range(gt=0, le=1)] = 0.1
    warmup_iterations: Annotated[int, Range(ge=0)] = 500
    warmup_ratio: Annotated[float, Range(ge=0, le=1)] = 0.001
    clip_norm: Annotated[float | None, Range(gt=0)] = None
    """Clip the gradient's global norm to this; None does not clip, as published."""
    ema_decay: Annotated[float | None, Range(gt=0, lt=1)] = None
    """Evaluate and keep a moving average of the weights with this decay, such as 0.9998, beside those that are trained;
    None keeps none, as published."""
    accumulation_steps: Annotated[int, Range(ge=1)] = 1
    """Parts that a step's images are taken in, one after the other, their gradients added up: 16 images in 8 parts need
    the memory of 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self).build is ScheduleConfig.build:  # ty: ignore[redundant-condition-strict]
            raise SettingError(
                f"optim: {type(self).__name__} has no method build(model): add one that returns a "
                "torch.optim.Optimizer (docs/how-to/train-from-python.md)"
            )

    def build(self, model: "Module") -> "Optimizer":
        """The optimizer of the model's trainable parameters; every subclass has its own.

        Args:
            model: the network to train.
        """
        raise NotImplementedError

    def learning_rate(self, *, step: int, epoch: int, batch_size: int) -> float:
        """The learning rate of one step; a schedule of your own overrides this method.

        ``lr * batch_size / 16 * gamma ** (number of milestones <= epoch)``. In the first ``warmup_iterations`` steps it
        is multiplied by a ramp from ``warmup_ratio`` to 1, linear in the step (the linear warm-up of mmdetection).

        Args:
            step: steps done since the start of the run, from 0.
            epoch: epochs done, from 0.
            batch_size: images of a step, over all processes and all parts that ``accumulation_steps`` makes of them.

        Returns:
            The rate. Each of the optimizer's parameter groups gets it, times the group's ``lr_scale`` if it has one.
        """
        rate = self.lr * batch_size / PUBLISHED_BATCH_SIZE
        rate *= self.gamma ** sum(epoch >= decay_epoch for decay_epoch in self.milestones)
        if step < self.warmup_iterations:
            rate *= 1 - (1 - step / self.warmup_iterations) * (1 - self.warmup_ratio)
        return float(rate)


@renamed_fields()
@dataclass(frozen=True, kw_only=True)
class SGDConfig(ScheduleConfig):
    """SGD with momentum; weight decay applies to every parameter, as published."""

    lr: Annotated[float, Range(ge=0)] = 0.02
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Range(ge=0)] = 1e-4

    def build(self, model: "Module") -> "Optimizer":
        """The optimizer over every trainable parameter, biases and normalization scales included, as in mmdetection.

        Raises:
            ValueError: the model has no trainable parameter.
        """
        from tailseg.models.optimizers import build_sgd

        return build_sgd(model, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@renamed_fields()
@dataclass(frozen=True, kw_only=True)
class AdamWConfig(ScheduleConfig):
    """AdamW, as published for Swin: norms and tables of relative positions do not decay."""

    lr: Annotated[float, Range(ge=0)] = 1e-4
    betas: Annotated[tuple[float, float], Range(ge=0, lt=1)] = (0.9, 0.999)
    weight_decay: Annotated[float, Range(ge=0)] = 0.05
    warmup_iterations: Annotated[int, Range(ge=0)] = 1000

    def build(self, model: "Module", *, spare_timm: bool = True) -> "Optimizer":
        """The optimizer over every trainable parameter; some do not decay, see `tailseg.models.optimizers`.

        Args:
            model: the network to train.
            spare_timm: False decays the parameters that timm wants to spare, as earlier versions did.

        Returns:
            An optimizer with two parameter groups: with and without weight decay.

        Raises:
            ValueError: the model has no trainable parameter.
        """
        from tailseg.models.optimizers import build_adamw

        return build_adamw(model, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, spare_timm=spare_timm)


OptimConfig = SGDConfig | AdamWConfig | ScheduleConfig
"""The settings of an optimizer and its schedule. The class says which optimizer: one of your own is a subclass of
`ScheduleConfig` with a method ``build(model)`` that returns a ``torch.optim.Optimizer``."""

OPTIMIZERS: dict[str, type[ScheduleConfig]] = {"sgd": SGDConfig, "adamw": AdamWConfig}
"""The built-in optimizers by name."""


@renamed_fields(start_from="init_from")
@dataclass(frozen=True)
class RunConfig(Settings, at="run"):
    """How the run is carried out: nothing here changes what is learned except init_from, seed and precision.

    compile changes sums in their last bits, as another GPU would.
    """

    out: Annotated[str, Output("the run")] = "runs/{name}"
    """Folder of the run; {name} is the recipe's name."""
    init_from: Annotated[str | None, Input()] = None
    """Start from the weights of this file, which `tailseg convert` or another run wrote for the same network: shared
    layers, and the rows of classes of the same name; None starts from the backbone's weights alone."""
    seed: Annotated[int, Range(ge=0)] = 0
    device: str = "auto"
    """auto takes cuda when present, else cpu."""
    precision: Precision = "float32"
    """float32 as IEEE says; tf32 for products on GPUs since Ampere; bfloat16 or float16 autocast, float16 with the loss
    scaled so that small gradients survive."""
    compile: bool = False
    """torch.compile the backbone and the pyramid: minutes at the start, faster steps."""
    log_every: Annotated[int, Range(ge=1)] = 20
    """Steps between two lines of log.jsonl and TensorBoard."""
    eval_every: Annotated[int, Range(ge=0)] = 1
    """Epochs between two evaluations; the last epoch is always evaluated; 0 evaluates only then."""
    checkpoint_every: Annotated[int, Range(ge=0)] = 1
    """Epochs between two checkpoints; 0 saves after epochs that are evaluated alone."""
    checkpoint_steps: Annotated[int, Range(ge=1)] = 1000
    """Steps between two checkpoints within an epoch."""
    keep_checkpoints: Annotated[int, Range(ge=0)] = 2
    """Checkpoints that stay beside the best one; the newest always does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_every == self.eval_every == 0:
            raise SettingError(
                "run.checkpoint_every and run.eval_every are both 0: no epoch but the last would be saved; give one of "
                "them a number of epochs (--run.checkpoint-every 1)"
            )


@dataclass(frozen=True)
class Recipe:
    """A complete run. ``name`` finds the function that made it again.

    Raises:
        SettingError: ``optim.accumulation_steps`` does not divide ``data.batch_size``, or a number of a loss that is
            the user's own is out of its range.
    """

    name: str
    data: DataConfig
    model: AnyDetector
    loss: AnyLoss
    optim: OptimConfig = field(default_factory=SGDConfig)
    run: RunConfig = field(default_factory=RunConfig)
    metrics: tuple[object, ...] = ()
    """Your own metrics: configs whose ``build()`` returns a function of the annotations and the results, see
    `tailseg.evaluation.own_metrics`."""

    def __post_init__(self) -> None:
        require_build(self.model, "model", "build(loss, load_weights=True)", returns="a detector")
        require_build(self.loss, "loss", "build(frequency)", returns="a ClassificationLoss")
        require_build(self.optim, "optim", "build(model)", returns="a torch.optim.Optimizer")
        if not isinstance(self.optim, ScheduleConfig):
            raise SettingError(
                f"optim is a {type(self.optim).__name__}: make it a subclass of tailseg.recipes.ScheduleConfig, "
                "which has the settings of the schedule"
            )
        for index, metric in enumerate(self.metrics):
            require_build(metric, f"metrics[{index}]", returns="a function of the annotations and the results")
        check_ranges(self.loss, ("loss",))  # one of the user's own need not be `Settings`
        if self.data.batch_size % self.optim.accumulation_steps:
            raise SettingError(
                f"a step's {self.data.batch_size} images cannot be taken in {self.optim.accumulation_steps} equal "
                "parts: optim.accumulation_steps must divide data.batch_size"
            )


def run_folder(recipe: Recipe) -> Path:
    """The folder of the recipe's run.

    Raises:
        ValueError: something else than ``{name}`` stands in braces.
    """
    try:
        return Path(recipe.run.out.format(name=recipe.name))
    except (LookupError, ValueError, AttributeError):
        raise ValueError(
            f"run.out is {recipe.run.out!r}, and only {{name}}, the recipe's name, can stand in braces there: write "
            "{{ and }} for braces in a folder's name"
        ) from None
