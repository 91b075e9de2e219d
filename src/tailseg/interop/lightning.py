"""A loss of tailseg and AP by frequency group in rfdetr's trainer, which is Lightning's.

module = RFDETRModelModule(model_config, train_config)
use_loss(module, GumbelCE(frequency, background=False), reset_bias=True)
trainer = build_trainer(train_config, model_config)
trainer.callbacks.append(RFDETREvaluation("valid/_annotations.coco.json", train="train/_annotations.coco.json"))
trainer.fit(module, RFDETRDataModule(model_config, train_config))

`RFDETREvaluation` works with and without a loss of tailseg.
"""

import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from rfdetr.datasets import get_coco_api_from_dataset
from rfdetr.datasets.coco import filter_parent_categories
from rfdetr.models.criterion import SetCriterion
from rfdetr.models.postprocess import PostProcess
from rfdetr.training import RFDETRModelModule
from torch import Tensor

from tailseg.evaluation import Evaluator, Metrics
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.sources import AnnotationSource, GroupsSource, open_annotations
from tailseg.interop.classes import read_classes
from tailseg.interop.queries import (
    Indices,
    QueryCriterion,
    Targets,
    check_binary,
    check_loss,
    set_first_bias,
    to_sigmoid_logits,
)
from tailseg.losses.base import ClassificationLoss
from tailseg.losses.binary_loss import BinaryLoss
from tailseg.structures import ClassFrequency

CLASSIFIERS = ("class_embed", "enc_out_class_embed")
"""The modules of rfdetr's models that classify."""


def use_loss(module: RFDETRModelModule, loss: ClassificationLoss, *, reset_bias: bool) -> None:
    """Replaces the class loss of rfdetr's training; the scores of its post-processing become those of the loss.

    rfdetr's models have an output for each class and one more, the last, which no object has. A loss takes the first
    of them, as many as it has logits. A loss with C logits leaves the last output without a gradient and a score; for a
    loss with a logit of background it is that logit. The loss needs `BinaryLoss.dense`. Labels are ``0 .. C-1``, in
    order of category id, as rfdetr numbers the classes of a data set in Roboflow's layout.

    The targets stay those of rfdetr: p^0.25 IoU^0.75 (``ia_bce_loss``, its default), where p is the loss's score, or
    the IoU (``use_varifocal_loss``), or 1. In matching, p is the score, too. rfdetr's own loss is
    ``VarifocalLoss(C + 1, alpha=1, on_positives="one")``, the last output included.

    State of a loss is part of the module's state dict. The files ``checkpoint_best_*.pth`` have the network alone: give
    the model of `rfdetr` that reads them its scores with `use_scores`.

    Args:
        module: rfdetr's training; it is changed.
        loss: for the classes of ``model_config.num_classes``.
        reset_bias: whether the bias of the classifiers becomes the loss's first bias: True for a classifier that was
            not trained with this loss, False for one that was.

    Raises:
        ValueError: the module has a loss of tailseg already, or the loss does not fit it.
    """
    old, classes = module.criterion, module.criterion.num_classes
    if isinstance(old, RFDETRCriterion):
        raise ValueError("the module has a loss of tailseg already: build an RFDETRModelModule again")
    if old.use_position_supervised_loss and not old.ia_bce_loss:
        raise ValueError("use_position_supervised_loss has targets of its own: leave it out of rfdetr's settings")
    binary_loss = check_binary(loss, "rfdetr")
    num_classes = classes if loss.num_classes == classes else classes - 1
    check_loss(loss, num_classes, sorted({num_classes, classes}), "the model of rfdetr")
    settings = {name: getattr(old, name) for name in inspect.signature(SetCriterion).parameters}
    criterion = RFDETRCriterion(**settings)
    criterion.take_loss(binary_loss)
    module.criterion = criterion.to(module.device)
    use_scores(module.postprocess, binary_loss)
    if reset_bias:
        set_first_bias(module.model, loss, classes, CLASSIFIERS)


def use_scores(postprocess: PostProcess, loss: BinaryLoss) -> None:
    """Makes the scores of rfdetr's post-processing those of a loss.

    For a model that was trained with the loss: ``use_scores(RFDETRNano(pretrain_weights=..).model.postprocess, loss)``.
    """
    postprocess.register_forward_pre_hook(functools.partial(_convert_logits, loss))


def _convert_logits(loss: BinaryLoss, postprocess: PostProcess, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
    outputs, *rest = inputs
    return {**outputs, "pred_logits": to_sigmoid_logits(loss, outputs["pred_logits"])}, *rest


def read_frequency(path: str | Path) -> ClassFrequency:
    """Reads how often each class occurs in a training set in Roboflow's layout, by rfdetr's labels.

    rfdetr numbers the classes in order of category id, without the parents that Roboflow adds: categories that another
    one names as its ``supercategory`` and that no object has.

    Raises:
        CheckpointError: there is no such file, or it has another format.
        DatasetError: a malformed annotation file.
    """
    categories, frequency = read_classes(path)
    content = json.loads(Path(path).read_text())
    annotated = {int(annotation["category_id"]) for annotation in content["annotations"]}
    labels = [int(category["id"]) for category in filter_parent_categories(content["categories"], annotated)]
    rows = {category.id: row for row, category in enumerate(categories)}
    kept = torch.tensor([rows[key] for key in labels])
    counts = (frequency.image_counts[kept], frequency.instance_counts[kept])
    return ClassFrequency(*counts, frequency.num_images, tuple(frequency.groups[row] for row in kept.tolist()))


class RFDETRCriterion(QueryCriterion, SetCriterion):
    """rfdetr's criterion with a loss of tailseg."""

    logits_name = "pred_logits"
    labels_name = "labels"

    def find_quality(self, p: Tensor, ious: Tensor) -> Tensor | None:
        """The weighted geometric mean of score and IoU, at least 0.01; or the IoU, or 1, as rfdetr is set."""
        if self.ia_bce_loss:
            return (p**self.focal_alpha * ious ** (1 - self.focal_alpha)).clamp(min=0.01)
        return ious if self.use_varifocal_loss else None

    def get_loss(
        self,
        loss: str,
        outputs: Mapping[str, Any],
        targets: Targets,
        indices: Indices,
        num_boxes: Any,  # noqa: ANN401
        **options: Any,  # noqa: ANN401
    ) -> dict[str, Tensor]:
        """Computes one of rfdetr's losses; for the classes of the last layer also the share of errors, in percent.

        Args:
            loss: rfdetr's name of the loss.
            outputs: logits, boxes and so on of a layer.
            targets: of the images.
            indices: for each image, queries and their objects.
            num_boxes: divides the sum.
            **options: rfdetr's.

        Returns:
            Named losses.
        """
        losses = super().get_loss(loss, outputs, targets, indices, num_boxes, **options)
        if loss == "labels" and options.get("log", True):
            images, queries, classes, _ = self.find_matches(targets, indices)
            with torch.no_grad():
                right = self._convert(outputs)["pred_logits"][images, queries].argmax(1) == classes
                losses["class_error"] = 100 - 100 * right.sum() / max(len(right), 1)
        return losses


class RFDETREvaluation(Callback):
    """Logs ``val/segm/APr``, ``val/bbox/AP`` and so on after each validation of rfdetr, next to its own mAP.

    rfdetr's data set tells what the labels of the model mean. Labels without a class, such as the last output of the
    model, which is never trained, are left out. Lightning's sanity check before the training is not evaluated.

    Append it to ``trainer.callbacks``: ``build_trainer(..., callbacks=[...])`` would replace rfdetr's own callbacks.

    Args:
        annotations: the annotation file of the validation set.
        train: the training set, for the frequency groups, see `evaluate`.
        groups: bounds of the frequency groups, or the group of each category id, see `evaluate`.
        iou_types: what is scored; None scores boxes, and masks of a model with masks.
        max_detections: how many detections count, see `evaluate`.

    Attributes:
        metrics: the last evaluation, with the figures of each class; None before.
    """

    def __init__(
        self,
        annotations: AnnotationSource,
        *,
        train: AnnotationSource | None = None,
        groups: GroupsSource | None = None,
        iou_types: tuple[IouType, ...] | None = None,
        max_detections: int | None = None,
    ) -> None:
        super().__init__()
        self._annotations = open_annotations(annotations)
        self._train = None if train is None else open_annotations(train, "train")
        self._options: dict[str, Any] = {"groups": groups, "iou_types": iou_types, "max_detections": max_detections}
        self._evaluator: Evaluator | None = None
        self.metrics: Metrics | None = None

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Begins an evaluation."""
        if trainer.sanity_checking:
            return
        if self._evaluator is None:
            self._evaluator = self._build(trainer, pl_module)
        self._evaluator.reset()

    def on_validation_batch_end(
        self,
        trainer: Any,  # noqa: ANN401
        pl_module: Any,  # noqa: ANN401, ARG002
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401, ARG002
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Takes the detections of a batch.

        Args:
            trainer: Lightning's trainer.
            pl_module: rfdetr's module.
            outputs: ``results`` and ``targets``, which rfdetr's validation step returns.
            batch: not used.
            batch_idx: not used.
            dataloader_idx: not used.
        """
        if trainer.sanity_checking:
            return
        assert self._evaluator is not None
        self._evaluator.update(outputs["results"], image_ids=[target["image_id"] for target in outputs["targets"]])

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        """Computes and logs the figures."""
        if trainer.sanity_checking:
            return
        assert self._evaluator is not None
        self.metrics = self._evaluator.compute()
        for name, value in self.metrics.flatten().items():
            pl_module.log(f"val/{name}", value, on_step=False, on_epoch=True)

    def _build(self, trainer: Any, pl_module: Any) -> Evaluator:  # noqa: ANN401
        """The evaluator, with the labels of rfdetr's data set.

        Raises:
            ValueError: the data set does not tell them.
        """
        loaders = trainer.val_dataloaders
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        coco = get_coco_api_from_dataset(loader.dataset)
        if coco is None:
            raise ValueError("rfdetr's validation set has no COCO file, so that it is not known what its labels mean")
        renumbered = getattr(coco, "label2cat", None)
        known = {category.id for category in self._annotations.categories}
        labels = {key: key for key in known} if renumbered is None else renumbered
        labels = {int(label): int(key) for label, key in labels.items() if int(key) in known}
        outputs = range(pl_module.model_config.num_classes + 1)
        return Evaluator(
            self._annotations,
            labels=labels,
            ignored_labels={*outputs} - {*labels},
            train=self._train,
            **self._options,
        )
