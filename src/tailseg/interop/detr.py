"""The losses of tailseg in the DETR-like models of transformers: RF-DETR, LW-DETR, RT-DETR, D-FINE, Mask2Former, EoMT.

    _, frequency = read_classes("train.json")
    loss = GumbelCE(frequency, background=False)
    model = RfDetrForInstanceSegmentation.from_pretrained(.., num_labels=loss.num_classes, ignore_mismatched_sizes=True)
    use_loss(model, loss, reset_bias=True)
    Trainer(model, ..).train()

The matching, the losses of boxes and masks and the weights stay those of transformers.
"""

import functools
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EomtForUniversalSegmentation, Mask2FormerForUniversalSegmentation, PreTrainedModel
from transformers.loss.loss_d_fine import DFineLoss
from transformers.loss.loss_lw_detr import LwDetrImageLoss
from transformers.loss.loss_rf_detr import RfDetrImageLoss
from transformers.loss.loss_rt_detr import RTDetrLoss
from transformers.models.eomt.modeling_eomt import EomtLoss
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss
from transformers.utils import ModelOutput

from tailseg.interop.queries import (
    QueryCriterion,
    check_binary,
    check_classes,
    check_loss,
    compute_query_loss,
    get_share,
    set_first_bias,
    to_sigmoid_logits,
    to_single_classes,
    to_softmax_logits,
)
from tailseg.losses.base import ClassificationLoss
from tailseg.losses.binary_loss import BinaryLoss

CLASSIFIERS = ("class_embed", "enc_out_class_embed", "enc_score_head", "class_predictor")
"""The modules that classify, in all these models."""


def use_loss(model: PreTrainedModel, loss: ClassificationLoss, *, reset_bias: bool) -> None:
    """Replaces the class loss of a model; the scores of its post-processing become those of the loss.

    RF-DETR, LW-DETR, RT-DETR (v1 and v2) and D-FINE have C outputs and take any loss with `BinaryLoss.dense` and C
    logits. The targets stay those of the model: the IoU in RT-DETR and D-FINE, p^0.25 IoU^0.75 in RF-DETR and LW-DETR,
    where p is the loss's score. Their own losses are

        RT-DETR, D-FINE     VarifocalLoss(C, constant_factor=True)
        RF-DETR, LW-DETR    VarifocalLoss(C, alpha=1, on_positives="one")

    Mask2Former and EoMT have C + 1 outputs, the last for "no object", and take any loss with C + 1 logits, where the
    last is background; their own is ``SoftmaxCE(C)``. A loss with C logits leaves the last output without a gradient.
    A query without an object weighs ``config.no_object_weight``, as in their own loss.

    In matching, p is the loss's score. In evaluation mode the model returns other logits than its classifier computes:
    those for which the ``post_process_*`` of transformers gives the loss's scores. For Mask2Former and EoMT with a loss
    that is no softmax these are the Q best pairs of query and class (`to_single_classes`), right for
    ``post_process_instance_segmentation`` and not for semantic or panoptic segmentation.

    A saved model does not know its loss: call this again after ``from_pretrained``, with ``reset_bias=False``. State of
    a loss (EQLv2) is part of the model's state dict, which ``from_pretrained`` reads before there is a loss: it begins
    again. LDAM's ``reweight_after`` needs ``loss.step_taken()`` after each
    step.

    Args:
        model: one of these models; it is changed.
        loss: for the model's classes, labels ``0 .. num_labels - 1``.
        reset_bias: whether the bias of the classifiers becomes the loss's first bias: True for a classifier that was
            not trained with this loss, False for one that was.

    Raises:
        ValueError: the model is another one or has a loss of tailseg already, or the loss does not fit it.
    """
    name, classes = type(model).__name__, model.config.num_labels
    if isinstance(getattr(model, "_loss_function", None), LossFunction) or isinstance(
        getattr(model, "criterion", None), MaskCriterion
    ):
        raise ValueError(f"{name} has a loss of tailseg already: build or load the model again")
    mask_criterion = next((value for kind, value in MASK_CRITERIA.items() if isinstance(model, kind)), None)
    if mask_criterion:
        check_loss(loss, classes, (classes, classes + 1), name)
        criterion = mask_criterion(config=model.config, weight_dict=model.weight_dict)
        criterion.take_loss(loss)
        model.criterion = criterion.to(model.device)
        hook, width = _convert_masks, classes + 1
    elif getattr(model.loss_function, "__name__", "") in CRITERIA:
        binary_loss = check_binary(loss, name)
        check_loss(binary_loss, classes, (classes,), name)
        model.class_loss = binary_loss.to(model.device)
        model.loss_function = LossFunction(model.loss_function, binary_loss)
        hook, width = _convert_logits, classes
    else:
        raise ValueError(
            f"{name} is not supported: use_loss takes RfDetrFor..., LwDetrFor..., RTDetr(V2)For..., DFineFor..., "
            "Mask2FormerFor... and EomtForUniversalSegmentation"
        )
    model.register_forward_pre_hook(functools.partial(_check_labels, loss), with_kwargs=True)
    model.register_forward_hook(functools.partial(hook, loss))
    if reset_bias:
        set_first_bias(model, loss, width, CLASSIFIERS)


class RTDetrCriterion(QueryCriterion, RTDetrLoss):
    """RT-DETR's criterion with a loss of tailseg."""

    def find_quality(self, p: Tensor, ious: Tensor) -> Tensor:  # noqa: ARG002
        """The IoU."""
        return ious


class DFineCriterion(RTDetrCriterion, DFineLoss):
    """D-FINE's criterion with a loss of tailseg."""


class LwDetrCriterion(QueryCriterion, LwDetrImageLoss):
    """LW-DETR's criterion with a loss of tailseg."""

    def find_quality(self, p: Tensor, ious: Tensor) -> Tensor:
        """The weighted geometric mean of score and IoU, at least 0.01."""
        return (p**self.focal_alpha * ious ** (1 - self.focal_alpha)).clamp(min=0.01)


class RfDetrCriterion(LwDetrCriterion, RfDetrImageLoss):
    """The criterion of RF-DETR with masks, with a loss of tailseg."""


CRITERIA: dict[str, tuple[str, type[QueryCriterion]]] = {
    "RTDetrForObjectDetectionLoss": ("RTDetrLoss", RTDetrCriterion),
    "DFineForObjectDetectionLoss": ("DFineLoss", DFineCriterion),
    "LwDetrForObjectDetectionLoss": ("LwDetrImageLoss", LwDetrCriterion),
    "RfDetrForSegmentationLoss": ("RfDetrImageLoss", RfDetrCriterion),
}
"""For the name of a loss function of transformers: the name of its criterion's class, and the class for a loss."""


class LossFunction:
    """A loss function of transformers with another criterion, for ``model.loss_function``.

    Args:
        function: the loss function. It builds its criterion at each call.
        loss: computes the class loss.
    """

    def __init__(self, function: FunctionType, loss: BinaryLoss) -> None:
        self.function, self.loss = function, loss

    def __call__(self, *arguments: Any, **options: Any) -> tuple[Tensor, dict[str, Tensor], Any]:  # noqa: ANN401
        """Computes the loss of a batch.

        Args:
            *arguments: those of the loss function.
            **options: those of the loss function.

        Returns:
            The loss, its parts, and the outputs of the earlier layers.
        """
        # The same code with another name for one class: no copy of transformers' arrangement of layers and weights,
        # and nothing outside this model changes.
        name, criterion = CRITERIA[self.function.__name__]
        names = {**self.function.__globals__, name: functools.partial(self._build, criterion)}
        function = FunctionType(self.function.__code__, names, argdefs=self.function.__defaults__)
        return function(*arguments, **options)

    def _build(self, criterion: type[QueryCriterion], *arguments: Any, **options: Any) -> QueryCriterion:  # noqa: ANN401
        built = criterion(*arguments, **options)
        built.take_loss(self.loss)
        return built


class MaskCriterion(nn.Module):
    """The class loss of tailseg in the criterion of Mask2Former or EoMT: a base class in front of it."""

    class_loss: ClassificationLoss
    matcher: Any
    eos_coef: float

    def take_loss(self, loss: ClassificationLoss) -> None:
        """Sets the loss, and the logits that the matcher gets."""
        self.class_loss = loss
        self.matcher.cost_class *= get_share(loss)
        self.matcher.register_forward_pre_hook(self._convert_input)

    def loss_labels(
        self, class_queries_logits: Tensor, class_labels: list[Tensor], indices: list[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Computes the class loss of a layer.

        Args:
            class_queries_logits: of all queries, ``[B, Q, C + 1]``.
            class_labels: the classes of each image's objects.
            indices: for each image, queries and their objects.

        Returns:
            The loss by its name in transformers.
        """
        labels = torch.full(
            class_queries_logits.shape[:2], self.class_loss.num_classes, device=class_queries_logits.device
        )
        for row, classes, (queries, objects) in zip(labels, class_labels, indices, strict=True):
            row[queries] = classes[objects]
        rows = class_queries_logits.flatten(0, 1)
        return {"loss_cross_entropy": compute_query_loss(self.class_loss, rows, labels.flatten(), self.eos_coef)}

    def _convert_input(self, matcher: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG002
        masks, logits, *labels = inputs
        return masks, to_softmax_logits(self.class_loss, logits), *labels


class Mask2FormerCriterion(MaskCriterion, Mask2FormerLoss):
    """Mask2Former's criterion with a loss of tailseg."""


class EomtCriterion(MaskCriterion, EomtLoss):
    """EoMT's criterion with a loss of tailseg."""


MASK_CRITERIA: dict[type[PreTrainedModel], type[Any]] = {
    Mask2FormerForUniversalSegmentation: Mask2FormerCriterion,
    EomtForUniversalSegmentation: EomtCriterion,
}
"""The criterion of each model that builds its own."""


def _check_labels(loss: ClassificationLoss, model: nn.Module, inputs: Any, options: dict[str, Any]) -> None:  # noqa: ANN401, ARG001
    """Refuses classes of objects that the model has not, before an embedding or a matcher meets them."""
    labels = options.get("labels") or options.get("class_labels") or []
    for each in labels:
        check_classes(loss, each["class_labels"] if isinstance(each, Mapping) else each)


def _convert_logits(loss: ClassificationLoss, model: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401, ARG001
    if _is_evaluated(model, output):
        output.logits = to_sigmoid_logits(loss, output.logits)


def _convert_masks(loss: ClassificationLoss, model: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401, ARG001
    if _is_evaluated(model, output):
        logits, masks = to_single_classes(loss, output.class_queries_logits, output.masks_queries_logits)
        output.class_queries_logits, output.masks_queries_logits = logits, masks


def _is_evaluated(model: nn.Module, output: Any) -> bool:  # noqa: ANN401
    """Whether the output's logits must become those of the post-processing.

    Raises:
        TypeError: the output is a tuple, whose places have no names.
    """
    if model.training:
        return False
    if not isinstance(output, ModelOutput):
        raise TypeError(
            f"{type(model).__name__} returned a {type(output).__name__}, which does not name its logits: call it with "
            "return_dict=True"
        )
    return True
