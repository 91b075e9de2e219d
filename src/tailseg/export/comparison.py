"""Compares the detections of an exported file with those of torch, image by image, and the AP of both."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pycocotools import mask as coco
from torchvision.tv_tensors import Image

from tailseg.annotations.dataset import Annotations, get_scored_groups
from tailseg.data.images import read_annotated
from tailseg.data.transforms import evaluation_transform
from tailseg.evaluation import Metrics, evaluate, to_results
from tailseg.evaluation.metrics import IouType
from tailseg.export import runner
from tailseg.export.formats import ExportPrecision
from tailseg.inference.predictor import Predictor
from tailseg.ops.masks import encode_mask, paste_masks
from tailseg.structures import Detections, RunLengths
from tailseg.words import count_noun

MAX_SCORE_DIFFERENCE: Final = 1e-4
MAX_BOX_DIFFERENCE: Final = 0.05
"""In pixels of the image."""
MIN_MASK_IOU: Final = 0.99
PACKAGES: Final = ("tailseg", "torch", "onnx", "onnxruntime", "onnxscript", "openvino")
FIGURES: Final = ("AP", "AP50", "APr", "APc", "APf")
PRECISIONS: Final[dict[ExportPrecision, str]] = {
    "float32": "The file computes in float32.",
    **{
        half: f"In the file, convolutions and linear layers are in {half}; scores, boxes, NMS and masks in float32."
        for half in ("bfloat16", "float16")
    },
    "int8": "In the file, convolutions and linear layers are in int8; the last layer of each head, whose outputs are "
    "scores and boxes, proposals, RoI pooling, NMS and masks in float32.",
}
NAMES: Final[dict[IouType, str]] = {"bbox": "boxes", "segm": "masks"}


@dataclass
class Agreement:
    """How well two lists of detections agree, over all images.

    Attributes:
        num_torch, num_file: detections of torch and of the file.
        num_equal: pairs with the same class whose scores, boxes and masks agree within the limits of this module.
        score, box: the largest differences among the pairs.
        mask_iou: the smallest IoU of the masks of a pair.
    """

    num_torch: int = 0
    num_file: int = 0
    num_equal: int = 0
    score: float = 0.0
    box: float = 0.0
    mask_iou: float = 1.0

    def add(self, first: Detections, second: Detections) -> None:
        """Matches the detections of an image one to one.

        Args:
            first: of torch.
            second: of the file.
        """
        self.num_torch += len(first)
        self.num_file += len(second)
        scores = (first.scores[:, None] - second.scores).abs()
        boxes = (first.boxes[:, None] - second.boxes).abs().amax(2)
        fits = (
            (first.labels[:, None] == second.labels) & (scores <= MAX_SCORE_DIFFERENCE) & (boxes <= MAX_BOX_DIFFERENCE)
        )
        free = torch.ones(len(second), dtype=torch.bool)
        for row in range(len(first)):
            for column in (fits[row] & free).nonzero()[:, 0].tolist():
                iou = compute_iou(first.masks[row], second.masks[column]) if first.masks and second.masks else 1.0
                if iou < MIN_MASK_IOU:
                    continue
                free[column] = False
                self.num_equal += 1
                self.score = max(self.score, float(scores[row, column]))
                self.box = max(self.box, float(boxes[row, column]))
                self.mask_iou = min(self.mask_iou, iou)
                break


@dataclass(frozen=True)
class Comparison:
    """An exported file and torch on the same images.

    Attributes:
        file: the exported file.
        agreement: of detections from the same pixels.
        torch, exported: the figures; those of the file with its runner's own resizing of the images.
        torch_time, exported_time: seconds for an image without reading it, the median.
        threads: of both.
    """

    file: Path
    agreement: Agreement
    torch: Metrics
    exported: Metrics
    torch_time: float
    exported_time: float
    threads: int
    settings: dict[str, Any] = field(default_factory=dict)

    def find_largest_difference(self) -> float:
        """The largest difference of the APs of boxes and masks, in 0 .. 1."""
        pairs = [(self.torch[kind]["AP"], self.exported[kind]["AP"]) for kind in self.torch.scores]
        return max((abs((a or 0.0) - (b or 0.0)) for a, b in pairs), default=0.0)

    def summary(self) -> str:
        """The result in two lines."""
        equal, total = self.agreement.num_equal, self.agreement.num_torch
        return (
            f"{equal:,} of {total:,} detections in {count_noun(self.torch.num_images, 'image')} are equal to torch's. "
            f"AP differs by at most {100 * self.find_largest_difference():.3f}\n"
            f"An image takes {1000 * self.exported_time:.0f} ms, with torch {1000 * self.torch_time:.0f} ms"
        )

    def to_markdown(self) -> str:
        """The report of the comparison."""
        agreement = self.agreement
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        place = f"{count_noun(self.torch.num_images, 'image')} of the validation set, {platform.machine()}"
        differences = (
            f"""\
Among these pairs, the largest difference of scores is {agreement.score:.2g}, that of boxes {agreement.box:.2g} pixels,
and the smallest IoU of masks {agreement.mask_iou:.4f}."""
            if agreement.num_equal
            else "Single detections differ where numbers are rounded: look at the AP."
        )
        text = f"""\
# {self.file.name} and torch

{place}, {count_noun(self.threads, "thread")}. {versions}. {PRECISIONS[self.settings["precision"]]}

**Detections** from the same pixels: {agreement.num_torch:,} of torch, {agreement.num_file:,} of the file.
{agreement.num_equal:,} pairs are equal: the same class, scores within {MAX_SCORE_DIFFERENCE:g}, boxes within
{MAX_BOX_DIFFERENCE} pixels, masks with an IoU of {MIN_MASK_IOU} or more.
{differences}

**Time** of an image without reading it (median): torch {1000 * self.torch_time:.0f} ms, file
{1000 * self.exported_time:.0f} ms.

**AP** in percent, the file with its runner's own resizing:
"""
        lines = [text, f"| | {' | '.join(FIGURES)} |", f"|---|{'---|' * len(FIGURES)}"]
        for kind in self.torch.scores:
            for source, metrics in (("torch", self.torch), ("file", self.exported)):
                figures = " | ".join(format_exactly(metrics[kind][name]) for name in FIGURES)
                lines.append(f"| {NAMES[kind]}, {source} | {figures} |")
        return "\n".join(lines) + "\n"


def format_exactly(value: float | None) -> str:
    """``42.683`` for 0.42683, ``-`` for None."""
    return "-" if value is None else f"{100 * value:.3f}"


def compute_iou(first: RunLengths, second: RunLengths) -> float:
    """The IoU of two masks; two empty masks are equal."""
    union = int(coco.area(coco.merge([first, second])))
    return int(coco.area(coco.merge([first, second], intersect=True))) / union if union else 1.0


@torch.no_grad()
def compare_with_torch(
    predictor: Predictor,
    file: Path,
    annotations: Annotations,
    *,
    images: int,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Comparison:
    """Runs torch and an exported file on the first images of a data set.

    Args:
        predictor: the model in torch, on a CPU.
        file: the exported file of this model.
        annotations: the validation set.
        images: the largest number of images.
        threads: of both; None uses as many as torch.
        progress: called after each image with the number of images done, and their total.

    Returns:
        The comparison.

    Raises:
        ImageError: an image cannot be read.
    """
    threads = threads or torch.get_num_threads()
    model = runner.Model(file, threads=threads)
    ids = [category.id for category in annotations.categories]
    data = predictor.recipe.data
    resize = evaluation_transform(data.test_short_side, data.max_long_side)
    total = min(images, annotations.num_images)
    agreement, times = Agreement(), ([], [])
    records: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
    infos = [annotations.get_info(index) for index in range(total)]
    for done, info in enumerate(infos, 1):
        pixels, _ = read_annotated(annotations, info)
        plain, size = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()), (info.height, info.width)
        resized = resize(Image(pixels))
        start = time.perf_counter()
        (expected,) = predictor.model([resized], original_sizes=[size])
        middle = time.perf_counter()
        outputs = model.run(runner.make_inputs([resized.permute(1, 2, 0).numpy()], [plain]))
        end = time.perf_counter()
        times[0].append(middle - start)
        times[1].append(end - middle)
        agreement.add(expected, to_detections(outputs, size, model.settings))
        records[0].extend(to_results(expected, info.image_id, ids))
        found = model.detect(plain, above=False)
        records[1].extend({"image_id": info.image_id, **record} for record in found)
        progress(done, total)
    selected = annotations.select_images([info.image_id for info in infos])
    kinds: tuple[IouType, ...] = ("bbox", "segm") if predictor.model.has_masks else ("bbox",)
    groups = get_scored_groups(annotations)
    metrics = [evaluate(selected, part, iou_types=kinds, groups=groups) for part in records]
    medians = [float(np.median(part)) for part in times]
    return Comparison(file, agreement, metrics[0], metrics[1], medians[0], medians[1], threads, model.settings)


def to_detections(outputs: dict[str, np.ndarray], size: tuple[int, int], settings: dict[str, Any]) -> Detections:
    """The detections of the first image of a batch.

    Args:
        outputs: of the exported file.
        size: height and width of the original image.
        settings: of the file.

    Returns:
        The detections.
    """
    count = int(outputs["counts"][0])
    boxes, scores, labels = (torch.from_numpy(outputs[name][0, :count]) for name in ("boxes", "scores", "labels"))
    masks: tuple[RunLengths, ...] | None = None
    if "masks" in outputs:
        found = outputs["masks"][0, :count]
        if settings["masks"] == "image":
            masks = tuple(encode_mask(mask) for mask in found[:, : size[0], : size[1]])
        else:
            masks = tuple(paste_masks(torch.from_numpy(found), boxes, *size, threshold=settings["mask_threshold"]))
    return Detections(boxes, scores, labels, masks, *size)
