"""Calibration after training for a trained detector: its methods, their strengths, and their effect.

The scores of a class are changed according to its frequency in the training set, before the best detections of an image
are selected: `tailseg.detection.calibration` has the formulas. Saved results are not enough, because they hold the
best detections with one score each, and NorCal and FRACAL need all scores of a region. So the detector has to see its
images again.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tailseg.annotations.dataset import Annotations
from tailseg.detection.calibration import (
    adjust_binary_scores,
    adjust_scores,
    fracal_offsets,
    fracal_sigmoid_scores,
    fractal_dimensions,
    logit_adjustment_offsets,
    norcal_offsets,
)
from tailseg.detection.testing import detect
from tailseg.evaluation.results import to_results
from tailseg.files import write_text
from tailseg.losses import ClassificationLoss
from tailseg.models.detector import Detector
from tailseg.models.precision import Precision
from tailseg.structures import Batch, ClassFrequency

Model = TypeVar("Model", bound=nn.Module)
Method = Literal["none", "logit adjustment", "NorCal", "FRACAL"]
STRENGTHS: dict[Method, tuple[float, ...]] = {
    "logit adjustment": (0.1, 0.25, 0.5, 0.75, 1.0),
    "NorCal": (0.1, 0.2, 0.4, 0.6, 0.8),
    "FRACAL": (0.5, 1.0, 2.0, 3.0),
}
FILE = "calibration.json"
"""The name of the file in a run's folder that stores its calibration."""


@dataclass(frozen=True)
class Setting:
    """A method and its strength: tau of logit adjustment, gamma of NorCal, lambda of FRACAL."""

    method: Method = "none"
    strength: float = 0.0

    def __str__(self) -> str:
        return "as trained" if self.method == "none" else f"{self.method} {self.strength:g}"


@dataclass(frozen=True)
class Calibration:
    """A setting, and the data of the training set that it needs.

    Attributes:
        setting: the method and its strength.
        dimensions: fractal dimension of each class, for FRACAL.
        num_images: all training images, including those without objects, for FRACAL.
    """

    setting: Setting
    dimensions: tuple[float, ...] | None = None
    num_images: int | None = None


class Calibrated(ClassificationLoss):
    """A loss whose scores are calibrated. In training it behaves as the loss itself."""

    def __init__(self, loss: ClassificationLoss, calibration: Calibration, frequency: ClassFrequency) -> None:
        super().__init__()
        self.loss = loss
        self.num_classes, self.num_logits = loss.num_classes, loss.num_logits
        self.calibration = calibration
        self.frequency = frequency
        self.scores_are_exclusive = loss.scores_are_exclusive

    def init_bias(self) -> Float[Tensor, " L"]:
        return self.loss.init_bias()

    def forward(self, logits: Float[Tensor, "R L"], labels: Int64[Tensor, " R"]) -> dict[str, Float[Tensor, ""]]:
        return self.loss(logits, labels)

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        """Returns the loss's scores, changed by the offsets of the classes."""
        scores = self.loss.scores(logits)
        setting, counts = self.calibration.setting, self.frequency.image_counts.to(scores.device)
        if setting.method == "FRACAL":
            dimensions = torch.tensor(self.calibration.dimensions, device=scores.device, dtype=scores.dtype)
            data: Any = {"num_images": self.calibration.num_images, "strength": setting.strength}
            if not self.scores_are_exclusive:
                return fracal_sigmoid_scores(scores.logit(), counts, dimensions, **data).to(scores)
            offsets = fracal_offsets(counts, dimensions, **data)
        elif setting.method == "NorCal":
            offsets = norcal_offsets(counts, gamma=setting.strength)
        else:
            instances = self.frequency.instance_counts.to(scores.device)
            offsets = logit_adjustment_offsets(instances, tau=setting.strength)
        adjust = adjust_scores if self.scores_are_exclusive else adjust_binary_scores
        return adjust(scores, offsets.to(scores))


def apply_calibration(model: nn.Module, calibration: Calibration, frequency: ClassFrequency) -> None:
    """Replaces the detector's losses by calibrated ones, in place; a calibration without a method changes nothing.

    The names in the model's state dict change: load its weights before.

    Args:
        model: a detector with its weights.
        calibration: the method, its strength, and the data that it needs.
        frequency: of the classes in the training set.

    Raises:
        ValueError: no module of the model is a `ClassificationLoss`, so that its scores cannot be calibrated.
    """
    if calibration.setting.method == "none":
        return
    losses = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, ClassificationLoss)
    ]
    if not losses:
        raise ValueError(
            f"{type(model).__name__} has no ClassificationLoss among its modules, and {calibration.setting} changes "
            "the scores of such a loss: use the detector without a calibration"
        )
    for module, name, loss in losses:
        setattr(module, name, Calibrated(loss, calibration, frequency))


def copy_calibrated(model: Model, calibration: Calibration, frequency: ClassFrequency) -> Model:
    """Copies a detector and applies a calibration to the copy. Both share the weights, so the copy needs no memory.

    Args:
        model: a detector; it does not change.
        calibration: the method, its strength, and the data that it needs.
        frequency: of the classes in the training set.

    Returns:
        The copy.

    Raises:
        ValueError: as `apply_calibration`.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = deepcopy(model, shared)
    apply_calibration(copied, calibration, frequency)
    return copied


def list_calibrations(train: Annotations | None) -> list[Calibration]:
    """Lists the calibrations to try: none, then every method at each of its strengths.

    FRACAL is left out if ``train`` is None, because it needs the objects of the training set.
    """
    settings = [Setting(method, strength) for method, strengths in STRENGTHS.items() for strength in strengths]
    calibrations = [Calibration(setting) for setting in (Setting(), *settings)]
    if train is None:
        return [calibration for calibration in calibrations if calibration.setting.method != "FRACAL"]
    data = {"dimensions": compute_dimensions(train), "num_images": train.num_images}
    return [
        replace(calibration, **data) if calibration.setting.method == "FRACAL" else calibration
        for calibration in calibrations
    ]


def compute_dimensions(train: Annotations) -> tuple[float, ...]:
    """Computes the fractal dimension of each class in a training set."""
    objects = train.objects
    rows = ~objects.ignored
    sizes = torch.from_numpy(train.sizes[objects.images[rows]]).flip(1).double()
    boxes = torch.from_numpy(objects.boxes[rows]).double()
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2 / sizes).clamp(0, 1).float()
    labels = torch.from_numpy(objects.labels[rows])
    return tuple(fractal_dimensions(centers, labels, num_classes=train.num_classes).tolist())


@torch.no_grad()
def detect_with_calibrations(
    model: Detector,
    batches: Iterable[Batch],
    calibrations: Sequence[Calibration],
    frequency: ClassFrequency,
    category_ids: Sequence[int],
    *,
    device: torch.device,
    precision: Precision = "float32",
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[int], list[list[dict[str, Any]]]]:
    """Runs the detector on all images once for each calibration.

    Args:
        model: a detector in evaluation mode, on ``device``; it does not change.
        batches: the images.
        calibrations: the calibrations to apply.
        frequency: of the classes in the training set.
        category_ids: the category id of each label.
        device: the model's device.
        precision: the model's precision.
        progress: called after each batch with the number of images done.

    Returns:
        The images' ids, and the result records of each calibration.
    """
    image_ids: list[int] = []
    results: list[list[dict[str, Any]]] = [[] for _ in calibrations]
    models = [copy_calibrated(model, calibration, frequency) for calibration in calibrations]
    for batch in batches:
        batch_on_device = batch.to(device)
        for calibrated, records in zip(models, results, strict=True):
            for detections, info in zip(detect(calibrated, batch_on_device, precision), batch.infos, strict=True):
                records += to_results(detections, info.image_id, category_ids)
        image_ids += [info.image_id for info in batch.infos]
        progress(len(image_ids))
    return image_ids, results


def save(calibration: Calibration, file: Path) -> None:
    """Writes a calibration as JSON: the whole file or nothing."""
    write_text(file, json.dumps(asdict(calibration), indent=1) + "\n")


def load(file: Path, num_classes: int) -> Calibration:
    """Reads a calibration that `save` wrote.

    Raises:
        ValueError: the file has another format, or is for another number of classes, or holds FRACAL of an earlier
            version that did not divide by the number of images: its strength was chosen with other scores.
    """
    try:
        content = json.loads(file.read_text())
        setting = Setting(content["setting"]["method"], float(content["setting"]["strength"]))
        dimensions = None if content["dimensions"] is None else tuple(map(float, content["dimensions"]))
        num_images = None if content.get("num_images") is None else int(content["num_images"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} was not written by `tailseg calibrate`: {error!r}") from error
    expected = num_classes if setting.method == "FRACAL" else None
    if setting.method not in get_args(Method) or (None if dimensions is None else len(dimensions)) != expected:
        raise ValueError(f"{file} does not fit a detector of {num_classes} classes: {setting}. Calibrate it again")
    if setting.method == "FRACAL" and num_images is None:
        raise ValueError(
            f"{file} holds {setting} without the number of training images. Earlier versions wrote it so, and their "
            f"scores were not those of FRACAL's authors: run `tailseg calibrate {file.parent}` again, or delete it"
        )
    return Calibration(setting, dimensions, num_images)
