"""Losses, calibrations, sampler, matching, errors and masks against independent formulas, case after random case.

A few cases of each run always; `pytest -m slow` runs thousands a seed and prints how many, with the largest
differences. Formulas: formulas.py, tests/losses/naive.py, and what the operators' own tests wrote out.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.detection.test_calibration import naive_dimension
from tests.losses import naive
from tests.ops.test_matching import reference_match
from tests.ops.test_nms import brute_force, random_problem

from tailseg.annotations.read import read_dataset
from tailseg.data.repeat_factor import category_repeat_factors, image_repeat_factors
from tailseg.data.sampler import TrainSampler
from tailseg.detection.calibration import (
    adjust_binary_scores,
    adjust_logits,
    adjust_scores,
    fracal_offsets,
    fracal_sigmoid_scores,
    fractal_dimensions,
    logit_adjustment_offsets,
    norcal_offsets,
    normalize_logits,
)
from tailseg.evaluation import analyze
from tailseg.losses import (
    BAGSLossConfig,
    ClassRelativeLossConfig,
    DropLossConfig,
    ECMLossConfig,
    EQLConfig,
    EQLv2Config,
    EqualizedFocalLossConfig,
    EquilibriumLossConfig,
    FederatedLossConfig,
    FocalLossConfig,
    GumbelCEConfig,
    LDAMLossConfig,
    LogitAdjustedSoftmaxConfig,
    PCBLossConfig,
    SeesawLossConfig,
    SigmoidCEConfig,
    SoftmaxCEConfig,
    VarifocalLossConfig,
)
from tailseg.losses.drop_loss import draw_uniform
from tailseg.ops.boxes import decode_boxes, encode_boxes
from tailseg.ops.masks import decode_mask, encode_mask, mask_area, mask_box, paste_bitmaps, paste_masks
from tailseg.ops.matching import match
from tailseg.ops.nms import class_nms
from tailseg.structures import ClassFrequency

from . import formulas, tide

EVERYTHING = 10**6
"""Samples every region, or every class."""


@dataclass
class Item:
    """What is compared: a loss, say.

    Attributes:
        limit: the largest difference that rounding may leave, relative where the numbers are above 1.
        cases: random cases that were looked at.
        largest: the largest difference so far, by what it is of.
    """

    limit: float
    cases: int = 0
    largest: dict[str, float] = field(default_factory=dict)

    def compare(self, name: str, ours, theirs) -> None:
        """Notes the largest difference; in relation to the largest number, where that is above 1."""
        ours, theirs = (np.asarray(value, dtype=np.float64) for value in (ours, theirs))
        assert ours.shape == theirs.shape, name
        scale = max(1.0, float(np.abs(theirs).max(initial=0)))
        difference = float(np.abs(ours - theirs).max(initial=0)) / scale
        self.largest[name] = max(self.largest.get(name, 0.0), difference if difference == difference else np.inf)


LOSSES = {
    "sigmoid": (SigmoidCEConfig(), lambda f: naive.Binary(f)),
    "sigmoid with background": (SigmoidCEConfig(background=True), lambda f: naive.Binary(f)),
    "softmax": (SoftmaxCEConfig(), lambda f: naive.Softmax(f)),
    "Gumbel": (GumbelCEConfig(), lambda f: naive.Binary(f, "gumbel")),
    "EQL, Gumbel": (EQLConfig(tail="rc"), lambda f: naive.SparesTail(f, "rc", "gumbel")),
    "EQL, sigmoid": (EQLConfig(tail=0.1, link="sigmoid"), lambda f: naive.SparesTail(f, 0.1, "sigmoid")),
    "EQL, normal": (EQLConfig(tail="r", link="normal"), lambda f: naive.SparesTail(f, "r", "normal")),
    "GOL": (DropLossConfig(tail=0.1), lambda f: naive.SparesTail(f, 0.1, "gumbel")),
    "DropLoss, sigmoid": (DropLossConfig("rc", link="sigmoid"), lambda f: naive.SparesTail(f, "rc", "sigmoid")),
    "DropLoss, normal": (DropLossConfig("r", link="normal"), lambda f: naive.SparesTail(f, "r", "normal")),
    "class-relative": (ClassRelativeLossConfig(), lambda f: naive.ClassRelative(f, 100)),
    "focal": (FocalLossConfig(), lambda f: naive.Focal(f, 2.0, 0.25)),
    "focal, no alpha": (FocalLossConfig(gamma=0.5, alpha=None), lambda f: naive.Focal(f, 0.5, None)),
    "focal, Gumbel": (FocalLossConfig(link="gumbel"), lambda f: naive.Focal(f, 2.0, 0.25, "gumbel")),
    "EFL": (EqualizedFocalLossConfig(), lambda f: naive.EqualizedFocal(f, 2.0, 0.25, 8.0)),
    "varifocal, normal": (VarifocalLossConfig(link="normal"), lambda f: naive.Varifocal(f, 2.0, 0.75, "normal")),
    "EQLv2": (EQLv2Config(), lambda f: naive.EQLv2(f, 12.0, 0.8, 4.0)),
    "Seesaw": (SeesawLossConfig(), lambda f: naive.Seesaw(f, 0.8, 2.0, 1e-2)),
    "BAGS": (BAGSLossConfig(beta=EVERYTHING), lambda f: naive.BAGS(f, (10, 100, 1000))),
    "federated": (FederatedLossConfig(num_sampled=EVERYTHING), lambda f: naive.Federated(f)),
    "balanced softmax": (LogitAdjustedSoftmaxConfig(), lambda f: naive.LogitAdjusted(f, 1.0)),
    "logit-adjusted": (LogitAdjustedSoftmaxConfig(tau=0.4), lambda f: naive.LogitAdjusted(f, 0.4)),
    "ECM": (ECMLossConfig(), lambda f: naive.ECM(f, 6.3313)),
    "LDAM": (LDAMLossConfig(), lambda f: naive.LDAM(f, 0.5, 1.0, None, 0.9999)),
    "PCB": (PCBLossConfig(), lambda f: naive.PCB(f, 0.4, 0.99, 0)),
    "PCB, Seesaw": (
        PCBLossConfig(base="seesaw"),
        lambda f: naive.PCB(f, 0.05, 0.99, 0, naive.Seesaw(f, 0.8, 2.0, 1e-2)),
    ),
    "EBL": (EquilibriumLossConfig(), lambda f: naive.Equilibrium(f, 0.9, 0.01, 0.01)),
    "LDAM-DRW": (
        LDAMLossConfig(scale=2.0, reweight_after=0, beta=0.99),
        lambda f: naive.LDAM(f, 0.5, 2.0, 0, 0.99),
    ),
}


def random_counts(rng, num_classes):
    """Images and objects of a long tail, now and then a class without any."""
    images = np.floor(10 ** rng.uniform(0, 3.5, num_classes)).astype(np.int64)
    images[rng.random(num_classes) < 0.1] = 0
    objects = images * rng.integers(1, 4, num_classes)
    return torch.from_numpy(images), torch.from_numpy(objects)


def random_frequency(rng, num_classes):
    images, objects = random_counts(rng, num_classes)
    return ClassFrequency.from_counts(images, objects, int(images.max()) + int(rng.integers(1, 3000)))


def random_logits(rng, shape):
    """As of a detector, near 0, or far out: every one of them 50 or -50, or anywhere between."""
    kind = rng.integers(5)
    if kind == 0:
        return rng.choice([-50.0, 50.0], shape)
    if kind == 1:
        return rng.uniform(-50, 50, shape)
    return [1e-3, 1.0, 4.0][kind - 2] * rng.normal(size=shape) - (2 if kind == 4 else 0)


def random_labels(rng, count, num_classes):
    """Now and then all background, or no background."""
    kind = rng.integers(6)
    low, high = {0: (num_classes, num_classes + 1), 1: (0, num_classes)}.get(int(kind), (0, num_classes + 1))
    return torch.from_numpy(rng.integers(low, high, count))


def loss_case(name, item, rng, folder):
    """Value, gradient and scores, call after call where the loss has a state."""
    config, formula_of = LOSSES[name]
    num_classes, num_regions = int(rng.choice([1, 1, 2, 4, 9])), int(rng.choice([0, 1, 3, 8]))
    frequency = random_frequency(rng, num_classes)
    loss, formula = config.build(frequency), formula_of(frequency)
    for _ in range(3 if name in ("EFL", "EQLv2", "Seesaw", "PCB", "PCB, Seesaw", "EBL") else 1):
        logits = torch.from_numpy(random_logits(rng, (num_regions, loss.num_logits))).requires_grad_()
        labels = random_labels(rng, num_regions, num_classes)
        seed = int(rng.integers(2**31))
        if isinstance(config, DropLossConfig):
            torch.manual_seed(seed)
            formula.uniform = (draw_uniform(num_regions, num_classes, torch.device("cpu")).double() + 2**15) / 2**16
        torch.manual_seed(seed)
        ours, theirs = sum(loss(logits, labels).values()), formula(logits, labels)
        for part, value in (("value", ours), ("expected", theirs)):
            (gradient,) = torch.autograd.grad(value, logits)
            if part == "value":
                found = gradient
        item.compare("value", ours.detach(), theirs.detach())
        item.compare("gradient", found, gradient)
    if num_regions:
        with torch.no_grad():
            item.compare("scores", loss.scores(logits), formula.scores(logits))


def calibration_case(item, rng, folder):
    """All five, on logits and on scores."""
    num_classes, num_regions = int(rng.choice([1, 2, 5, 12])), int(rng.choice([0, 1, 4]))
    images, objects = random_counts(rng, num_classes)
    num_images = int(images.max().clamp(min=1)) + int(rng.integers(0, 3000))
    dimensions = torch.from_numpy(rng.uniform(1, 2, num_classes))
    q = random_logits(rng, (num_regions, num_classes + 1))
    logits = torch.from_numpy(q)
    strength = float(rng.uniform(0, 3))
    known = {"num_images": num_images, "strength": strength}
    counts = images.double().numpy()
    pairs = {
        "logit adjustment": (
            logit_adjustment_offsets(objects, tau=strength),
            formulas.logit_adjustment(q, objects.double().numpy(), strength),
        ),
        "NorCal": (norcal_offsets(images, gamma=strength), formulas.norcal(q, counts, strength)),
        "FRACAL": (
            fracal_offsets(images, dimensions, **known),
            formulas.fracal(q, counts, dimensions.numpy(), num_images, strength),
        ),
    }
    for name, (offsets, expected) in pairs.items():
        item.compare(name, adjust_logits(logits, offsets).softmax(1)[:, :-1], expected)
        if np.abs(q).max(initial=0) < 20:  # beyond it, the scores of a softmax have lost what the logits knew
            item.compare(f"{name}, by scores", adjust_scores(logits.softmax(1)[:, :-1], offsets), expected)
            s = formulas.sigmoid(q[:, :-1])
            moved = formulas.sigmoid(formulas.log_odds(s) + offsets.numpy())
            item.compare(f"{name}, of sigmoids", adjust_binary_scores(torch.from_numpy(s), offsets), moved)
    expected = formulas.fracal_sigmoid(q[:, :-1], counts, dimensions.numpy(), num_images, strength)
    mean, deviation = rng.normal(-3, 2, num_classes), rng.uniform(0.2, 4, num_classes)
    normalized = normalize_logits(logits, *map(torch.from_numpy, (mean, deviation)), strength=strength)
    item.compare("LogN", normalized.softmax(1)[:, :-1], formulas.logn(q, mean, deviation, strength))
    item.compare("FRACAL's sigmoids", fracal_sigmoid_scores(logits[:, :-1], images, dimensions, **known), expected)


def dimension_case(item, rng, folder):
    sizes = rng.integers(0, 120, 4)
    labels = torch.from_numpy(rng.permutation(np.repeat(np.arange(4), sizes)))
    centers = torch.from_numpy(rng.random((len(labels), 2)) ** rng.choice([1, 1, 5]))
    centers[torch.from_numpy(rng.random(len(labels)) < 0.05)] = 1.0
    most = int(rng.integers(2, 12))
    expected = [naive_dimension(centers[labels == j].tolist(), most) for j in range(4)]
    item.compare("dimensions", fractal_dimensions(centers, labels, num_classes=4, max_grid=most), expected)


def repeat_case(item, rng, folder):
    """Factors by class and image, and what an epoch shows."""
    num_classes = int(rng.integers(1, 5))
    images = [rng.choice(num_classes, int(rng.integers(0, 4))).tolist() for _ in range(int(rng.integers(1, 9)))]
    threshold = float(rng.choice([0.0, 1e-3, 0.3, 0.7, 1.0]))
    if not any(images):
        images[0] = [0]
    box = {"bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0, "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]]}
    objects = [{"image_id": i, "category_id": c + 1} | box for i, members in enumerate(images) for c in members]
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 9, "width": 9} for i in range(len(images))],
        "annotations": [{"id": number} | each for number, each in enumerate(objects, 1)],
        "categories": [{"id": c + 1, "name": str(c)} for c in range(num_classes)],
    }
    file = folder / "images.json"
    file.write_text(json.dumps(data))
    annotations = read_dataset(file)
    expected = formulas.repeat_factors(images, num_classes, threshold)
    item.compare("factors of images", image_repeat_factors(annotations, threshold), expected)
    fractions = torch.from_numpy(rng.choice([0.0, 1e-6, 0.5, 1.0], 3)).double()
    by_hand = [max(1.0, np.sqrt(threshold / f)) if f else 1.0 for f in fractions.tolist()]
    item.compare("factors of classes", category_repeat_factors(fractions, threshold), by_hand)
    sampler = TrainSampler(annotations, batch_size=1, seed=int(rng.integers(1000)), repeat_threshold=threshold)
    shown = np.bincount(sampler.order(), minlength=len(images))
    times = [int(np.ceil(r)) if members else 0 for r, members in zip(expected, images, strict=True)]
    item.compare("times shown", shown, times)


def matching_case(item, rng, folder):
    """Few different values, so that ties and values at a threshold are common."""
    shape = tuple(rng.integers(1, 9, 2).tolist())
    table = rng.choice([0, 0.125, 0.25, 0.5, 0.75, 1], shape) if rng.random() < 0.5 else rng.random(shape)
    table = table.astype(np.float32)
    low, high = sorted(rng.choice([0.25, 0.3, 0.5, 0.7], 2).tolist())
    rule = {
        "positive": high,
        "negative": low,
        "minimum_positive": low,
        "allow_low_quality_matches": bool(rng.random() < 0.5),
    }
    item.compare("objects", match(torch.from_numpy(table), **rule), reference_match(table.tolist(), **rule))


def suppression_case(item, rng, folder):
    rows, classes = rng.integers(1, 30), rng.integers(1, 6)
    specific, grid = bool(rng.random() < 0.5), rng.choice([None, 8])
    boxes, scores = random_problem(int(rows), int(classes), specific=specific, seed=int(rng.integers(2**31)), grid=grid)
    most = int(rng.choice([5, 300]))
    rule = {"score_threshold": 0.125, "iou_threshold": 0.5, "max_detections": most}
    found = class_nms(boxes, scores, **rule)
    expected = brute_force(boxes, scores, **rule)
    item.compare("number", len(found.rois), len(expected))
    if len(found.rois) == len(expected):
        ours = torch.stack([found.rois, found.labels], 1).numpy()
        item.compare("row and class", ours, np.array(expected).reshape(-1, 2))


def box_case(item, rng, folder):
    corner = rng.uniform(0, 900, (2, 6, 2))
    boxes, references = np.concatenate([corner, corner + np.exp(rng.uniform(-1, 6, corner.shape))], axis=2)
    stds = (0.1, 0.1, 0.2, 0.2)
    tensors = [torch.from_numpy(each) for each in (boxes, references)]
    item.compare("deltas", encode_boxes(*tensors, stds=stds), formulas.encode(boxes, references, stds))
    deltas = rng.normal(size=(6, 4)) * rng.choice([1, 50])
    ours = decode_boxes(torch.from_numpy(deltas), tensors[1], stds=stds)
    item.compare("boxes", ours, formulas.decode(deltas, references, stds))


def mask_case(item, rng, folder):
    """Run lengths there and back, what is read off them, and pasting (pixels within 1e-6 of the threshold apart)."""
    height, width = rng.integers(1, 40, 2).tolist()
    pixels = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])
    rle = encode_mask(pixels)
    item.compare("encoded", formulas.bitmap(rle), pixels)
    item.compare("decoded", decode_mask(rle), pixels)
    item.compare("area", mask_area(rle), pixels.sum())
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
    item.compare("box", mask_box(rle), box)
    side, threshold = int(rng.choice([1, 7, 28])), float(rng.choice([0.1, 0.5, 0.9]))
    cells = torch.from_numpy(rng.random((1, side, side), dtype=np.float32))
    corner = rng.uniform(-10, 40, 2)
    where = np.concatenate([corner, corner + rng.uniform(-1, 40, 2)])
    probability = formulas.pasted(cells[0].double().numpy(), where, height, width)
    sure = np.abs(probability - threshold) > 1e-6
    pasted, boxes = (probability >= threshold) & sure, torch.from_numpy(where)[None]
    arguments = cells, boxes, height, width
    item.compare("pasted bitmaps", paste_bitmaps(*arguments, threshold=threshold)[0].numpy() & sure, pasted)
    item.compare("pasted run lengths", formulas.bitmap(paste_masks(*arguments, threshold=threshold)[0]) & sure, pasted)


def error_case(item, rng, folder):
    """AP under pycocotools' rules, TIDE's counts and costs, the expected calibration error."""
    truth, results = tide.random_set(rng, only_known=False)
    iou_type = str(rng.choice(["bbox", "bbox", "segm"]))
    file = folder / "truth.json"
    file.write_text(json.dumps(truth))
    dropped = "segmentation" if iou_type == "bbox" else "bbox"
    records = [{key: value for key, value in each.items() if key != dropped} for each in results]
    analysis = analyze(file, {iou_type: records})
    objects = truth["annotations"]
    ap50, counts, costs = formulas.tide(objects, results, iou_type)
    ours = analysis.errors[iou_type].parts["all"]
    item.compare("AP50", ours.AP50, ap50)
    item.compare("AP75", analysis.metrics[iou_type]["AP75"], formulas.mean_ap(objects, results, 0.75, iou_type))
    for kind, cost in costs.items():
        assert (ours.cost[kind] is None) == (cost is None), kind
        item.compare("numbers", ours.counts[kind], counts[kind])
        item.compare("costs", ours.cost[kind] or 0.0, cost or 0.0)
    error = formulas.expected_error(objects, results, iou_type)
    item.compare("calibration error", analysis.reliability[iou_type]["all"].expected_error or 0.0, error or 0.0)


Case = Callable[[Item, np.random.Generator, Path], None]
OTHERS: dict[str, tuple[Case, int, float]] = {
    "calibrations": (calibration_case, 600, 1e-11),
    "fractal dimensions": (dimension_case, 300, 1e-12),
    "repeat factors": (repeat_case, 300, 1e-12),
    "matching of regions": (matching_case, 1500, 0),
    "suppression": (suppression_case, 500, 0),
    "boxes": (box_case, 1000, 1e-12),
    "masks": (mask_case, 1500, 0),
    "AP and errors": (error_case, 400, 1e-12),
}
"""What is compared, cases a seed, and what rounding may leave of the difference."""
LOSS_CASES = 400
# ECM's log((1 + a) / a), a up to 1e5, has eleven digits as it is written.
LOSS_LIMITS = {"ECM": 1e-10}


def items() -> Iterator[tuple[str, Callable[..., None], int, float]]:
    """Name, case, cases a seed, limit."""
    for name in LOSSES:
        yield name, lambda *arguments, name=name: loss_case(name, *arguments), LOSS_CASES, LOSS_LIMITS.get(name, 1e-11)
    for name, (case, count, limit) in OTHERS.items():
        yield name, case, count, limit


def look(share: float, seed: int, folder: Path) -> dict[str, Item]:
    """Every item's cases, or a share of them."""
    found = {}
    for number, (name, case, count, limit) in enumerate(items()):
        item = found[name] = Item(limit)
        for index in range(max(1, round(share * count))):
            case(item, np.random.default_rng([seed, number, index]), folder)
            item.cases += 1
    return found


def table(found: dict[str, Item]) -> str:
    """Cases, and the largest differences of each item."""
    rows = [f"{sum(item.cases for item in found.values()):,} cases; largest differences:"]
    for name, item in found.items():
        differences = ", ".join(f"{part} {value:.1e}" for part, value in item.largest.items())
        rows.append(f"{name:23} {item.cases:5} cases  {differences}")
    return "\n".join(rows)


def assert_within_limits(found: dict[str, Item]) -> None:
    off = {
        f"{name}, {part}": value
        for name, item in found.items()
        for part, value in item.largest.items()
        if value > item.limit
    }
    assert off == {}, table(found)


def test_a_few_cases_agree(tmp_path, one_thread):
    assert_within_limits(look(0.01, 0, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_thousands_of_cases_agree(seed, tmp_path, one_thread, capsys):
    found = look(1.0, seed, tmp_path)
    with capsys.disabled():
        print(f"\nseed {seed}: {table(found)}")
    assert_within_limits(found)
