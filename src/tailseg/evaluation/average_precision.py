"""Average precision by hotcoco, with the checks that the engines leave out.

Shapes: T IoU thresholds (0.50, 0.55 .. 0.95), P recall points (0, 0.01 .. 1), K categories in order of id,
4 ranges of object area (all, small, medium, large), n result records.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCOeval
from hotcoco import mask as run_lengths

from tailseg.evaluation.ground_truth import GroundTruth, read_ground_truth
from tailseg.evaluation.metrics import ClassScore, IouType, Metrics
from tailseg.evaluation.results import Results, read_results
from tailseg.structures import Group

MAX_DETECTIONS = {"lvis": 300, "coco": 100}
Mask = dict[str, Any] | list[list[float]]
GROUPS: tuple[Group, ...] = ("r", "c", "f")


def evaluate(
    annotations_json: str | Path,
    results: Sequence[Mapping[str, Any]] | str | Path,
    *,
    iou_types: Sequence[IouType] = ("bbox", "segm"),
    max_detections: int | None = None,
    groups: Mapping[int, Group] | None = None,
) -> Metrics:
    """Scores results: LVIS AP (federated) if the annotation file has LVIS's lists, COCO AP if not.

    LVIS: equal to lvis-api; the best ``max_detections`` of an image count, whatever their class, and detections without
    area are dropped. COCO: equal to pycocotools, a mask's area taken from the mask; the best ``max_detections`` of each
    class in an image count. Crowds: see :mod:`tailseg.evaluation`.

    Args:
        annotations_json: ground truth.
        results: COCO-style result records, or their JSON file; none at all score 0.
        iou_types: what overlaps: ``"bbox"``, ``"segm"`` or both.
        max_detections: None is the protocol's own: 300 (LVIS), 100 (COCO).
        groups: category id -> frequency group in the training set, for APr, APc and APf; None takes LVIS's own.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the files are malformed or do not belong together; the message says where and what to do.
    """
    if not iou_types or not set(iou_types) <= {"bbox", "segm"}:
        raise ValueError(f"iou_types should name 'bbox', 'segm' or both, got {tuple(iou_types)}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections should be at least 1, got {max_detections}")
    truth = read_ground_truth(Path(annotations_json), masks="segm" in iou_types, groups=groups)
    found = read_results(results, boxes="bbox" in iou_types, masks="segm" in iou_types)
    areas = _check_belonging(found, truth)
    cap = max_detections or MAX_DETECTIONS[truth.protocol]
    kept = np.arange(len(found)) if truth.protocol == "coco" else _best_of_each_image(found, cap)
    scores, per_class = {}, {}
    for iou_type in iou_types:
        # lvis-api drops what has no area, after the cap; pycocotools counts it as a false positive.
        rows = kept if truth.protocol == "coco" else kept[areas[iou_type][kept] > 0]
        precision, recall = _run_engine(truth, found.take(rows), areas[iou_type][rows], iou_type, cap)
        scores[iou_type] = _summary(precision, recall, [truth.groups.get(key) for key in truth.categories])
        per_class[iou_type] = _class_scores(precision, recall, truth)
    return Metrics(
        scores=scores,
        per_class=per_class,
        protocol=truth.protocol,
        max_detections=cap,
        num_images=len(truth.sizes),
        num_detections=len(found),
        notes=(*truth.notes, *_notes(found, areas, truth)),
    )


def _check_belonging(found: Results, truth: GroundTruth) -> dict[IouType, np.ndarray]:
    """Areas ``[n]`` of the boxes and of the masks, once it is sure that the results are of these images and classes.

    Raises:
        ValueError: unknown image or category, a mask of another size than its image, broken run lengths.
    """
    _check_known(found.image_ids, truth.sizes, "image_id", "were they made for another split?", found, truth)
    hint = "the file's own category ids are wanted, not labels 0 .. C-1"
    _check_known(found.category_ids, truth.categories, "category_id", hint, found, truth)
    areas: dict[IouType, np.ndarray] = {}
    if found.boxes is not None:
        areas["bbox"] = found.boxes[:, 2] * found.boxes[:, 3]
    if found.masks is not None:
        for row, (image_id, mask) in enumerate(zip(found.image_ids.tolist(), found.masks, strict=True)):
            height, width = truth.sizes[image_id]
            if (height, width) != tuple(mask["size"]):
                raise ValueError(
                    f"{found.source}: the mask of record {row} has size [height, width] = {list(mask['size'])}, but "
                    f"image {image_id} is [{height}, {width}] in {truth.path}; masks must cover the original image"
                )
        areas["segm"] = _mask_areas(found)
    return areas


def _check_known(
    ids: np.ndarray, known: Iterable[int], key: str, hint: str, found: Results, truth: GroundTruth
) -> None:
    unknown = ~np.isin(ids, np.fromiter(known, dtype=np.int64))
    if unknown.any():
        examples = ", ".join(map(str, np.unique(ids[unknown])[:5]))
        raise ValueError(
            f"{found.source}: the {key} of {int(unknown.sum()):,} of {len(found):,} records is not in {truth.path} "
            f"({examples} ..): {hint}"
        )


def _mask_areas(found: Results) -> np.ndarray:
    assert found.masks is not None
    try:  # hotcoco's area: pycocotools' overflows on exactly 256 masks under NumPy 2
        return np.asarray(run_lengths.area(found.masks), dtype=np.float64).reshape(-1)
    except ValueError:
        for row, mask in enumerate(found.masks):
            try:
                run_lengths.area(mask)
            except ValueError as error:
                raise ValueError(f"{found.source}: the run lengths of record {row} are broken: {error}") from error
        raise


def _best_of_each_image(found: Results, cap: int) -> np.ndarray:
    """Rows, ascending, of the ``cap`` best scores of each image; of equal scores the earlier record is better."""
    order = np.lexsort((-found.scores, found.image_ids))
    images = found.image_ids[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    return np.sort(order[rank < cap])


def _run_engine(
    truth: GroundTruth, found: Results, areas: np.ndarray, iou_type: IouType, cap: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``[T, P, K, 4]`` and recall ``[T, K, 4]``; -1 where there is no object."""
    boxes = np.zeros((len(found), 4)) if iou_type == "segm" else found.boxes
    assert boxes is not None
    table = np.column_stack([found.image_ids, boxes, found.scores, found.category_ids])
    masks = None if found.masks is None or iou_type == "bbox" else list[Mask](found.masks)
    detections = truth.coco.load_res(table, segmentation=masks)
    detections.update_anns(ids=np.arange(1, len(found) + 1), area=areas)
    lvis = truth.protocol == "lvis"
    if lvis:  # capped already: keep the engine from doing it once more, at 300
        detections = detections.cap_detections_per_image(None)
    engine = COCOeval(truth.coco, detections, iou_type, lvis_style=lvis)
    engine.params.cat_ids = list(truth.categories)
    if not lvis:
        engine.params.max_dets = [cap]
    engine.evaluate()
    engine.accumulate()
    assert engine.eval is not None
    return engine.eval["precision"][..., -1], engine.eval["recall"][..., -1]


def _summary(precision: np.ndarray, recall: np.ndarray, groups: Sequence[Group | None]) -> dict[str, float | None]:
    scores = {"AP": _mean(precision[..., 0]), "AP50": _mean(precision[0, ..., 0]), "AP75": _mean(precision[5, ..., 0])}
    for group in GROUPS:
        members = [index for index, other in enumerate(groups) if other == group]
        scores[f"AP{group}"] = _mean(precision[:, :, members, 0])
        if group == "f":
            scores["AP50f"] = _mean(precision[0][:, members, 0])
    for index, size in enumerate("sml", start=1):
        scores[f"AP{size}"] = _mean(precision[..., index])
    for index, size in enumerate(("", "s", "m", "l")):
        scores[f"AR{size}"] = _mean(recall[..., index])
    return scores


def _mean(values: np.ndarray) -> float | None:
    """Mean over what was scored (-1 was not); None if nothing was."""
    scored = values[values > -1]
    return float(scored.mean()) if scored.size else None


def _class_scores(precision: np.ndarray, recall: np.ndarray, truth: GroundTruth) -> tuple[ClassScore, ...]:
    return tuple(
        ClassScore(
            category_id=key,
            name=name,
            group=truth.groups.get(key),
            num_objects=truth.object_counts[key],
            AP=_mean(precision[:, :, index, 0]),
            AP50=_mean(precision[0, :, index, 0]),
            AR=_mean(recall[:, index, 0]),
        )
        for index, (key, name) in enumerate(truth.categories.items())
    )


def _notes(found: Results, areas: dict[IouType, np.ndarray], truth: GroundTruth) -> tuple[str, ...]:
    fate = "dropped, as lvis-api does" if truth.protocol == "lvis" else "counted as false, as pycocotools does"
    names = {"bbox": "boxes without area", "segm": "masks without a pixel"}
    notes = [
        f"{int((area <= 0).sum()):,} {names[iou_type]}: {fate}" for iou_type, area in areas.items() if (area <= 0).any()
    ]
    duplicates = _count_duplicates(found)
    if duplicates:
        notes.append(
            f"{duplicates:,} records repeat another one exactly, and count as false: were images tested twice?"
        )
    return (*notes, *(() if len(found) else ("no detections at all: everything scores 0",)))


def _count_duplicates(found: Results) -> int:
    """Records that equal an earlier one in image, class, score, and box or mask."""
    columns = [found.image_ids, found.category_ids, found.scores]
    if found.boxes is not None:
        columns.extend(found.boxes.T)
    order = np.lexsort(columns)
    same = np.ones(max(len(found) - 1, 0), dtype=bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    if found.masks is None:
        return int(same.sum())
    pairs = zip(order[1:][same].tolist(), order[:-1][same].tolist(), strict=True)
    return sum(found.masks[a]["counts"] == found.masks[b]["counts"] for a, b in pairs)
