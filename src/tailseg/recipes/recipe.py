"""The recipe: one frozen dataclass with every setting of a run.

A function makes a recipe (``tailseg.recipes.tiny.tiny_gumbel`` ...). ``dataclasses.replace`` or the command line
changes its settings, and the run saves it. The settings of models, losses and data are defined in their packages; none
of them imports torch.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from tailseg.data.settings import ColorConfig, CopyPasteConfig, CropConfig, JitterConfig, RepeatThreshold, Sampling
from tailseg.deprecated import renamed_fields
from tailseg.files import Input, Output
from tailseg.losses.settings import AnyLoss
from tailseg.models.config import AnyDetector, Precision
from tailseg.ranges import Range, SettingError, Settings, check_ranges, require_build
from tailseg.words import verb_form

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer

PUBLISHED_BATCH_SIZE: Final = 16
"""The number of images per step that the published learning rates are meant for: 4 devices with 4 images each."""
TrackerName = Literal["wandb", "mlflow"]
CHANGE_PIXELS: Final = ("crop", "jitter", "color", "paste", "augmentation", "source")
"""Settings of the data that kept maps cannot be combined with."""


@dataclass(frozen=True)
class DataConfig(Settings, at="data"):
    """The images of a run: their files, their sizes, and how they are sampled."""

    train: Annotated[str, Input()]
    """Annotation file of the training set, or ``tiny_tail[:preset]`` for the embedded data set."""
    val: Annotated[str | None, Input()]
    """Annotation file of the validation set, or ``tiny_tail[:preset]``; None holds out a tenth of the training set."""
    train_images: Annotated[str | None, Input()] = None
    """Folder of the training images; None looks for them next to the annotation file (see tailseg.annotations.read)."""
    val_images: Annotated[str | None, Input()] = None
    """Folder of the validation images; None looks for them next to the annotation file."""
    short_sides: Annotated[tuple[int, ...], Range(ge=1, some=True)] = (640, 672, 704, 736, 768, 800)
    """Lengths in pixels. Training resizes the short side of each image to one of them, chosen at random."""
    test_short_side: Annotated[int, Range(ge=1)] = 800
    """Length in pixels that validation and testing resize the short side to."""
    max_long_side: Annotated[int, Range(ge=1)] = 1333
    """Largest length of the long side in pixels; an image that would be longer is resized to this."""
    crop: CropConfig | None = None
    """Crop some of the training images before they are resized; None crops none, as published for ResNets."""
    flip: Annotated[float, Range(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip in training."""
    jitter: JitterConfig | None = None
    """Large-scale jitter in place of short_sides, max_long_side and crop in training. None has no jitter."""
    color: ColorConfig | None = None
    """Random changes of the colors in training. None changes no colors."""
    paste: CopyPasteConfig | None = None
    """Paste objects of other images into training images, rare classes more often. None pastes nothing."""
    clean_epochs: Annotated[int, Range(ge=0)] = 0
    """Number of last epochs without jitter, color and paste. They have the other settings, such as short_sides."""
    batch_size: Annotated[int, Range(ge=1)] = 16
    """Images per step, over all processes. optim.accumulation_steps splits them into parts."""
    workers: Annotated[int, Range(ge=0)] = 4
    """Number of loader processes; 0 loads the images in the main process."""
    sampling: Sampling = "repeat"
    """Which training images are drawn more often. repeat: repeat factors from the share of the images with a class;
    instance_repeat: from the geometric mean of its shares of images and objects; exponential_repeat: the exponential of
    those; class_aware: draw a class, each alike, then one of its images; balanced: the same, with classes by the square
    root of their images."""
    repeat_threshold: Annotated[RepeatThreshold, Range(ge=0, le=1)] = 0.0
    """Repeat factor sampling: a class in a smaller share of the images than this is repeated. 0 repeats no class; auto
    is the median share of the classes, and repeats half of them."""
    repeat_exponent: Annotated[float | None, Range(ge=0)] = None
    """How strongly rare classes are repeated: (threshold / share) to this power; 0 repeats none, 1 shows the repeated
    classes equally often. For balanced, 0 draws classes by their images and 1 each alike; for exponential_repeat the
    factor in the exponential. None is the published one: 0.5, and 2 for exponential_repeat."""
    repeat_rounding: Literal["ceil", "stochastic"] = "ceil"
    """Rounding of the repeat factors: ceil rounds up, as published; stochastic rounds at random in each epoch."""
    groups: Annotated[tuple[int, int], Range(ge=1, ascending=True)] = (10, 100)
    """Bounds of the frequency groups: a class is rare up to the first number of training images, common up to the
    second one, and frequent above. With LVIS's bounds (10 and 100), the groups that an annotation file states
    ("frequency" in LVIS) are used; other bounds replace them."""
    only_verified: bool = False
    """Use a class as a negative only in images where annotators looked for it: it is annotated there, or listed in
    neg_category_ids. A class in not_exhaustive_category_ids is no negative either. Without effect on files that are not
    LVIS's."""
    filter_empty: bool = True
    """Leave out training images without objects."""
    on_problem: Literal["refuse", "repair"] = "refuse"
    """Objects that cannot be used, such as those without a mask: refuse the file and name them, or leave them out and
    count them (repair). `tailseg data check` lists them."""
    crowds: Literal["ignore", "objects"] = "ignore"
    """Ignore crowd regions (iscrowd), or use them as objects, since some tools write every mask as a crowd region."""
    orientation: Literal["shown", "stored"] = "shown"
    """Images with an EXIF orientation: rotate them as viewers and annotation tools do (shown), or keep the stored
    pixels. If the annotated size fits the stored pixels only, shown keeps them as well."""
    max_bad_images: Annotated[float, Range(ge=0, le=1)] = 0.001
    """Largest share of the training images that may be missing or unreadable. The run names each of them and takes
    another image in its place; with more of them the run ends."""
    keep_maps: bool = False
    """Compute the feature maps of a frozen backbone once, and train the rest of the network on them. Steps are faster,
    most of all on a CPU. The maps, a megabyte an image or more, are kept in ~/.cache/tailseg (or TAILSEG_HOME), where
    later runs on the same images find them. Needs model.backbone.frozen_stages 4. Images are resized and flipped, no
    more."""
    source: object | None = None
    """Your own data set in Python: a config whose ``build()`` returns a training and a validation set, see
    `tailseg.data.source`. It replaces the annotation files."""
    augmentation: object | None = None
    """Your own augmentation: a config whose ``build(data)`` returns a transform, see `tailseg.data.transforms`. It
    replaces the built-in augmentation (short_sides, crop, flip, jitter); color and paste follow it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling in ("instance_repeat", "exponential_repeat") and self.repeat_threshold == 0:
            raise SettingError(
                f"data.sampling {self.sampling} with data.repeat_threshold 0 repeats no image: give a threshold, such "
                "as 0.001 or auto (--data.repeat-threshold auto)"
            )
        for name, signature, result in (
            ("source", "build()", "a training and a validation set"),
            ("augmentation", "build(data)", "a transform"),
        ):
            if getattr(self, name) is not None:
                require_build(getattr(self, name), f"data.{name}", signature, returns=result)
        if self.keep_maps and (others := [f"data.{name}" for name in CHANGE_PIXELS if getattr(self, name, None)]):
            raise SettingError(
                f"data.keep_maps is on and {' and '.join(others)} {verb_form(len(others), 'is', 'are')} set: kept maps "
                "belong to images of files that are resized and flipped only. Leave one of the two out "
                "(--data.no-keep-maps)"
            )


@renamed_fields(steps="milestones", average="ema_decay", accumulate="accumulation_steps")
@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Settings, at="optim"):
    """The settings of every optimizer: a learning rate with a linear warm-up that decays in steps or as a cosine.

    The config of an optimizer of your own is a subclass. It adds a method ``build(model)``, and may override
    `learning_rate`. ``build`` returns a ``torch.optim.Optimizer``; training sets its learning rate before each step.
    """

    lr: Annotated[float, Range(ge=0)]
    """Learning rate for 16 images per step; it is scaled in proportion to data.batch_size."""
    epochs: Annotated[int, Range(ge=1)] = 12
    """Number of epochs."""
    schedule: Literal["steps", "cosine"] = "steps"
    """steps: the learning rate is multiplied by gamma at each of the milestones, as published. cosine: after the
    warm-up it falls along half a cosine, step by step, until the end of the run; milestones and gamma have no effect.
    """
    milestones: Annotated[tuple[int, ...], Range(ge=1)] = (8, 11)
    """Epochs after which the learning rate is multiplied by gamma."""
    gamma: Annotated[float, Range(gt=0, le=1)] = 0.1
    """Factor of the learning rate at each milestone."""
    min_lr_ratio: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of the learning rate that the cosine falls to."""
    warmup_iterations: Annotated[int, Range(ge=0)] = 500
    """Steps of the linear warm-up at the start of the run; 0 has no warm-up."""
    warmup_epochs: Annotated[float | None, Range(ge=0)] = None
    """Length of the warm-up in epochs, such as 0.5, in place of warmup_iterations. None counts steps."""
    warmup_ratio: Annotated[float, Range(ge=0, le=1)] = 0.001
    """Share of the learning rate that the warm-up begins with."""
    clip_norm: Annotated[float | None, Range(gt=0)] = None
    """Largest global norm of the gradient; a larger gradient is scaled down. None does not clip, as published."""
    max_loss_ratio: Annotated[float | None, Range(gt=1)] = 100.0
    """The training has diverged and ends when its loss is above this many times its start. None does not check."""
    ema_decay: Annotated[float | None, Range(gt=0, lt=1)] = None
    """Decay of a moving average of the weights, such as 0.9998. The average is saved and evaluated in place of the
    trained weights. None has no average, as published."""
    accumulation_steps: Annotated[int, Range(ge=1)] = 1
    """Number of parts that a step's images are split into. The parts run one after the other and their gradients are
    added up: 16 images in 8 parts need the memory of 2 images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self).build is ScheduleConfig.build:  # ty: ignore[redundant-condition-strict]
            raise SettingError(
                f"optim: {type(self).__name__} has no method build(model): add one that returns a "
                "torch.optim.Optimizer (docs/how-to/train-from-python.md)"
            )

    def build(self, model: "Module") -> "Optimizer":
        """Builds the optimizer of the model's trainable parameters; every subclass defines this method.

        Args:
            model: the network to train.
        """
        raise NotImplementedError

    def learning_rate(self, *, step: int, epoch: int, batch_size: int, steps_per_epoch: int | None = None) -> float:
        """Returns the learning rate of one step; a schedule of your own overrides this method.

        The rate is ``lr * batch_size / 16 * warmup * decay``. In the first W steps (`count_warmup_steps`) ``warmup``
        grows linearly from ``warmup_ratio`` to 1 (mmdetection's linear warm-up). ``decay`` is

        - with the schedule ``steps``: ``gamma ** (number of milestones <= epoch)``;
        - with the schedule ``cosine``: 1 in the warm-up, then ``m + (1 - m) * (1 + cos(pi * t)) / 2`` with
          m = ``min_lr_ratio`` and ``t = (step - W) / (epochs * steps_per_epoch - W)``. This is
          ``torch.optim.lr_scheduler.CosineAnnealingLR`` after a ``LinearLR`` (Loshchilov and Hutter, SGDR, 2017).

        A method of your own may leave out ``steps_per_epoch``. The training then calls it without this argument.

        Args:
            step: steps done since the start of the run, from 0.
            epoch: epochs done, from 0.
            batch_size: images per step, over all processes and all parts of ``accumulation_steps``.
            steps_per_epoch: steps of an epoch; the cosine and ``warmup_epochs`` need it.

        Returns:
            The learning rate. Each parameter group of the optimizer gets it, times the group's ``lr_scale`` if it has
            one.

        Raises:
            ValueError: the schedule needs ``steps_per_epoch``, and it is None.
        """
        rate = self.lr * batch_size / PUBLISHED_BATCH_SIZE
        warmup_steps = self.count_warmup_steps(steps_per_epoch)
        if self.schedule == "steps":
            rate *= self.gamma ** sum(epoch >= decay_epoch for decay_epoch in self.milestones)
        elif step > warmup_steps:
            total = self.epochs * _require_steps_per_epoch(steps_per_epoch, "optim.schedule = cosine")
            done = min((step - warmup_steps) / max(total - warmup_steps, 1), 1.0)
            rate *= self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
        if step < warmup_steps:
            rate *= 1 - (1 - step / warmup_steps) * (1 - self.warmup_ratio)
        return float(rate)

    def count_warmup_steps(self, steps_per_epoch: int | None) -> int:
        """Counts the steps of the warm-up: ``warmup_iterations``, or ``warmup_epochs * steps_per_epoch``, rounded.

        Args:
            steps_per_epoch: steps of an epoch; only ``warmup_epochs`` needs it.

        Raises:
            ValueError: ``warmup_epochs`` is set, and ``steps_per_epoch`` is None.
        """
        if self.warmup_epochs is None:
            return self.warmup_iterations
        return round(self.warmup_epochs * _require_steps_per_epoch(steps_per_epoch, "optim.warmup_epochs"))


def _require_steps_per_epoch(steps_per_epoch: int | None, setting: str) -> int:
    if steps_per_epoch is None:
        raise ValueError(
            f"{setting} needs the number of steps of an epoch: call learning_rate(..., steps_per_epoch=N). A "
            "learning_rate of your own must take this argument and pass it on"
        )
    return steps_per_epoch


@renamed_fields()
@dataclass(frozen=True, kw_only=True)
class SGDConfig(ScheduleConfig):
    """SGD with momentum; weight decay applies to every parameter, as published."""

    lr: Annotated[float, Range(ge=0)] = 0.02
    """Learning rate for 16 images per step; it is scaled in proportion to data.batch_size."""
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Range(ge=0)] = 1e-4
    """Weight decay of every parameter."""

    def build(self, model: "Module") -> "Optimizer":
        """Builds SGD over all trainable parameters, biases and normalization scales included, as in mmdetection.

        Raises:
            ValueError: the model has no trainable parameter.
        """
        from tailseg.models.optimizers import build_sgd

        return build_sgd(model, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@renamed_fields()
@dataclass(frozen=True, kw_only=True)
class AdamWConfig(ScheduleConfig):
    """AdamW, as published for Swin: norm layers and tables of relative positions have no weight decay."""

    lr: Annotated[float, Range(ge=0)] = 1e-4
    """Learning rate for 16 images per step; it is scaled in proportion to data.batch_size."""
    betas: Annotated[tuple[float, float], Range(ge=0, lt=1)] = (0.9, 0.999)
    """Decay rates of AdamW's averages of the gradient and of its square."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.05
    """Weight decay of the parameters that have one."""
    warmup_iterations: Annotated[int, Range(ge=0)] = 1000
    """Steps of the linear warm-up at the start of the run; 0 has no warm-up."""

    def build(self, model: "Module", *, spare_timm: bool = True) -> "Optimizer":
        """Builds AdamW over all trainable parameters; some have no weight decay, see `tailseg.models.optimizers`.

        Args:
            model: the network to train.
            spare_timm: False applies weight decay to the parameters that timm excludes, as earlier versions did.

        Returns:
            An optimizer with two parameter groups: with and without weight decay.

        Raises:
            ValueError: the model has no trainable parameter.
        """
        from tailseg.models.optimizers import build_adamw

        return build_adamw(model, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, spare_timm=spare_timm)


OptimConfig = SGDConfig | AdamWConfig | ScheduleConfig
"""The settings of an optimizer and its schedule. The class determines the optimizer. The config of your own optimizer
is a subclass of `ScheduleConfig` with a method ``build(model)`` that returns a ``torch.optim.Optimizer``."""

OPTIMIZERS: dict[str, type[ScheduleConfig]] = {"sgd": SGDConfig, "adamw": AdamWConfig}
"""The built-in optimizers by name."""


@renamed_fields(start_from="init_from")
@dataclass(frozen=True)
class RunConfig(Settings, at="run"):
    """The folder, the device and the intervals of a run. Only init_from, seed and precision change what is learned.

    compile changes the last bits of sums, as another GPU does.
    """

    out: Annotated[str, Output("the run")] = "runs/{name}"
    """Folder of the run; {name} is the recipe's name."""
    init_from: Annotated[str | None, Input()] = None
    """Initialize the network from this file, which `tailseg convert` or another run wrote for the same network. All
    layers are copied; classifiers copy the rows of classes with the same name. None loads the backbone's weights
    only."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Seed of the random initialization, of the order of the images and of the augmentation."""
    device: str = "auto"
    """auto is cuda if present, else cpu. mps is an Apple GPU, on which tailseg was never run (docs/install.md)."""
    precision: Precision = "float32"
    """float32; tf32 (float32 with faster matrix products on GPUs since Ampere); or autocast to bfloat16 or float16.
    With float16 the loss is scaled, because small gradients would become 0."""
    compile: bool = False
    """Compile the backbone and the feature pyramid with torch.compile: the start takes minutes, steps are faster."""
    log_every: Annotated[int, Range(ge=1)] = 20
    """Steps between two lines of log.jsonl and TensorBoard."""
    eval_every: Annotated[int, Range(ge=0)] = 1
    """Epochs between two evaluations; 0 evaluates after the last epoch only, which is always evaluated."""
    checkpoint_every: Annotated[int, Range(ge=0)] = 1
    """Epochs between two checkpoints; 0 saves only after epochs that are evaluated."""
    checkpoint_steps: Annotated[int, Range(ge=1)] = 1000
    """Steps between two checkpoints within an epoch."""
    keep_checkpoints: Annotated[int, Range(ge=0)] = 2
    """Number of checkpoints to keep in addition to the best one; the newest one always stays."""
    best_by: str | None = None
    """Figure that decides which checkpoint is the best, such as APr, bbox/AP50, or one of your own metrics
    (Name/figure); larger is better. Without bbox/ or segm/ it is that of masks, or of boxes if there are none. None is
    AP."""
    patience: Annotated[int | None, Range(ge=1)] = None
    """End the training after this many evaluations in a row without a gain in best_by. None trains all epochs."""
    min_gain: Annotated[float, Range(ge=0)] = 0.0
    """How much best_by must rise to be a gain for patience, such as 0.001 for 0.1 AP."""
    trackers: tuple[TrackerName, ...] = ()
    """Trackers that get the lines of log.jsonl too: wandb, mlflow. TensorBoard always has them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_every == self.eval_every == 0:
            raise SettingError(
                "run.checkpoint_every and run.eval_every are both 0, so only the last epoch would be saved: give one "
                "of them a number of epochs (--run.checkpoint-every 1)"
            )
        if self.patience is not None and self.eval_every == 0:
            raise SettingError(
                f"run.patience is {self.patience} and run.eval_every 0: the only evaluation is after the last epoch. "
                "Evaluate after more epochs (--run.eval-every 1)"
            )
        if len({*self.trackers}) < len(self.trackers):
            raise SettingError(f"run.trackers is {' '.join(self.trackers)}: name each tracker once")


@dataclass(frozen=True)
class Recipe:
    """All settings of a run. ``name`` is the name of the function that made the recipe.

    Raises:
        SettingError: ``optim.accumulation_steps`` does not divide ``data.batch_size``, or a number of the user's own
            loss is out of its range.
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
        check_ranges(self.loss, ("loss",))  # the config of the user's own loss may not be a subclass of `Settings`
        if self.data.batch_size % self.optim.accumulation_steps:
            raise SettingError(
                f"the {self.data.batch_size} images of a step cannot be split into {self.optim.accumulation_steps} "
                "equal parts: choose an optim.accumulation_steps that divides data.batch_size"
            )


def run_folder(recipe: Recipe) -> Path:
    """Returns the folder of the recipe's run.

    Raises:
        ValueError: the text in braces is not ``{name}``.
    """
    try:
        return Path(recipe.run.out.format(name=recipe.name))
    except (LookupError, ValueError, AttributeError):
        raise ValueError(
            f"run.out is {recipe.run.out!r}: expected no braces except in {{name}}, which is the recipe's name. Write "
            "{{ and }} for braces in a folder's name"
        ) from None
