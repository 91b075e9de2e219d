"""Calibration after training for a trained detector: its methods, their strengths, and their effect.

The scores of a class are changed according to its frequency in the training set (LogN: according to its logits in
regions of the training set), before the best detections of an image are selected: `tailseg.detection.calibration` has
the formulas. Saved results are not enough, because they hold the best detections with one score each, and NorCal,
FRACAL and LogN need all scores of a region. So the detector has to see its images again.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
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
    normalize_logits,
)
from tailseg.detection.testing import detect
from tailseg.evaluation.results import to_results
from tailseg.files import write_text
from tailseg.losses import ClassificationLoss
from tailseg.losses.base import at_least_float32
from tailseg.models.detector import Detector
from tailseg.models.precision import Precision, autocast
from tailseg.structures import Batch, ClassFrequency

Model = TypeVar("Model", bound=nn.Module)
Loss = TypeVar("Loss", bound=ClassificationLoss)
Method = Literal["none", "logit adjustment", "NorCal", "FRACAL", "LogN"]
STRENGTHS: dict[Method, tuple[float, ...]] = {
    "logit adjustment": (0.1, 0.25, 0.5, 0.75, 1.0),
    "NorCal": (0.1, 0.2, 0.4, 0.6, 0.8),
    "FRACAL": (0.5, 1.0, 2.0, 3.0),
    "LogN": (0.5, 1.0),
}
FILE = "calibration.json"
"""The name of the file in a run's folder that stores its calibration."""


@dataclass(frozen=True)
class Setting:
    """A method and its strength: tau of logit adjustment, gamma of NorCal, lambda of FRACAL, s of LogN."""

    method: Method = "none"
    strength: float = 0.0

    def __str__(self) -> str:
        return "as trained" if self.method == "none" else f"{self.method} {self.strength:g}"


@dataclass(frozen=True)
class LogitStatistics:
    """The logits of each class over regions of training images.

    Attributes:
        means, deviations: mean and standard deviation of the logits of each class.
        num_regions: the number of regions.
    """

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    num_regions: int


@dataclass(frozen=True)
class Calibration:
    """A setting, and the data of the training set that it needs.

    Attributes:
        setting: the method and its strength.
        dimensions: fractal dimension of each class, for FRACAL.
        num_images: all training images, including those without objects, for FRACAL.
        statistics: of each class's logits in regions of the training set, for LogN.
    """

    setting: Setting
    dimensions: tuple[float, ...] | None = None
    num_images: int | None = None
    statistics: LogitStatistics | None = None


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
        setting = self.calibration.setting
        if setting.method == "LogN":
            assert self.calibration.statistics is not None
            means, deviations = (
                torch.tensor(values, device=logits.device, dtype=torch.float64)
                for values in (self.calibration.statistics.means, self.calibration.statistics.deviations)
            )
            normalized = normalize_logits(at_least_float32(logits), means, deviations, strength=setting.strength)
            return self.loss.scores(normalized)
        scores = self.loss.scores(logits)
        counts = self.frequency.image_counts.to(scores.device)
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


class LogitRecorder(ClassificationLoss):
    """A loss that adds up the logits it gets, in float64, instead of computing a loss.

    Attributes:
        count: the regions.
        total, squares: sums over regions of q - q_0 and (q - q_0)^2 of each class, with q_0 of the first region: sums
            of q itself would lose digits.
    """

    def __init__(self, loss: ClassificationLoss) -> None:
        super().__init__()
        self.loss = loss
        self.num_classes, self.num_logits = loss.num_classes, loss.num_logits
        self.scores_are_exclusive = loss.scores_are_exclusive
        self.count = 0
        self.first = self.total = self.squares = torch.zeros(loss.num_classes, dtype=torch.float64)

    def init_bias(self) -> Float[Tensor, " L"]:
        return self.loss.init_bias()

    def forward(
        self,
        logits: Float[Tensor, "R L"],
        labels: Int64[Tensor, " R"],  # noqa: ARG002 - the interface
    ) -> dict[str, Float[Tensor, ""]]:
        """Adds the logits of the classes, and returns a loss of 0."""
        values = logits.detach()[:, : self.num_classes].cpu().double()
        if not self.count and len(values):
            self.first = values[0]
        values = values - self.first
        self.count += len(values)
        self.total, self.squares = self.total + values.sum(0), self.squares + values.square().sum(0)
        return {"loss_cls": logits.new_zeros((), dtype=torch.float32)}

    def scores(self, logits: Float[Tensor, "R L"]) -> Float[Tensor, "R C"]:
        return self.loss.scores(logits)


@torch.no_grad()
def measure_logits(
    model: Detector,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: Precision = "float32",
    progress: Callable[[int], None] = lambda _: None,
) -> LogitStatistics:
    """Measures the mean and the standard deviation of each class's logits over regions of training images.

    The regions are those that training samples: proposals and objects, at most a quarter with an object for the
    published settings. All heads of a cascade are counted together, because its scores come from their mean.

    Args:
        model: a detector in evaluation mode, on ``device``; it does not change.
        batches: training images with their targets.
        device: the model's device.
        precision: the model's precision.
        progress: called after each batch with the number of images done.

    Returns:
        The statistics.

    Raises:
        ValueError: no module of the model is a `ClassificationLoss`, or it was not called.
    """
    recording = _copy_sharing(model)
    recorders = _replace_losses(recording, LogitRecorder)
    done = 0
    for batch in batches:
        on_device = batch.to(device)
        with autocast(device, precision):
            recording(on_device.images, on_device.targets)
        done += len(batch)
        progress(done)
    recorders = [recorder for recorder in recorders if recorder.count]
    if not recorders:
        raise ValueError(
            f"{type(model).__name__} gave no logits to a ClassificationLoss on {done} training images, and LogN needs "
            "their mean: calibrate with another method"
        )
    counts = torch.tensor([[recorder.count] for recorder in recorders], dtype=torch.float64)
    first, total, squares = (
        torch.stack([getattr(recorder, name) for recorder in recorders]) for name in ("first", "total", "squares")
    )
    means, num_regions = first + total / counts, int(counts.sum())
    mean = (counts * means).sum(0) / num_regions
    # Sums of squares about each head's own mean, moved to the mean of all.
    squares = squares - total.square() / counts + counts * (means - mean).square()
    deviation = (squares.sum(0).clamp(min=0) / num_regions).sqrt()
    return LogitStatistics(tuple(mean.tolist()), tuple(deviation.tolist()), num_regions)


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
    if not _replace_losses(model, lambda loss: Calibrated(loss, calibration, frequency)):
        raise ValueError(
            f"{type(model).__name__} has no ClassificationLoss among its modules, and {calibration.setting} changes "
            "the scores of such a loss: use the detector without a calibration"
        )


def _replace_losses(model: nn.Module, make: Callable[[ClassificationLoss], Loss]) -> list[Loss]:
    """Replaces each loss among the modules of a model; returns the new ones."""
    losses = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, ClassificationLoss)
    ]
    made: list[Loss] = []
    for module, name, loss in losses:
        made.append(make(loss))
        setattr(module, name, made[-1])
    return made


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
    copied = _copy_sharing(model)
    apply_calibration(copied, calibration, frequency)
    return copied


def _copy_sharing(model: Model) -> Model:
    """A copy with the same weights and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return deepcopy(model, shared)


def list_calibrations(
    train: Annotations | None, statistics: LogitStatistics | None = None, *, least_grids: int = 2
) -> list[Calibration]:
    """Lists the calibrations to try: none, then every method at each of its strengths.

    Args:
        train: the training set, for FRACAL; None leaves FRACAL out.
        statistics: for LogN; None leaves LogN out.
        least_grids: of FRACAL, see `tailseg.detection.calibration.fractal_dimensions`.

    Returns:
        The calibrations.
    """
    settings = [Setting(method, strength) for method, strengths in STRENGTHS.items() for strength in strengths]
    data: dict[Method, dict[str, Any]] = {}
    if train is not None:
        data["FRACAL"] = {
            "dimensions": compute_dimensions(train, least_grids=least_grids),
            "num_images": train.num_images,
        }
    if statistics is not None:
        data["LogN"] = {"statistics": statistics}
    return [
        Calibration(setting, **data.get(setting.method, {}))
        for setting in (Setting(), *settings)
        if setting.method in data or setting.method not in ("FRACAL", "LogN")
    ]


def compute_dimensions(train: Annotations, *, least_grids: int = 2) -> tuple[float, ...]:
    """Computes the fractal dimension of each class in a training set; see `fractal_dimensions` for ``least_grids``."""
    objects = train.objects
    rows = ~objects.ignored
    sizes = torch.from_numpy(train.sizes[objects.images[rows]]).flip(1).double()
    boxes = torch.from_numpy(objects.boxes[rows]).double()
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2 / sizes).clamp(0, 1).float()
    labels = torch.from_numpy(objects.labels[rows])
    dimensions = fractal_dimensions(centers, labels, num_classes=train.num_classes, least_grids=least_grids)
    return tuple(dimensions.tolist())


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
        statistics = _read_statistics(content.get("statistics"))
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
    found = None if statistics is None else (len(statistics.means), len(statistics.deviations))
    if found != ((num_classes, num_classes) if setting.method == "LogN" else None):
        raise ValueError(f"{file} does not fit a detector of {num_classes} classes: {setting}. Calibrate it again")
    return Calibration(setting, dimensions, num_images, statistics)


def _read_statistics(content: Any) -> LogitStatistics | None:  # noqa: ANN401 - of a file
    """The statistics as `save` wrote them; files of earlier versions have none."""
    if content is None:
        return None
    means, deviations = (tuple(map(float, content[name])) for name in ("means", "deviations"))
    return LogitStatistics(means, deviations, int(content["num_regions"]))
