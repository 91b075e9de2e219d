"""Losses of tailseg in mmdetection's configs (MMDetection 3, and its continuation onedl-mmdetection).

    custom_imports = dict(imports=["tailseg.interop.mmdet"])
    custom_hooks = [dict(type="TailsegFirstBiasHook")]
    gol = dict(type="TailsegLoss", loss="gol", annotations="data/train.json")
    model = dict(roi_head=dict(bbox_head=dict(num_classes=60, loss_cls=gol)))  # Faster, Mask, Cascade R-CNN
    model = dict(bbox_head=dict(num_classes=60, loss_cls=dict(use_sigmoid=True, **gol)))  # RetinaNet, FCOS, ...

The annotation file gives the frequency of the classes. mmdetection numbers the classes in the order of its category
list. In a cascade, name the loss in the head of each stage. mmdetection's own first bias of the classifier is that of a
softmax or a sigmoid; the hook sets the loss's.

Shapes: R regions or anchors, C classes, L logits.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from mmdet.registry import HOOKS, MODELS
from mmengine.hooks import Hook
from torch import Tensor, nn

from tailseg.annotations.read import read_dataset
from tailseg.losses import LOSSES, BinaryLoss, build_loss
from tailseg.structures import ClassFrequency

EPS = torch.finfo(torch.float32).eps
"""mmdetection adds it to the number that divides a loss."""


@MODELS.register_module()
class TailsegLoss(nn.Module):
    """A classification loss of tailseg as ``loss_cls`` of a head of mmdetection.

    In an R-CNN (``BBoxHead``), every loss; the classifier gets the loss's L logits. With ``use_sigmoid``, in dense
    heads that call their loss with a label of each anchor (anchor heads such as RetinaNet's, FCOS): every loss without
    a logit of background. An anchor head calls its loss once for each level of the pyramid, and so a loss that
    counts the classes of a batch sees one level at a time.

    The loss is that of the rows with weights above 0, divided by ``avg_factor`` as in mmdetection.

    Args:
        loss: the short name of a loss: gol, gumbel, focal, efl, seesaw, ...
        annotations: the training set's annotation file.
        use_sigmoid: the head is dense.
        loss_weight: multiplies the loss.
        **settings: of the loss, such as ``tail="r"`` or ``background=False``.

    Raises:
        ValueError: there is no loss of this name, it does not fit the head, or the file lists its categories in another
            order than by id.
    """

    custom_cls_channels = custom_activation = custom_accuracy = True

    def __init__(
        self,
        loss: str,
        annotations: str,
        *,
        use_sigmoid: bool = False,
        loss_weight: float = 1.0,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"loss is {', '.join(LOSSES)}, got {loss!r}")
        self.use_sigmoid, self.loss_weight = use_sigmoid, loss_weight
        self.loss = build_loss(replace(LOSSES[loss], **settings), _read_frequency(Path(annotations)))
        if use_sigmoid and (not isinstance(self.loss, BinaryLoss) or self.loss.num_logits != self.loss.num_classes):
            raise ValueError(
                f"a dense head takes a loss that asks each class a yes-no question, without a logit of background, got "
                f"{loss} with {self.loss.num_logits} logits for {self.loss.num_classes} classes: set background=False "
                "if the loss has this setting, or take focal, gol or efl"
            )

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Computes the loss as mmdetection calls it.

        Args:
            cls_score: logits ``[R, L]``.
            label: ``[R]``, 0 .. C-1, and C for background.
            weight: of the rows; rows with 0 are ignored.
            avg_factor: divides the sum; None is the number of rows.
            reduction_override: None or ``"mean"``.

        Returns:
            The loss.

        Raises:
            ValueError: the head asks for another reduction or other targets; or for weights other than 0 and 1 with a
                loss that compares classes.
        """
        if reduction_override not in (None, "mean") or not isinstance(label, Tensor) or label.ndim != 1:
            raise ValueError(
                "TailsegLoss takes one label for each row and reduces by the mean: this head of mmdetection asks its "
                "loss for something else, and cannot use it"
            )
        label = label.long()
        divisor = max(len(label), 1) if avg_factor is None else avg_factor + EPS
        if isinstance(self.loss, BinaryLoss):
            ignored = None if weight is None else weight == 0
            divisor = torch.as_tensor(divisor, dtype=torch.float32, device=cls_score.device)
            return self.loss_weight * self.loss.dense(
                cls_score, label, weights=weight, ignored=ignored, normalizer=divisor
            )
        if weight is not None:
            if bool(((weight != 0) & (weight != 1)).any()):
                raise ValueError(
                    f"{type(self.loss).__name__} takes rows with the weight 1 or 0: leave pos_weight of the head's "
                    "train_cfg at -1"
                )
            cls_score, label = cls_score[weight > 0], label[weight > 0]
        terms = self.loss(cls_score, label)
        return self.loss_weight * torch.stack([*terms.values()]).sum() * len(label) / divisor

    def get_cls_channels(self, num_classes: int) -> int:
        """Returns L.

        Raises:
            ValueError: the head has another number of classes than the annotation file.
        """
        if num_classes != self.loss.num_classes:
            raise ValueError(
                f"the head has num_classes={num_classes}, and the annotation file {self.loss.num_classes} classes: "
                "they must be the same"
            )
        return self.loss.num_logits

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Computes the scores: ``[R, C]`` for a dense head, with a last column of zeros for background in an R-CNN."""
        scores = self.loss.scores(cls_score)
        return scores if self.use_sigmoid else torch.cat([scores, torch.zeros_like(scores[:, :1])], dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Computes for the log in how many percent of the objects' rows their class has the highest score."""
        rows = labels < self.loss.num_classes
        found = self.loss.scores(cls_score[rows].detach()).argmax(1) == labels[rows]
        return {"acc_classes": 100 * found.float().sum() / rows.sum().clamp(min=1)}


@HOOKS.register_module()
class TailsegFirstBiasHook(Hook):
    """Sets the first bias of each classifier with a `TailsegLoss` to that of the loss, before the training.

    A trained classifier, whose biases are not all the same, stays unchanged.
    """

    def before_train(self, runner: Any) -> None:  # noqa: ANN401
        """Sets the biases of the runner's model."""
        set_first_bias(runner.model)


def set_first_bias(model: nn.Module) -> None:
    """Sets the first bias of each untrained classifier of a model whose ``loss_cls`` is a `TailsegLoss`, in place.

    Raises:
        ValueError: a head has no layer whose name ends with ``_cls``.
    """
    for head in model.modules():
        adapter = getattr(head, "loss_cls", None)
        if not isinstance(adapter, TailsegLoss):
            continue
        layers = [
            layer
            for name, layer in head.named_children()
            if name.endswith("_cls") and isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None
        ]
        if not layers:
            raise ValueError(
                f"{type(head).__name__} has no layer ending with _cls, such as fc_cls: set the bias of its classifier "
                "to loss_cls.loss.init_bias(), and leave out TailsegFirstBiasHook"
            )
        for layer in layers:
            bias = cast(Tensor, layer.bias).detach()
            if bool((bias == bias[0]).all()):
                bias.view(-1, adapter.loss.num_logits).copy_(adapter.loss.init_bias())


def _read_frequency(path: Path) -> ClassFrequency:
    """The frequencies in mmdetection's order of labels: that of the file's categories."""
    annotations = read_dataset(path)
    listed = list(annotations.listed_ids)
    if listed != sorted(listed):
        raise ValueError(
            f"{path} does not list its categories in order of id, by which tailseg numbers the classes: mmdetection "
            "would number them in another way. Sort the categories of the file"
        )
    return ClassFrequency.from_class_counts(annotations.frequency)
