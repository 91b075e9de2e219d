"""Calibration after training for a trained detector: which method, how strong, and what it does.

A class's scores move by its frequency in the training set, before the best detections of an image are taken:
:mod:`tailseg.detection.calibration` has the formulas. Saved results do not suffice: they hold the best detections,
with one score each, while NorCal and FRACAL need all scores of a region. So the detector looks at its images again.
"""

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

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

Method = Literal["none", "logit adjustment", "NorCal", "FRACAL"]
STRENGTHS: dict[Method, tuple[float, ...]] = {
    "logit adjustment": (0.1, 0.25, 0.5, 0.75, 1.0),
    "NorCal": (0.1, 0.2, 0.4, 0.6, 0.8),
    "FRACAL": (0.5, 1.0, 2.0, 3.0),
}
FILE = "calibration.json"


@dataclass(frozen=True)
class Setting:
    """A method and its strength: tau of logit adjustment, gamma of NorCal, lambda of FRACAL."""

    method: Method = "none"
    strength: float = 0.0

    def __str__(self) -> str:
        return "as trained" if self.method == "none" else f"{self.method} {self.strength:g}"


@dataclass(frozen=True)
class Calibration:
    """A setting, and what it needs to know of the training set.

    Attributes:
        setting: which method, how strong.
        dimensions: fractal dimension of each class, for FRACAL.
        num_images: all training images, those without objects too, for FRACAL.
    """

    setting: Setting
    dimensions: tuple[float, ...] | None = None
    num_images: int | None = None


class Calibrated(ClassificationLoss):
    """A loss whose scores are calibrated; in training it is the loss itself."""

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
        """The loss's scores, moved by the offsets of the classes."""
        scores = self.loss.scores(logits)
        setting, counts = self.calibration.setting, self.frequency.image_counts.to(scores.device)
        if setting.method == "FRACAL":
            dimensions = torch.tensor(self.calibration.dimensions, device=scores.device, dtype=scores.dtype)
            known: Any = {"num_images": self.calibration.num_images, "strength": setting.strength}
            if not self.scores_are_exclusive:
                return fracal_sigmoid_scores(scores.logit(), counts, dimensions, **known).to(scores)
            offsets = fracal_offsets(counts, dimensions, **known)
        elif setting.method == "NorCal":
            offsets = norcal_offsets(counts, gamma=setting.strength)
        else:
            instances = self.frequency.instance_counts.to(scores.device)
            offsets = logit_adjustment_offsets(instances, tau=setting.strength)
        adjust = adjust_scores if self.scores_are_exclusive else adjust_binary_scores
        return adjust(scores, offsets.to(scores))


Replaced = list[tuple[nn.Module, str, ClassificationLoss, Calibrated]]
"""Of each of a detector's losses: its owner, its name there, itself, and the calibrated one."""


def replacements(model: nn.Module, calibration: Calibration, frequency: ClassFrequency) -> Replaced:
    """The calibrated losses of a detector, to be put in place; none where scores stay as trained."""
    if calibration.setting.method == "none":
        return []
    return [
        (module, name, child, Calibrated(child, calibration, frequency))
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, ClassificationLoss)
    ]


@contextmanager
def in_place(replaced: Replaced) -> Generator[None]:
    """Within it, the calibrated losses give the detector's scores."""
    try:
        for owner, name, _, calibrated in replaced:
            setattr(owner, name, calibrated)
        yield
    finally:
        for owner, name, loss, _ in replaced:
            setattr(owner, name, loss)


def calibrations(train: Annotations | None) -> list[Calibration]:
    """As trained, then every method at each of its strengths; FRACAL only where the training set is there."""
    found = [Calibration(Setting())]
    found += [Calibration(Setting(method, strength)) for method, each in STRENGTHS.items() for strength in each]
    if train is None:
        return [each for each in found if each.setting.method != "FRACAL"]
    known = {"dimensions": dimensions_of(train), "num_images": train.num_images}
    return [replace(each, **known) if each.setting.method == "FRACAL" else each for each in found]


def dimensions_of(train: Annotations) -> tuple[float, ...]:
    """Fractal dimension of each class in a training set."""
    objects = train.objects
    rows = ~objects.ignored
    sizes = torch.from_numpy(train.sizes[objects.images[rows]]).flip(1).double()
    boxes = torch.from_numpy(objects.boxes[rows]).double()
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2 / sizes).clamp(0, 1).float()
    labels = torch.from_numpy(objects.labels[rows])
    return tuple(fractal_dimensions(centers, labels, num_classes=train.num_classes).tolist())


@torch.no_grad()
def results_of(
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
    """The images' ids, and the result records of each calibration.

    Args:
        model: in evaluation mode, on ``device``.
        batches: images.
        calibrations: each looks at every image.
        frequency: of the classes in the training set.
        category_ids: by label.
        device, precision: of the model.
        progress: called with the images done.
    """
    image_ids: list[int] = []
    results: list[list[dict[str, Any]]] = [[] for _ in calibrations]
    prepared = [replacements(model, calibration, frequency) for calibration in calibrations]
    for batch in batches:
        there = batch.to(device)
        for replaced, records in zip(prepared, results, strict=True):
            with in_place(replaced):
                for found, info in zip(detect(model, there, precision), batch.infos, strict=True):
                    records += to_results(found, info.image_id, category_ids)
        image_ids += [info.image_id for info in batch.infos]
        progress(len(image_ids))
    return image_ids, results


def save(calibration: Calibration, file: Path) -> None:
    """Writes a calibration as JSON, whole or not at all."""
    write_text(file, json.dumps(asdict(calibration), indent=1) + "\n")


def load(file: Path, num_classes: int) -> Calibration:
    """Reads what `save` wrote.

    Raises:
        ValueError: it is no such file, or not of a detector of ``num_classes`` classes, or FRACAL of a build that did
            not divide by the number of images: its strength was chosen with other scores.
    """
    try:
        content = json.loads(file.read_text())
        setting = Setting(content["setting"]["method"], float(content["setting"]["strength"]))
        dimensions = None if content["dimensions"] is None else tuple(map(float, content["dimensions"]))
        num_images = None if content.get("num_images") is None else int(content["num_images"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no calibration that `tailseg calibrate` wrote: {error!r}") from error
    wanted = num_classes if setting.method == "FRACAL" else None
    if setting.method not in get_args(Method) or (None if dimensions is None else len(dimensions)) != wanted:
        raise ValueError(f"{file} does not fit a detector of {num_classes} classes: {setting}; calibrate it anew")
    if setting.method == "FRACAL" and num_images is None:
        raise ValueError(
            f"{file} holds {setting} without the number of training images, as earlier builds wrote it, whose scores "
            f"were not those of FRACAL's authors: choose again with `tailseg calibrate {file.parent}`, or delete it"
        )
    return Calibration(setting, dimensions, num_images)
