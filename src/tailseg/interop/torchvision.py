"""Losses of tailseg in torchvision's detectors: Faster, Mask and Keypoint R-CNN, RetinaNet and FCOS.

    categories, frequency = read_classes("train.json")
    model = maskrcnn_resnet50_fpn_v2(num_classes=len(categories) + 1, box_score_thresh=1e-4)
    use_loss(model, DropLoss(frequency, tail="rc"), reset_bias=True)

Data sets, targets, detections and the names of the loss terms stay torchvision's. Only the classification loss, the
last layer of the classifier and the scores change. torchvision's own threshold for scores (0.05, FCOS: 0.2) is too high
for a long tail: rare classes have low scores, and average precision depends only on the order.

Shapes: B images, A anchors of an image, R regions, K columns of torchvision's classifier, C classes and L logits of the
loss.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNetClassificationHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from tailseg.interop.queries import to_sigmoid_logits
from tailseg.losses import BinaryLoss, ClassificationLoss

Targets = Sequence[dict[str, Any]]


def use_loss(model: nn.Module, loss: ClassificationLoss, *, reset_bias: bool) -> None:
    """Exchanges the classification loss of a detector of torchvision, in place; call it before you make the optimizer.

    - Faster, Mask and Keypoint R-CNN take every loss. Labels are 1 .. C, and the model has C + 1 classes. The
      classifier gets the loss's L logits, in the loss's order: a softmax's background is the last one.
    - RetinaNet and FCOS take every loss without a logit of background (``GumbelCE(..., background=False)``). Labels are
      1 .. C if the model has C + 1 classes, as torchvision's documentation says: then the first column has no meaning,
      no gradient and the score 0. They are 0 .. C-1 if it has C. The loss is divided by the number of positives as in
      torchvision.

    ``FocalLoss(C)`` is the own loss of RetinaNet and FCOS, ``SoftmaxCE(C)`` that of the R-CNNs. The loss becomes a part
    of the model, so that its state is saved and moved with it. `LDAMLoss` with ``reweight_after`` and `PCBLoss` with
    ``start_after`` need ``loss.step_taken()`` after each step.

    Args:
        model: the detector.
        loss: for the C classes of the training set.
        reset_bias: whether the bias of the classifier becomes the loss's first bias: True for a classifier that was not
            trained with this loss, False for one that was. The weights of the classes stay in both cases.

    Raises:
        TypeError: the model or one of its heads is of another class, or the loss does not fit a dense head.
        ValueError: the numbers of classes disagree, the model has a loss of tailseg already, or its classifier has no
            bias for the loss.
    """
    if any(isinstance(module, ClassificationLoss) for module in model.modules()):
        raise ValueError("the model has a loss of tailseg already: build the model again, and call use_loss once")
    if isinstance(model, GeneralizedRCNN):
        _use_in_rcnn(model.roi_heads, loss, reset_bias=reset_bias)
    elif isinstance(model, RetinaNet | FCOS):
        _use_in_dense(model, loss, reset_bias=reset_bias)
    else:
        raise TypeError(
            f"use_loss takes torchvision's Faster, Mask and Keypoint R-CNN, RetinaNet and FCOS, got "
            f"{type(model).__name__}: call the loss in the head of your model, as docs/reference/losses.md shows"
        )


def _exchange_classes(*exchanges: tuple[nn.Module, type[nn.Module], type[nn.Module]]) -> None:
    """Makes modules of torchvision's classes modules of ours; their parameters, hooks and settings stay.

    Raises:
        TypeError: a module is of another class; then nothing is changed.
    """
    for module, theirs, _ in exchanges:
        if type(module) is not theirs:
            raise TypeError(
                f"use_loss expects torchvision's {theirs.__name__}, got {type(module).__name__}, whose own methods "
                "would be lost: call the loss there"
            )
    for module, _, ours in exchanges:
        cast(Any, module).__class__ = ours


def _check_labels(targets: Targets, first_label: int, num_classes: int) -> None:
    """Refuses labels without a class; torchvision would take a 0 for background, or for a class."""
    labels = torch.cat([target["labels"] for target in targets])
    last = first_label + num_classes - 1
    if len(labels) and not (first_label <= int(labels.min()) and int(labels.max()) <= last):
        raise ValueError(
            f"the labels of this model are {first_label} .. {last}, got {int(labels.min())} .. {int(labels.max())} in "
            "the targets: "
            + ("add 1 to labels from 0, " if first_label else "subtract 1 from labels from 1, ")
            + "and use contiguous labels, not category ids"
        )


# ---- Faster, Mask and Keypoint R-CNN


def _use_in_rcnn(heads: nn.Module, loss: ClassificationLoss, *, reset_bias: bool) -> None:
    predictor = cast(Any, heads).box_predictor
    old = getattr(predictor, "cls_score", None)
    if not isinstance(old, nn.Linear):
        raise TypeError(
            f"use_loss expects a box predictor with a linear layer cls_score, as FastRCNNPredictor has, got "
            f"{type(predictor).__name__}"
        )
    if old.out_features != loss.num_classes + 1:
        raise ValueError(
            f"the model has {old.out_features} classes with background, and the loss {loss.num_classes} without it: "
            f"build the model with num_classes={loss.num_classes + 1}"
        )
    # Background is torchvision's first row, and the loss's last one if it has one. Other logits have no row.
    rows = [*range(1, loss.num_classes + 1), 0][: loss.num_logits]
    if not reset_bias and len(rows) < loss.num_logits:
        raise ValueError(
            f"{type(loss).__name__} has {loss.num_logits} logits for {loss.num_classes} classes, for which the "
            "classifier was not trained: give reset_bias=True"
        )
    _exchange_classes((heads, RoIHeads, LossRoIHeads), (predictor, FastRCNNPredictor, LossPredictor))
    new = nn.Linear(old.in_features, loss.num_logits, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        if len(rows) == loss.num_logits:
            new.weight.copy_(old.weight[rows])
        else:
            nn.init.normal_(new.weight, std=0.01)
        new.bias.copy_(loss.init_bias() if reset_bias else old.bias[rows])
    predictor.cls_score = new
    cast(Any, heads).loss = loss.to(old.weight.device)


class LossPredictor(FastRCNNPredictor):
    """torchvision's predictor, whose logits go to the loss in training, and not to torchvision's cross entropy."""

    logits: Tensor | None = None
    """Those of the last training step, until the loss takes them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits and box deltas of the regions; in training, a column of zeros instead of the logits."""
        logits, deltas = super().forward(x)
        if self.training:
            self.logits = logits
            logits = logits.new_zeros(len(logits), deltas.shape[1] // 4)
        return logits, deltas


class LossRoIHeads(RoIHeads):
    """torchvision's RoI heads (boxes, masks, keypoints) with the loss in training and its scores at test time."""

    loss: ClassificationLoss
    labels: Tensor | None = None
    """Those of the last training step's regions, until the loss takes them: 1 .. C, 0 for background."""

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:  # noqa: ANN401
        """Selects regions as torchvision does, and keeps their labels for the loss."""
        self.check_targets(targets)
        _check_labels(targets, 1, self.loss.num_classes)
        samples = super().select_training_samples(proposals, targets)
        self.labels = torch.cat(samples[2])
        return samples

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Any = None,  # noqa: ANN401
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Runs torchvision's heads; ``loss_classifier`` is the loss.

        Args:
            features: feature maps.
            proposals: regions of each image.
            image_shapes: height and width of each image.
            targets: torchvision's, in training.

        Returns:
            The detections of each image, and in training the losses.
        """
        detections, losses = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            logits, labels = cast(Tensor, self.box_predictor.logits), cast(Tensor, self.labels)
            self.box_predictor.logits = self.labels = None
            # background from 0 to C
            terms = self.loss(logits, (labels - 1) % (self.loss.num_classes + 1))
            losses["loss_classifier"] = torch.stack([*terms.values()]).sum()
        return detections, losses

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Selects the detections of each image as torchvision does, by the scores of the loss.

        Args:
            class_logits: ``[R, L]``.
            box_regression: deltas of background and the C classes, ``[R, 4 (C + 1)]``.
            proposals: regions of each image.
            image_shapes: height and width of each image.

        Returns:
            Boxes, scores and labels (1 .. C) of each image, best first.
        """
        counts = [len(boxes) for boxes in proposals]
        boxes = self.box_coder.decode(box_regression, proposals)[:, 1:].split(counts)
        scores = self.loss.scores(class_logits).split(counts)
        images = [self._select(*image) for image in zip(boxes, scores, image_shapes, strict=True)]
        return [one[0] for one in images], [one[1] for one in images], [one[2] for one in images]

    def _select(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The detections of an image, from boxes [R, C, 4] and scores [R, C]."""
        region, label = torch.where(scores > self.score_thresh)
        boxes, scores = clip_boxes_to_image(boxes[region, label], size), scores[region, label]
        rows = remove_small_boxes(boxes, min_size=1e-2)
        rows = rows[batched_nms(boxes[rows], scores[rows], label[rows], self.nms_thresh)][: self.detections_per_img]
        return boxes[rows], scores[rows], label[rows] + 1


# ---- RetinaNet and FCOS


def _use_in_dense(model: RetinaNet | FCOS, loss: ClassificationLoss, *, reset_bias: bool) -> None:
    name = type(model).__name__
    if not isinstance(loss, BinaryLoss) or loss.num_logits != loss.num_classes:
        raise TypeError(
            f"{name} takes a loss that asks each class a yes-no question, without a logit of background, got "
            f"{type(loss).__name__} with {loss.num_logits} logits for {loss.num_classes} classes: set "
            "background=False if the loss has this setting, or take FocalLoss, GumbelCE or DropLoss"
        )
    head = cast(Any, model.head)
    classifier = head.classification_head
    if (first_label := classifier.num_classes - loss.num_classes) not in (0, 1):
        raise ValueError(
            f"the model has {classifier.num_classes} classes, and the loss {loss.num_classes}: build the model with "
            f"num_classes={loss.num_classes + 1} for labels from 1, or {loss.num_classes} for labels from 0"
        )
    if isinstance(model, RetinaNet):
        _exchange_classes(
            (model, RetinaNet, LossRetinaNet),
            (classifier, RetinaNetClassificationHead, LossRetinaNetClassificationHead),
        )
    else:
        _exchange_classes((model, FCOS, LossFCOS), (head, FCOSHead, LossFCOSHead))
    layer = classifier.cls_logits
    if reset_bias:
        with torch.no_grad():
            layer.bias.view(classifier.num_anchors, -1)[:, first_label:] = loss.init_bias().to(layer.bias)
    classifier.loss = loss.to(layer.weight.device)


def _find_labels(targets: Targets, matched: Tensor, first_label: int, num_classes: int) -> Tensor:
    """The label of each anchor by the index of its object, [B, A]: 0 .. C-1, and C for none."""
    _check_labels(targets, first_label, num_classes)
    labels = torch.full_like(matched, num_classes)
    for row, target, index in zip(labels, targets, matched, strict=True):
        if len(target["labels"]):
            row.copy_(torch.where(index >= 0, target["labels"][index.clamp(min=0)] - first_label, num_classes))
    return labels


class _LossScores:
    """A dense detector of torchvision with the scores of the loss at test time."""

    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Selects the detections of each image as torchvision does, by the scores of the loss.

        Args:
            head_outputs: logits, box deltas and FCOS's centerness by level of the pyramid.
            anchors: of each image and level.
            image_shapes: height and width of each image.

        Returns:
            torchvision's detections of each image.
        """
        classifier = cast(Any, self).head.classification_head
        first_label = classifier.num_classes - classifier.loss.num_classes
        # logits whose sigmoid, which torchvision takes, is the score
        logits = [to_sigmoid_logits(classifier.loss, level[..., first_label:]) for level in head_outputs["cls_logits"]]
        outputs = head_outputs | {"cls_logits": [F.pad(level, (first_label, 0), value=-torch.inf) for level in logits]}
        return cast(Any, super()).postprocess_detections(outputs, anchors, image_shapes)


class LossRetinaNet(_LossScores, RetinaNet):
    """torchvision's RetinaNet with a loss of tailseg."""


class LossFCOS(_LossScores, FCOS):
    """torchvision's FCOS with a loss of tailseg."""


class LossRetinaNetClassificationHead(RetinaNetClassificationHead):
    """torchvision's head with the loss."""

    loss: BinaryLoss

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], matched_idxs: list[Tensor]
    ) -> Tensor:
        """Computes the loss: of each image divided by its positives, and then the mean over the images.

        Anchors whose overlap lies between the thresholds are ignored.

        Args:
            targets: torchvision's.
            head_outputs: with the logits ``[B, A, K]``.
            matched_idxs: the index of each anchor's object; -1 for none, -2 for ignored anchors.

        Returns:
            The loss.
        """
        first_label = self.num_classes - self.loss.num_classes
        logits, matched = head_outputs["cls_logits"][..., first_label:], torch.stack(matched_idxs)
        num_positives = (matched >= 0).sum(1, keepdim=True).clamp(min=1)
        weights = 1 / (num_positives.to(torch.promote_types(logits.dtype, torch.float32)) * len(targets))
        # One call for all images: losses with a state, and those that count the classes, look at the whole batch.
        return self.loss.dense(
            logits,
            _find_labels(targets, matched, first_label, self.loss.num_classes),
            weights=weights.expand(matched.shape),
            ignored=matched == self.BETWEEN_THRESHOLDS,
            normalizer=1.0,
        )


class LossFCOSHead(FCOSHead):
    """torchvision's head with the loss."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Computes torchvision's losses; ``classification`` is the loss, divided by the positives of all images.

        Args:
            targets: torchvision's.
            head_outputs: with the logits ``[B, A, K]``.
            anchors: of each image.
            matched_idxs: the index of each anchor's object, -1 for none.

        Returns:
            The losses.
        """
        logits, loss = head_outputs["cls_logits"], cast(BinaryLoss, self.classification_head.loss)
        first_label = self.classification_head.num_classes - loss.num_classes
        matched = torch.stack(matched_idxs)
        labels = _find_labels(targets, matched, first_label, loss.num_classes)
        # torchvision computes its focal loss together with the others: of one class, which costs next to nothing.
        one_class = [target | {"labels": torch.zeros_like(target["labels"])} for target in targets]
        outputs = head_outputs | {"cls_logits": logits[..., :1].detach()}
        losses = super().compute_loss(one_class, outputs, anchors, matched_idxs)
        num_positives = (matched >= 0).sum().clamp(min=1).float()
        losses["classification"] = loss.dense(logits[..., first_label:], labels, normalizer=num_positives)
        return losses
