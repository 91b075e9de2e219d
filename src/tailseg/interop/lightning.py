"""AP by frequency group in rfdetr's trainer, which is Lightning's.

trainer = build_trainer(train_config, model_config)
trainer.callbacks.append(RFDETREvaluation("valid/_annotations.coco.json", train="train/_annotations.coco.json"))
"""

from typing import Any

from pytorch_lightning import Callback
from rfdetr.datasets import get_coco_api_from_dataset

from tailseg.evaluation import Evaluator, Metrics
from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.sources import AnnotationSource, GroupsSource, open_annotations


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
