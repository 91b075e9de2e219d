"""Losses of tailseg in ultralytics' detection and segmentation models (v8, 11, 12, and 26 with its end-to-end head).

    class Trainer(SegmentationTrainer):
        def get_model(self, *arguments, **options):
            model = super().get_model(*arguments, **options)
            use_loss(model, DropLoss(frequency, tail="rc"), reset_bias=True)
            return model

    YOLO("yolo26n-seg.pt").train(data="data.yaml", trainer=Trainer)

``categories, frequency = read_classes("train.json")`` reads the frequencies; data.yaml must name the classes in the
order of the category ids. Only the classification loss, the first bias of the classifier and the scores change. The
assignment of anchors to objects uses the scores of the loss, too.

The model then has classes of this module, so that whoever loads its file needs tailseg.

Shapes: B images, A anchors of an image, C classes.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import Detect, Segment, Segment26
from ultralytics.nn.tasks import DetectionModel, SegmentationModel
from ultralytics.utils.loss import E2ELoss, SegmentLoss26, v8DetectionLoss, v8SegmentationLoss

from tailseg.interop.queries import to_sigmoid_logits
from tailseg.losses import BinaryLoss, ClassificationLoss


def use_loss(model: nn.Module, loss: ClassificationLoss, *, reset_bias: bool) -> None:
    """Exchanges the classification loss of a model of ultralytics, in place.

    With q the logits, t the targets of the assigner in [0, 1] and g the setting ``cls``:

        cls_loss = g * (sum of the loss over all anchors and classes) / max(1, sum of t)

    ``SigmoidCE(C)`` is ultralytics' own loss. In an end-to-end model both heads have the loss, and share its state.

    Args:
        model: a ``DetectionModel`` or ``SegmentationModel``, as a trainer's ``get_model`` returns it.
        loss: for the C classes, without a logit of background.
        reset_bias: whether the bias of the classifiers becomes the loss's first bias: True for classifiers that were
            not trained with this loss, False for those that were. The weights stay.

    Raises:
        TypeError: the model or its head is of another class, or the loss has a logit of background.
        ValueError: the numbers of classes disagree, or the model has a loss of tailseg already.
    """
    if type(model) in MODELS.values():
        raise ValueError("the model has a loss of tailseg already: build or load the model again")
    if type(model) not in MODELS:
        raise TypeError(
            f"use_loss takes ultralytics' {' or '.join(one.__name__ for one in MODELS)}, got {type(model).__name__}: "
            "give YOLO(...).model"
        )
    head = cast(Any, model).model[-1]
    if type(head) not in HEADS:
        raise TypeError(
            f"use_loss knows the heads {', '.join(one.__name__ for one in HEADS)}, got {type(head).__name__}"
        )
    if not isinstance(loss, BinaryLoss) or loss.num_logits != loss.num_classes:
        raise TypeError(
            f"ultralytics' models take a loss that asks each class a yes-no question, without a logit of background, "
            f"got {type(loss).__name__} with {loss.num_logits} logits for {loss.num_classes} classes: set "
            "background=False if the loss has this setting, or take GumbelCE, DropLoss or FocalLoss"
        )
    if head.nc != loss.num_classes:
        raise ValueError(f"the model has {head.nc} classes, and the loss {loss.num_classes}: they must be the same")
    model.__class__ = MODELS[type(model)]
    head.__class__ = HEADS[type(head)]
    cast(Any, model).criterion = None  # built again at the next step
    layers = [branch[-1] for heads in (head.cv3, getattr(head, "one2one_cv3", None) or ()) for branch in heads]
    head.loss = loss.to(layers[0].weight.device)
    if reset_bias:
        with torch.no_grad():
            for layer in layers:
                layer.bias.copy_(loss.init_bias())


def _as_sigmoid_logits(loss: ClassificationLoss, logits: Tensor) -> Tensor:
    """Logits ``[B, C, A]`` whose sigmoid, which ultralytics takes, is the score of the loss; without gradient."""
    return to_sigmoid_logits(loss, logits.detach().transpose(1, 2)).transpose(1, 2).to(logits.dtype)


class _LossHead:
    """A head with the scores of the loss at test time. The raw outputs, which the loss takes, stay logits."""

    loss: BinaryLoss

    def _inference(self, x: dict[str, Tensor]) -> Tensor:
        outputs = x | {"scores": _as_sigmoid_logits(self.loss, x["scores"])}
        return cast(Any, super())._inference(outputs)  # noqa: SLF001 - ultralytics' own seam between logits and scores


class LossDetect(_LossHead, Detect):
    """ultralytics' head of boxes with a loss of tailseg."""


class LossSegment(_LossHead, Segment):
    """ultralytics' head of masks with a loss of tailseg."""


class LossSegment26(_LossHead, Segment26):
    """ultralytics' head of masks of version 26 with a loss of tailseg."""


class _LossCriterion:
    """A criterion whose ``cls_loss`` is the loss of the head, and whose assigner gets the scores of the loss."""

    cls_loss: BinaryLoss
    class_weights: Tensor | None

    def get_assigned_targets_and_loss(self, preds: dict[str, Any], batch: dict[str, Any], **options: Any) -> Any:  # noqa: ANN401
        """Assigns targets and computes the losses as ultralytics does.

        Args:
            preds: outputs of the head, with the logits ``[B, C, A]`` as ``scores``.
            batch: ultralytics' batch.
            **options: of the assigner.

        Returns:
            What ultralytics returns.

        Raises:
            ValueError: ultralytics weighs the classes, too.
        """
        if self.class_weights is not None:
            raise ValueError(
                "cls_pw weighs the classes in ultralytics' loss, and the loss of tailseg has settings of its own for "
                "this (class_weights): leave cls_pw at 0"
            )
        logits = preds["scores"].transpose(1, 2)
        # ultralytics calls bce(scores, targets), and divides the sum of what it gets by the sum of the targets.
        self.bce = lambda _, targets: self.cls_loss.dense(logits, targets, normalizer=1.0)
        try:
            outputs = preds | {"scores": _as_sigmoid_logits(self.cls_loss, preds["scores"])}
            return cast(Any, super()).get_assigned_targets_and_loss(outputs, batch, **options)
        finally:
            del self.bce


class LossDetectionCriterion(_LossCriterion, v8DetectionLoss):
    """ultralytics' criterion of boxes with a loss of tailseg."""


class LossSegmentationCriterion(_LossCriterion, v8SegmentationLoss):
    """ultralytics' criterion of masks with a loss of tailseg."""


class LossSegmentation26Criterion(_LossCriterion, SegmentLoss26):
    """ultralytics' criterion of masks of version 26 with a loss of tailseg."""


class _LossModel:
    def init_criterion(self) -> Any:  # noqa: ANN401
        """Builds ultralytics' criterion, for one head or two, with the loss."""
        criterion = cast(Any, super()).init_criterion()
        for part in (criterion.one2many, criterion.one2one) if isinstance(criterion, E2ELoss) else (criterion,):
            part.__class__ = CRITERIA[type(part)]
            part.cls_loss = cast(Any, self).model[-1].loss
        return criterion


class LossDetectionModel(_LossModel, DetectionModel):
    """ultralytics' model of boxes with a loss of tailseg."""


class LossSegmentationModel(_LossModel, SegmentationModel):
    """ultralytics' model of masks with a loss of tailseg."""


MODELS: dict[type, Any] = {DetectionModel: LossDetectionModel, SegmentationModel: LossSegmentationModel}
HEADS: dict[type, Any] = {Detect: LossDetect, Segment: LossSegment, Segment26: LossSegment26}
CRITERIA: dict[type, Any] = {
    v8DetectionLoss: LossDetectionCriterion,
    v8SegmentationLoss: LossSegmentationCriterion,
    SegmentLoss26: LossSegmentation26Criterion,
}
