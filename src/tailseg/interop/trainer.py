"""AP by frequency group in the Trainer of transformers.

    trainer = EvaluatingTrainer(
        model, arguments, train_dataset=.., eval_dataset=.., data_collator=..,
        evaluator=Evaluator("val.json", train="train.json", labels="from_0"),
        post_process=lambda outputs, sizes: processor.post_process_object_detection(outputs, 0.0, target_sizes=sizes),
    )

Its callbacks see no outputs of the model, and ``compute_metrics`` gets them without names and gathered from all
processes, hidden states included. Therefore this is a subclass: a process keeps the detections of its own images only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import EvalLoopOutput

from tailseg.evaluation import Evaluator, Metrics

PostProcess = Callable[[Any, list[tuple[int, int]]], Sequence[Any]]
"""Converts the model's outputs of a batch, given height and width of the original images, to one prediction for each
image, see `Evaluator.update`."""


LOSS = "class_loss."
"""Where `tailseg.interop.detr.use_loss` puts the loss, which may have state."""


class EvaluatingTrainer(Trainer):
    """A Trainer whose evaluations report the figures of an `Evaluator`: ``eval_segm_APr``, ``eval_bbox_AP`` and so on.

    They are logged, go to the Trainer's trackers, and can choose the best model (``metric_for_best_model="segm_APr"``).
    The best model and a resumed one are loaded completely, which ``Trainer`` does not do (`load_renamed`).
    Each label, or the batch, needs the ``image_id`` of the annotation file; the image processors of detectors add it to
    the labels. Set ``remove_unused_columns=False``, as for every detector.

    Args:
        *arguments: those of ``Trainer``.
        evaluator: of the evaluation set; it has the annotation file.
        post_process: the post-processing of the model, without a threshold: AP needs detections with low scores.
        **options: those of ``Trainer``, but ``compute_metrics``.

    Attributes:
        metrics: the last evaluation, with the figures of each class; None before.

    Raises:
        ValueError: ``compute_metrics`` is given too.
    """

    def __init__(self, *arguments: Any, evaluator: Evaluator, post_process: PostProcess, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        if self.compute_metrics is not None:
            raise ValueError(
                "compute_metrics would get no outputs here: leave it out, the evaluator computes the figures"
            )
        self.evaluator, self._post_process = evaluator, post_process
        self._collects = False
        self.metrics: Metrics | None = None

    def evaluation_loop(self, dataloader: Any, description: str, *arguments: Any, **options: Any) -> EvalLoopOutput:  # noqa: ANN401
        """Evaluates; the figures of ``evaluate``, not those of ``predict``, include those of the evaluator.

        Args:
            dataloader: of the evaluation set.
            description: what the Trainer calls the evaluation.
            *arguments: see ``Trainer``.
            **options: see ``Trainer``.

        Returns:
            What the Trainer returns, with the figures.
        """
        self._collects = description == "Evaluation"
        self.evaluator.reset()
        try:
            output = super().evaluation_loop(dataloader, description, *arguments, **options)
            if self._collects:
                self.metrics = self.evaluator.compute()
                prefix = options.get("metric_key_prefix", "eval")
                figures = {
                    f"{prefix}_{name.replace('/', '_')}": value for name, value in self.metrics.flatten().items()
                }
                output.metrics.update(figures)
        finally:
            self._collects = False
        return output

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            load_renamed(self.model, Path(self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed(self.model if model is None else model, Path(resume_from_checkpoint))

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Runs the model on a batch; in an evaluation its detections go to the evaluator, and only the loss returns.

        Args:
            model: the model.
            inputs: the batch.
            prediction_loss_only: see ``Trainer``.
            ignore_keys: see ``Trainer``.

        Returns:
            The loss, and nothing else in an evaluation.

        Raises:
            ValueError: an image has no id, or the detections cannot be used.
        """
        image_ids = _get_image_ids(inputs)
        inputs = {name: value for name, value in inputs.items() if name != "image_id"}
        if not self._collects:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.label_names and all(inputs.get(name) is not None for name in self.label_names):
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
                loss = loss.detach().mean()
            else:
                loss, outputs = None, model(**inputs)
        sizes = [self.evaluator.get_size(key) for key in image_ids]
        self.evaluator.update(self._post_process(outputs, sizes), image_ids=image_ids)
        return loss, None, None

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Computes the Trainer's loss; the model does not get the ``image_id`` of a batch.

        Args:
            model: the model.
            inputs: the batch.
            *arguments: see ``Trainer``.
            **options: see ``Trainer``.

        Returns:
            What the Trainer returns.
        """
        return super().compute_loss(
            model, {name: value for name, value in inputs.items() if name != "image_id"}, *arguments, **options
        )


def load_renamed(model: nn.Module, checkpoint: Path) -> None:
    """Loads the tensors of a checkpoint of the Trainer that have another name in the file than in the model.

    ``save_pretrained`` writes RF-DETR, RT-DETR, D-FINE, Mask2Former and others with the names of their published
    weights. ``Trainer`` loads the file without translating them, for ``load_best_model_at_end`` and for
    ``resume_from_checkpoint``: tensors with another name keep their values, up to all of them
    (``findings/trainer_best_model.sh``). `EvaluatingTrainer` calls this.

    Args:
        model: is changed; a model that is none of transformers stays as it is.
        checkpoint: the folder ``checkpoint-...``.
    """
    if not isinstance(model, PreTrainedModel):
        return
    state, found = model.state_dict(), {}
    for file in checkpoint.glob("model*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                found[name] = tensors.get_tensor(name) if LOSS in name else None
    if found.keys() <= state.keys():
        return
    renamed = dict(type(model).from_pretrained(checkpoint).state_dict())
    # from_pretrained does not know the loss, whose state may have a prefix in the file.
    own = {name.rpartition(LOSS)[2]: name for name in state if LOSS in name}
    values = {name.rpartition(LOSS)[2]: value for name, value in found.items() if LOSS in name}
    renamed |= {name: values[part] for part, name in own.items() if part in values}
    model.load_state_dict(renamed, strict=False)


def _get_image_ids(inputs: dict[str, Any]) -> list[int]:
    """The ids of the images of a batch.

    Raises:
        ValueError: neither the batch nor its labels have them.
    """
    ids = inputs.get("image_id")
    if ids is None:
        labels = inputs.get("labels")
        if not isinstance(labels, Sequence) or not all("image_id" in label for label in labels):
            raise ValueError(
                f"the batch has {', '.join(inputs)}, and no image_id: add it to each label, as the image processors of "
                "detectors do, or to the batch in data_collator"
            )
        ids = [label["image_id"] for label in labels]
    return [int(key) for key in ids]
