"""The interface of every classification loss.

Shapes: R regions, C foreground classes, L logits per region. Labels are ``0 .. C-1``; ``C`` is background.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tailseg.losses.class_weights import compute_label_weights
from tailseg.losses.links import is_transformed
from tailseg.losses.settings import BaseLossConfig
from tailseg.structures import ClassFrequency

P = ParamSpec("P")
Config = TypeVar("Config", bound=BaseLossConfig)
Loss = TypeVar("Loss", bound="ClassificationLoss")
Classes = TypeVar("Classes")


class ClassificationLoss(nn.Module, ABC):
    """Turns region logits into a training loss and into test scores.

    The heads ask a loss for the number of its logits, for the classifier's initial bias, for the cost of training and
    for the scores; they know nothing else about it.

    Attributes:
        num_classes: C, foreground classes only.
        num_logits: L; C, C + 1 (background is the last logit) or C + 2, as the loss decides.
        scores_are_exclusive: whether a region's scores always sum to at most 1, as a softmax's do. The calibration
            treats such scores as shares, and all others as answers to separate questions.
        constant_names: the names of the tensors of `set_constant`.
    """

    num_classes: int
    num_logits: int
    scores_are_exclusive: bool = False
    constant_names: tuple[str, ...] = ()

    def extra_repr(self) -> str:
        """The classes and logits, for ``print(model)``."""
        return f"num_classes={self.num_classes}, num_logits={self.num_logits}"

    @abstractmethod
    def init_bias(self) -> Float[Tensor, " L"]:
        """Returns the classifier's bias before the first step."""

    @abstractmethod
    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        """Computes named scalar losses, in float32 or wider; they are finite and differentiable for R = 0 too.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes disagree.
        """

    @abstractmethod
    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Computes the scores in ``[0, 1]`` of the foreground classes, in float32 or wider."""

    def set_class_weights(self, classes: int | ClassFrequency, config: BaseLossConfig) -> None:
        """Sets the weights of the labels, see `tailseg.losses.class_weights`. Constructors call it.

        Args:
            classes: the frequency of the classes in the training set, or their number if there are no class weights.
            config: the settings.

        Raises:
            SettingError: the class weights do not fit the classes.
        """
        weights = compute_label_weights(classes, config)
        if weights is not None:
            self.set_constant("label_weights", weights)

    def set_constant(self, name: str, value: Tensor) -> None:
        """Keeps a tensor as an attribute that moves with the model, is never trained or saved, and keeps its type.

        It is no buffer, because averages of a model average its buffers too (``torch.optim.swa_utils`` with
        ``use_buffers``): there indices become other indices, booleans are an error, and infinity becomes NaN.

        Args:
            name: of the attribute.
            value: the tensor.
        """
        setattr(self, name, value)
        self.constant_names = (*self.constant_names, name)

    def get_label_weights(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, " C_and_background"] | None:
        """Returns the weight of each label, background last, in the type of the loss; None if all weigh alike.

        ``torch.nn.functional.cross_entropy`` takes it as its weight.
        """
        weights = getattr(self, "label_weights", None)
        return None if weights is None else weights.to(torch.promote_types(logits.dtype, torch.float32))

    def weigh_regions(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> Float[Tensor, " R"] | None:
        """Returns the factor of the whole cost of each region, the weight of its label; None if all weigh alike.

        Args:
            logits: of the regions; they decide the type.
            labels: ``0 .. C``.

        Returns:
            The factors.
        """
        weights = self.get_label_weights(logits)
        return None if weights is None else weights[labels]

    def step_taken(self) -> None:
        """Called by the training loop after each step of the optimizer.

        In one step the loss may be called several times: for the parts of a batch, and for the stages of a cascade.
        """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ClassificationLoss":
        """Moves the constants too, and keeps their type and that of the buffers in ``to``, ``half`` and so on.

        In half precision, margins would lose their digits, and counts would stop growing.
        """
        old_buffers = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, old_buffer in old_buffers.items():
            buffer = self.get_buffer(name)
            if buffer.dtype != old_buffer.dtype:
                setattr(self, name, old_buffer.to(buffer.device))
        for name in self.constant_names:
            old = getattr(self, name)
            moved = fn(old)
            setattr(self, name, moved if moved.dtype == old.dtype else old.to(moved.device))
        return self

    def check(self, logits: Tensor, labels: Tensor) -> None:
        """Refuses logits and labels that do not fit this loss. On a GPU this waits for the device once.

        NaN passes: the training loop reports it with the step and the images. ``torch.compile`` cannot look at values.
        There a label out of range is a RuntimeError (on CUDA a device assertion), and infinity passes too. In
        ``torch.func.vmap`` both pass.

        Raises:
            ValueError: a label lies outside ``0 .. C``, a logit is infinite, or shapes or types disagree.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_logits or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"{type(self).__name__} of {self.num_classes} classes expects logits [R, {self.num_logits}] and labels "
                f"[R], got logits {list(logits.shape)} and labels {list(labels.shape)}"
            )
        if labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, got {labels.dtype}: convert them with labels.long()")
        out_of_range = ((labels < 0) | (labels > self.num_classes)).any()
        if torch.compiler.is_compiling():
            torch._assert_async(~out_of_range, f"labels must lie in 0 .. {self.num_classes}")  # noqa: SLF001
            return
        # The sum needs one pass and no tensor of flags. The sum of finite logits may overflow: `_refuse` decides.
        # float16 would overflow always. For other types, a wider sum would cost a copy of the logits.
        total = logits.detach().sum(dtype=torch.float32 if logits.dtype == torch.float16 else None)
        if is_true(out_of_range | ~total.isfinite()):
            self._refuse(logits, labels)

    def _refuse(self, logits: Tensor, labels: Tensor) -> None:
        if bool(((labels < 0) | (labels > self.num_classes)).any()):
            raise ValueError(
                f"labels must lie in 0 .. {self.num_classes} ({self.num_classes} is background), "
                f"got {int(labels.min())} .. {int(labels.max())}: use contiguous labels, not category ids"
            )
        infinite = logits.isinf()
        if bool(infinite.any()):
            example = logits[infinite][0].item()
            raise ValueError(
                f"{type(self).__name__} expects finite logits, but {int(infinite.sum())} of {logits.numel()} are "
                f"infinite, the first is {example}: training has diverged; lower the learning rate, lengthen the "
                "warm-up or clip the gradient"
            )


class ConfiguredLoss(ClassificationLoss):
    """A loss with a `BaseLossConfig` as its settings.

    Args:
        classes: the number of classes C, or the frequency of the classes in the training set.
        config: the settings, kept as ``config``.
        extra_logits: the logits of a region in addition to those of the C classes: background, or objectness.
    """

    def __init__(self, classes: int | ClassFrequency, config: BaseLossConfig, *, extra_logits: int = 0) -> None:
        super().__init__()
        self.num_classes = classes if isinstance(classes, int) else classes.num_classes
        self.num_logits = self.num_classes + extra_logits
        self.config = config
        self.set_class_weights(classes, config)

    def init_bias(self) -> Float[Tensor, " L"]:
        """``config.init_bias`` for every logit."""
        return torch.full((self.num_logits,), self.config.init_bias)


def takes_settings(
    config: Callable[P, Config],
) -> Callable[[Callable[[Loss, Classes, Config], None]], Callable[Concatenate[Loss, Classes, P], None]]:
    """A decorator of a loss's constructor: callers then give the settings of a config as keywords.

    ``__init__(self, num_classes, config)``, decorated with ``@takes_settings(GumbelCEConfig)``, is called as
    ``GumbelCE(1203, weight=0.5)``. The settings, their defaults and their ranges are stated in the config alone.
    """

    def decorate(construct: Callable[[Loss, Classes, Config], None]) -> Callable[Concatenate[Loss, Classes, P], None]:
        signature = inspect.signature(construct)
        this, classes, _ = signature.parameters.values()

        @functools.wraps(construct)
        def construct_from_settings(self: Loss, *args: Any, **settings: Any) -> None:  # noqa: ANN401 - P says which
            own = {classes.name: settings.pop(classes.name)} if classes.name in settings else {}
            cast("Any", construct)(self, *args, **own, config=cast("Any", config)(**settings))

        keywords = (
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(config).parameters.values()
        )
        vars(construct_from_settings)["__signature__"] = signature.replace(parameters=[this, classes, *keywords])
        return cast("Callable[Concatenate[Loss, Classes, P], None]", construct_from_settings)

    return decorate


def refuse_transforms(loss: ClassificationLoss) -> None:
    """Refuses to count in ``torch.func``, whose tensors would stay in the loss.

    Raises:
        RuntimeError: ``torch.func`` follows the operations.
    """
    if is_transformed():
        raise RuntimeError(
            f"{type(loss).__name__} counts in training mode, and torch.func cannot follow that: call eval() on the "
            "loss, and its counts stay as they are"
        )


def is_true(condition: Bool[Tensor, ""]) -> bool:
    """Whether a condition on values holds; False in ``torch.func.vmap``, which has no single value to look at."""
    try:
        return bool(condition)
    except RuntimeError:
        if is_transformed():
            return False
        raise


def at_least_float32(tensor: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Converts to float32 unless the type is wider: losses and scores are never computed in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
