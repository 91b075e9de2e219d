"""What a model returned for one image, as other frameworks give it: checked, and converted to pixels and run lengths.

torch and supervision are not imported: their objects are known by their attributes.

Shapes: D detections in an image of h x w pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hotcoco import mask as run_lengths

from tailseg.evaluation.metrics import IouType
from tailseg.evaluation.results import Detected

FEW: Final = 10
"""Boxes that lie in the first pixel of their images by chance, at most."""
MAP_NOTE: Final = (
    "masks came as a map of segments, in which objects cannot overlap and later ones cover earlier ones: use "
    "post_process_instance_segmentation(..., return_binary_maps=True), which all but EoMT's have"
)
GRID_NOTE: Final = (
    "boxes came in 16 bits, so that those of large images lie on a grid of several pixels: convert the model's outputs "
    "to float32 before the post-processing"
)


@dataclass(frozen=True)
class Predicted:
    """The detections of one image.

    Attributes:
        labels: int64 ``[D]``, as the model numbers them.
        scores: float64 ``[D]``, in ``[0, 1]``.
        boxes: float64 ``[D, 4]``, xywh in pixels; None without boxes.
        masks: D compressed run lengths; None without masks.
        notes: what the reader should know.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None
    masks: list[dict[str, Any]] | None
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> tuple[IouType, ...]:
        """What can be scored."""
        given: dict[IouType, object] = {"bbox": self.boxes, "segm": self.masks}
        return tuple(kind for kind, values in given.items() if values is not None)


def read_prediction(value: object, where: str, *, masks: bool = True) -> Predicted:
    """Reads what a model returned for one image.

    Args:
        value: a dict of torchvision, rfdetr or transformers with ``boxes`` (xyxy in pixels), ``labels``, ``scores`` and
            perhaps ``masks``; a dict of transformers with ``segmentation`` and ``segments_info``;
            ``supervision.Detections``; or `tailseg.structures.Detections`.
        where: how errors call the image.
        masks: whether masks are read.

    Returns:
        The detections.

    Raises:
        TypeError: it is something else.
        ValueError: boxes, scores or masks cannot be used; says what to do.
    """
    if isinstance(value, Mapping):
        if {"segmentation", "segments_info"} <= value.keys():
            return _read_segments(value["segmentation"], value["segments_info"], where)
        if missing := [key for key in ("scores", "labels") if key not in value]:
            raise ValueError(
                f"{where}: expected a dict with boxes (or masks), labels and scores, {' and '.join(missing)} "
                f"missing: it has {', '.join(map(str, value))}. Pass what the post-processing returns, one dict for "
                "each image"
            )
        return _make(
            where,
            value["labels"],
            value["scores"],
            value.get("boxes"),
            _encode(value.get("masks") if masks else None, where),
        )
    if isinstance(value, Detected):
        found: Any = value
        encoded = [*map(dict, found.masks)] if masks and found.masks is not None else None
        return _make(where, found.labels, found.scores, found.boxes, encoded)
    if all(hasattr(value, name) for name in ("xyxy", "confidence", "class_id", "mask")):
        return _read_supervision(value, where, masks=masks)
    raise TypeError(
        f"{where}: expected a dict with boxes, labels and scores, supervision.Detections or tailseg's Detections, got "
        f"{type(value).__module__}.{type(value).__qualname__}. Pass what the post-processing returns, one element for "
        "each image"
    )


def _read_supervision(value: Any, where: str, *, masks: bool) -> Predicted:  # noqa: ANN401 - it is not imported
    if len(value.xyxy) and (value.class_id is None or value.confidence is None):
        missing = "class_id" if value.class_id is None else "confidence"
        raise ValueError(f"{where}: these supervision.Detections have no {missing}: AP needs one for each detection")
    nothing = np.zeros(0)
    labels, scores = (nothing if one is None else one for one in (value.class_id, value.confidence))
    bitmaps = value.mask if masks else None
    if hasattr(bitmaps, "to_dense"):
        bitmaps = bitmaps.to_dense()
    return _make(where, labels, scores, value.xyxy, _encode(bitmaps, where))


def _read_segments(segmentation: Any, segments: Sequence[Mapping[str, Any]], where: str) -> Predicted:  # noqa: ANN401
    """The instances of transformers: a map ``[h, w]`` of the segments' ids, or a mask of each, ``[D, h, w]``."""
    labels = [segment["label_id"] for segment in segments]
    if any("score" not in segment for segment in segments):
        raise ValueError(f"{where}: segments without a score: use post_process_instance_segmentation, AP needs scores")
    scores = [segment["score"] for segment in segments]
    if isinstance(segmentation, list):
        raise ValueError(
            f"{where}: the run lengths of return_coco_annotation=True are not COCO's, and the first can be the "
            "background's: use post_process_instance_segmentation(..., return_binary_maps=True)"
        )
    if segmentation is None:
        return _make(where, labels, scores, None, [])
    if segmentation.ndim == 3:
        return _make(where, labels, scores, None, _encode(segmentation, where))
    ids = np.array([segment["id"] for segment in segments], np.int64)
    masks = to_array(segmentation) == ids[:, None, None]
    return _make(where, labels, scores, None, _encode(masks, where), notes=(MAP_NOTE,) * bool(segments))


def _make(
    where: str,
    labels: Any,  # noqa: ANN401 - a tensor, an array or a list
    scores: Any,  # noqa: ANN401
    boxes: Any,  # noqa: ANN401
    masks: list[dict[str, Any]] | None,
    notes: tuple[str, ...] = (),
) -> Predicted:
    """Checks the parts of a prediction."""
    if boxes is None and masks is None:
        raise ValueError(f"{where}: it has neither boxes nor masks: AP needs one of them for each detection")
    counts = {"scores": scores, "boxes": boxes, "masks": masks}
    lengths = {name: len(values) for name, values in counts.items() if values is not None}
    if wrong := [f"{number} {name}" for name, number in lengths.items() if number != len(labels)]:
        raise ValueError(f"{where}: {len(labels)} labels and {' and '.join(wrong)}: give as many of each")
    if str(getattr(boxes, "dtype", "")).endswith("float16"):
        notes += (GRID_NOTE,)
    return Predicted(
        labels=read_labels(labels, where),
        scores=read_scores(scores, where),
        boxes=None if boxes is None else read_boxes(boxes, where),
        masks=masks,
        notes=notes,
    )


def _encode(masks: Any, where: str) -> list[dict[str, Any]] | None:  # noqa: ANN401 - a tensor or an array
    return None if masks is None else encode_masks(masks, where)[0]


def encode_masks(masks: Any, where: str) -> tuple[list[dict[str, Any]], tuple[int, int]]:  # noqa: ANN401 - a tensor or an array
    """Encodes bitmaps as run lengths.

    Args:
        masks: ``[D, h, w]`` or ``[D, 1, h, w]``: bool, integers 0 and 1, or probabilities, which are masks above 0.5.
        where: how errors call the image.

    Returns:
        D compressed run lengths, and their height and width.

    Raises:
        ValueError: another shape, or values outside 0 .. 1, such as logits.
    """
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3:
        raise ValueError(f"{where}: masks should be [detections, height, width], got {list(masks.shape)}")
    if "bool" not in str(masks.dtype):
        if 0 not in masks.shape and not (float(masks.min()) >= 0 and float(masks.max()) <= 1):  # NaN is neither
            raise ValueError(
                f"{where}: masks should be bool, 0 and 1, or probabilities, got values from {float(masks.min()):.4g} "
                f"to {float(masks.max()):.4g}. Compare logits with 0 (masks > 0), and divide 0 and 255 by 255"
            )
        masks = masks > 0.5
    columns = np.ascontiguousarray(to_array(masks.swapaxes(1, 2))).view(np.uint8)
    # [h, w, D] in Fortran's order, as the encoder needs it
    return run_lengths.encode(columns.T), (int(masks.shape[1]), int(masks.shape[2]))


def read_labels(labels: Any, where: str) -> np.ndarray:  # noqa: ANN401 - a tensor, an array or a list
    """Reads labels as int64.

    Raises:
        ValueError: they are no whole numbers.
    """
    values = to_array(labels).reshape(-1)
    if not len(values):
        return np.zeros(0, np.int64)
    whole = values.astype(np.int64) if values.dtype.kind in "iuf" else None
    if whole is None or not np.array_equal(whole, values):
        raise ValueError(f"{where}: labels should be whole numbers, got {values[:5].tolist()}")
    return whole


def read_scores(scores: Any, where: str) -> np.ndarray:  # noqa: ANN401 - a tensor, an array or a list
    """Reads scores as float64.

    Raises:
        ValueError: a score is not in 0 .. 1.
    """
    values = to_array(scores).astype(np.float64).reshape(-1)
    if wrong := values[~((values >= 0) & (values <= 1))].tolist():
        raise ValueError(
            f"{where}: scores should be 0 to 1, got {wrong[0]:.4g}. Apply the sigmoid or softmax to logits, and divide "
            "percent by 100"
        )
    return values


def read_boxes(boxes: Any, where: str) -> np.ndarray:  # noqa: ANN401 - a tensor, an array or a list
    """Reads boxes x1, y1, x2, y2 in pixels.

    Args:
        boxes: ``[N, 4]``.
        where: how errors call the image.

    Returns:
        float64 ``[N, 4]`` as x, y, width, height.

    Raises:
        ValueError: a box is not finite, or ends before it begins.
    """
    corners = to_array(boxes).astype(np.float64)
    if not corners.size:
        return np.zeros((0, 4))
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"{where}: boxes should be [objects, 4], got {list(corners.shape)}")
    if not np.isfinite(corners).all():
        raise ValueError(f"{where}: boxes have values that are not finite: has the training diverged?")
    sides = corners[:, 2:] - corners[:, :2]
    if (wrong := (sides < 0).any(axis=1)).any():
        box = [round(number, 2) for number in corners[wrong.argmax()].tolist()]
        raise ValueError(
            f"{where}: boxes should be x1, y1, x2, y2 in pixels, and {box} ends before it begins. Convert x, y, width, "
            "height and center, width, height (torchvision.ops.box_convert)"
        )
    return np.concatenate([corners[:, :2], sides], axis=1)


def check_pixels(predictions: Sequence[Predicted], where: str) -> None:
    """Checks that boxes are in pixels.

    Args:
        predictions: those of a batch.
        where: how errors call the batch.

    Raises:
        ValueError: all boxes, and several, lie in the first pixel of their images, as normalized ones do.
    """
    boxes = [one.boxes for one in predictions if one.boxes is not None and len(one.boxes)]
    if not boxes:
        return
    corners = np.concatenate(boxes)
    if len(corners) >= FEW and bool((corners[:, :2] >= 0).all()) and bool((corners[:, :2] + corners[:, 2:] <= 1).all()):
        raise ValueError(
            f"{where}: all {len(corners):,} boxes lie between 0 and 1: expected pixels. Multiply normalized boxes by "
            "the width and height of their image (target_sizes in transformers)"
        )


def to_array(values: Any) -> np.ndarray:  # noqa: ANN401 - a tensor, an array or a list
    """Converts to NumPy, a tensor through main memory; bfloat16 becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        return values.numpy()
    return np.asarray(values)
