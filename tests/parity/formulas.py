"""Calibration, sampling, matching, errors and masks as their definitions read: NumPy in float64, one thing at a time.

Nothing here is shared with the package. The losses are in tests/losses/naive.py; what a test beside the operator has
already (matching, suppression, fractal dimensions), test_formulas.py takes from there.
"""

import math
from typing import Any

import numpy as np

Records = list[dict[str, Any]]
KINDS = "classification", "localization", "both", "duplicate", "background", "missed"


def softmax(q):
    e = np.exp(q - q.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def sigmoid(q):
    return np.where(q >= 0, 1 / (1 + np.exp(-np.abs(q))), np.exp(-np.abs(q)) / (1 + np.exp(-np.abs(q))))


def log_odds(s):
    return np.log(s) - np.log1p(-s)


# Calibration after training. Counts are 1 at least; background has no factor.


def logit_adjustment(q, objects, tau):
    """Logits q_j - tau log of the class's prior; background stands where a class of mean count stands."""
    n = np.maximum(objects, 1.0)
    prior = np.append(n / n.sum(), 1 / len(n))
    return softmax(q - tau * np.log(prior))[:, :-1]


def norcal(q, images, gamma):
    """exp(q_j) / N_j^gamma, normalized with background."""
    largest = q.max(axis=1, keepdims=True)
    e = np.exp(q - largest) / np.append(np.maximum(images, 1.0) ** gamma, 1)
    return (e / e.sum(axis=1, keepdims=True))[:, :-1]


def fracal_prior(images, num_images):
    return -np.log10(np.maximum(images, 1.0) / num_images) - np.log10(len(images))


def fracal(q, images, dimensions, num_images, strength):
    s = softmax(q + np.append(fracal_prior(images, num_images), 0)) / np.append(dimensions**strength, 1)
    return (s / s.sum(axis=1, keepdims=True))[:, :-1]


def fracal_sigmoid(q, images, dimensions, num_images, strength):
    power = dimensions**strength
    f = -np.log10(power / power.sum()) - np.log10(len(power))
    return sigmoid(q) * sigmoid(q + fracal_prior(images, num_images) + f)


def logn(q, mean, deviation, strength):
    """Normalized by class, the lowest mean left where it is; background, the last column, untouched."""
    shifted = q[:, :-1] - strength * (mean - mean.min())
    return softmax(np.concatenate([shifted / np.power(deviation, strength), q[:, -1:]], axis=1))[:, :-1]


# Repeat factors


def repeat_factors(classes_of_images, num_classes, threshold):
    """r_i from the classes of each image: f_c over the images that have any."""
    annotated = [set(classes) for classes in classes_of_images if classes]
    r = []
    for c in range(num_classes):
        f = sum(c in classes for classes in annotated) / max(len(annotated), 1)
        r.append(max(1.0, math.sqrt(threshold / f)) if f else 1.0)
    return [max([r[c] for c in classes], default=1.0) for classes in classes_of_images]


# Boxes


def encode(boxes, references, stds):
    def center_and_side(b):
        return (b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]

    (center, side), (of, size) = center_and_side(boxes), center_and_side(references)
    return np.hstack([(center - of) / size, np.log(side / size)]) / stds


def decode(deltas, references, stds):
    deltas = deltas * stds
    size = references[:, 2:] - references[:, :2]
    center = (references[:, :2] + references[:, 2:]) / 2 + deltas[:, :2] * size
    side = size * np.exp(np.clip(deltas[:, 2:], -np.log(1000 / 16), np.log(1000 / 16)))
    return np.hstack([center - side / 2, center + side / 2])


# Masks


def run_lengths(text):
    """The counts in COCO's text: five bits a character, low ones first; from the fourth on, the change from two ago."""
    counts, value, shift = [], 0, 0
    for letter in text:
        code = ord(letter) - 48
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:
            if code & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def bitmap(rle):
    """Down the columns: the first count is of zeros."""
    height, width = rle["size"]
    flat = np.concatenate([np.full(count, i % 2) for i, count in enumerate(run_lengths(rle["counts"]))])
    return flat.reshape(width, height).T.astype(bool)


def pasted(mask, box, height, width):
    """Each pixel's probability: bilinear between the centers of the mask's cells, and 0 beyond the box and a pixel."""
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return np.zeros((height, width))
    cells = np.pad(mask, 1)

    def weights(low, high, pixels, size):
        place = np.arange(pixels)
        position = (place + 0.5 - low) / (high - low) * size - 0.5
        inside = (place >= np.floor(low) - 1) & (place < np.ceil(high) + 1)
        return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(-1, size + 1))) * inside[:, None]

    return weights(y1, y2, height, mask.shape[0]) @ cells @ weights(x1, x2, width, mask.shape[1]).T


# AP and errors under COCO's rules, of boxes (x, y, w, h) or masks


def box_overlap(detection: dict[str, Any], other: dict[str, Any]) -> float:
    """IoU; of a crowd, the share of the detection that it covers."""
    a, b = detection["bbox"], other["bbox"]
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] if other["iscrowd"] else a[2] * a[3] + b[2] * b[3] - both)


def mask_overlap(detection: dict[str, Any], other: dict[str, Any]) -> float:
    """The same by counting pixels; 0 of a mask without any."""
    a, b = (each.setdefault("pixels", bitmap(each["segmentation"])) for each in (detection, other))
    return (a & b).sum() / max((a if other["iscrowd"] else a | b).sum(), 1)


OVERLAPS = {"bbox": box_overlap, "segm": mask_overlap}


def match(objects: Records, found: Records, threshold: float, iou_type: str) -> tuple[list[int | None], list[bool]]:
    """By detection (best first) the object it finds, and whether a crowd excuses it."""
    overlap = OVERLAPS[iou_type]
    finds: list[int | None] = []
    excused = []
    for each in found:
        own = [o for o in objects if (o["image_id"], o["category_id"]) == (each["image_id"], each["category_id"])]
        free = [o for o in own if not o["iscrowd"] and o["id"] not in finds]
        best = max(free, key=lambda o: overlap(each, o), default=None)
        hit = best is not None and overlap(each, best) >= threshold
        finds.append(best["id"] if best is not None and hit else None)
        crowds = [o for o in own if o["iscrowd"]]
        excused.append(not hit and any(overlap(each, o) >= threshold for o in crowds))
    return finds, excused


def average_precision(right: list[bool], num_objects: int) -> float:
    """The mean over 101 recalls of the best precision at that recall or above."""
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / num_objects
    return float(np.mean([precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]))


def ap_of_classes(points: list[tuple[int, float, bool]], counts: dict[int, int]) -> dict[int, float]:
    """From (class, score, right) and the objects of each class; without objects only where detections remain: 0."""
    found = {}
    for label, count in counts.items():
        mine = [right for _, right in sorted(((s, r) for c, s, r in points if c == label), key=lambda x: -x[0])]
        if count:
            found[label] = average_precision(mine, count)
        elif mine:
            found[label] = 0.0
    return found


def mean_ap(objects: Records, found: Records, threshold: float, iou_type: str) -> float:
    """Over the classes that have objects."""
    found = sorted(found, key=lambda each: -each["score"])
    rows = zip(found, *match(objects, found, threshold, iou_type), strict=True)
    points = [(each["category_id"], each["score"], hit is not None) for each, hit, left in rows if not left]
    labels = [o["category_id"] for o in objects if not o["iscrowd"]]
    return float(np.mean(list(ap_of_classes(points, {label: labels.count(label) for label in labels}).values())))


def kind_of(detection: dict[str, Any], near: Records, iou_type: str) -> tuple[str, int | None]:
    """What is wrong with a false detection, and the object that it means; ``near``: all objects of its image."""
    overlaps = [(OVERLAPS[iou_type](detection, o), o["category_id"] == detection["category_id"], o["id"]) for o in near]
    own, own_id = max(((value, number) for value, same, number in overlaps if same), default=(0, None))
    other, other_id = max(((value, number) for value, same, number in overlaps if not same), default=(0, None))
    if 0.1 <= own <= 0.5:
        return "localization", own_id
    if other >= 0.5:
        return "classification", other_id
    if own >= 0.5:
        return "duplicate", None
    return "background" if max(own, other) <= 0.1 else "both", None


def tide(objects: Records, found: Records, iou_type: str) -> tuple[float, dict[str, int], dict[str, float | None]]:
    """AP50, the number of errors by kind, and what each kind costs, from TIDE's definitions."""
    found = sorted(found, key=lambda each: -each["score"])
    finds, excused = match(objects, found, 0.5, iou_type)
    objects = [o for o in objects if not o["iscrowd"]]
    class_of = {o["id"]: o["category_id"] for o in objects}
    errors: dict[int, tuple[str, int | None]] = {}
    for row, each in enumerate(found):
        if finds[row] is None and not excused[row]:
            errors[row] = kind_of(each, [o for o in objects if o["image_id"] == each["image_id"]], iou_type)
    # Of all that point at an object that is not found, the best stands for it, whatever its kind.
    stands: dict[int, int] = {}
    for row, (_, aim) in errors.items():
        if aim is not None and aim not in finds:
            stands.setdefault(aim, row)
    missed = [each for each in class_of if each not in finds and each not in stands]
    names = [kind for kind, _ in errors.values()]

    def mean_without(kind: str | None) -> float | None:
        points = []
        for row, each in enumerate(found):
            of, aim = errors.get(row, ("", None))
            if of == kind and aim is not None and stands.get(aim) == row:
                points.append((class_of[aim], each["score"], True))
            elif of != kind and not excused[row]:
                points.append((each["category_id"], each["score"], finds[row] is not None))
        asked = [label for number, label in class_of.items() if kind != "missed" or number not in missed]
        values = ap_of_classes(points, {label: asked.count(label) for label in class_of.values()}).values()
        return sum(values) / len(values) if values else None

    before = mean_without(None)
    assert before is not None
    after = {kind: mean_without(kind) for kind in KINDS}
    costs = {kind: None if value is None else value - before for kind, value in after.items()}
    return before, {kind: names.count(kind) for kind in KINDS[:-1]} | {"missed": len(missed)}, costs


def expected_error(objects: Records, found: Records, iou_type: str) -> float | None:
    """Ten bins of scores, (low, high]: their share times |mean score - share that is right|."""
    found = sorted(found, key=lambda each: -each["score"])
    finds, excused = match(objects, found, 0.5, iou_type)
    points = [(e["score"], hit is not None) for e, hit, left in zip(found, finds, excused, strict=True) if not left]
    total = 0.0
    for b in range(10):
        inside = [(s, r) for s, r in points if b / 10 < s <= (b + 1) / 10]
        if inside:
            scores, rights = np.mean(inside, axis=0)
            total += len(inside) / len(points) * abs(scores - rights)
    return total if points else None
