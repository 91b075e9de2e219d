#!/usr/bin/env bash
# SAHI and supervision leave an object across tiles in pieces, whatever they are told to do with overlaps.
#
# Versions: Python 3.11, sahi 0.12.8, shapely 2.2.0, supervision 0.31.2, pycocotools 2.0.11, opencv-python-headless 5.0.0.93.
#
# Guess before the run: merging (SAHI's GREEDYNMM and NMM, supervision's NON_MAX_MERGE) joins the pieces of a bar that
# reaches over three tiles; suppression (NMS) keeps its largest piece, and of a square that one tile cuts the whole one.
#
# Behavior: a detector returns the true masks, cut at the borders of tiles of 200 pixels that overlap by 40. The bar stays
# in three pieces with every method and both metrics: two pieces share 40 of 180 columns, which is below every usual
# threshold, and no method looks at the shared band alone. Of the square, SAHI's NMS keeps the cut piece (0.75 of it),
# since both have one score, and NMM keeps both; GREEDYNMM and supervision keep the whole one.
#
# Who meets it: whoever counts or measures long objects (roads, ships, pipes, cells) in sliced images: an object is counted
# once for each tile, and its AP is 0. A wider overlap helps against it only where it is half of the piece.
#
# Output seen on 2026-11-29: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check sahi==0.12.8 shapely==2.2.0 supervision==0.31.2 \
    pycocotools==2.0.11 opencv-python-headless==5.0.0.93

cat > seams.py <<'PYTHON'
import contextlib
import io
import logging

import numpy as np
import supervision as sv
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

HEIGHT, WIDTH, SIDE, OVERLAP = 200, 500, 200, 40
NAMES = ("bar", "square")
TRUTH = np.zeros((2, HEIGHT, WIDTH), bool)
TRUTH[0, 90:110, 20:480] = True
TRUTH[1, 20:60, 170:210] = True
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # its colors say where a pixel is
IMAGE[..., 0], IMAGE[..., 1] = np.arange(WIDTH) // 2, np.arange(WIDTH) % 2


def detect(tile):
    """The true masks in the tile, and their classes."""
    left = 2 * int(tile[0, 0, 0]) + int(tile[0, 0, 1])
    masks = TRUTH[:, : tile.shape[0], left : left + tile.shape[1]]
    classes = np.flatnonzero(masks.any(axis=(1, 2)))
    return masks[classes], classes


def slice_supervision(tile):
    masks, classes = detect(tile)
    if not len(classes):
        return sv.Detections.empty()
    boxes, scores = sv.mask_to_xyxy(masks), np.full(len(classes), 0.9)
    return sv.Detections(xyxy=boxes, mask=masks, confidence=scores, class_id=classes)


class Truth(DetectionModel):
    def check_dependencies(self, *_, **__):
        pass

    def set_device(self, *_, **__):
        self.device = "cpu"

    def load_model(self):
        self.model, self.category_mapping = self, dict(enumerate(NAMES))

    def perform_inference(self, image):
        self.tile = image

    def _create_object_prediction_list_from_original_predictions(self, shift_amount_list, full_shape_list):
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    segmentation=get_coco_segmentation_from_bool_mask(mask), category_id=int(number), score=0.9,
                    category_name=NAMES[number], shift_amount=shift_amount_list[0], full_shape=full_shape_list[0],
                )
                for mask, number in zip(*detect(self.tile))
            ]
        ]


def show(title, found):
    """The objects that were found, each with its IoU with the truth."""
    ious = [(NAMES[number], (mask & TRUTH[number]).sum() / (mask | TRUTH[number]).sum()) for mask, number in found]
    print(f"{title}: {', '.join(f'{name} {iou:.2f}' for name, iou in sorted(ious))}")


logging.disable()
for method in ("NON_MAX_SUPPRESSION", "NON_MAX_MERGE"):
    for metric in ("IOU", "IOS"):
        slicer = sv.InferenceSlicer(
            slice_supervision, slice_wh=(SIDE, SIDE), overlap_wh=(OVERLAP, OVERLAP), iou_threshold=0.5,
            overlap_filter=sv.OverlapFilter[method], overlap_metric=sv.OverlapMetric[metric],
        )
        found = slicer(IMAGE)
        show(f"supervision {method} {metric}", zip(found.mask, found.class_id))
for method in ("GREEDYNMM", "NMM", "NMS"):
    for metric in ("IOU", "IOS"):
        with contextlib.redirect_stdout(io.StringIO()):
            result = get_sliced_prediction(
                IMAGE, Truth(model_path="truth"), slice_height=SIDE, slice_width=SIDE, perform_standard_pred=False,
                overlap_height_ratio=OVERLAP / SIDE, overlap_width_ratio=OVERLAP / SIDE, verbose=0,
                postprocess_type=method, postprocess_match_metric=metric, postprocess_match_threshold=0.5,
            )
        show(f"SAHI {method} {metric}", [(one.mask.bool_mask, one.category.id) for one in result.object_prediction_list])
PYTHON

cat > expected <<'TEXT'
supervision NON_MAX_SUPPRESSION IOU: bar 0.39, bar 0.39, bar 0.43, square 1.00
supervision NON_MAX_SUPPRESSION IOS: bar 0.39, bar 0.39, bar 0.43, square 1.00
supervision NON_MAX_MERGE IOU: bar 0.39, bar 0.39, bar 0.43, square 1.00
supervision NON_MAX_MERGE IOS: bar 0.39, bar 0.39, bar 0.43, square 1.00
SAHI GREEDYNMM IOU: bar 0.39, bar 0.39, bar 0.43, square 1.00
SAHI GREEDYNMM IOS: bar 0.39, bar 0.39, bar 0.43, square 1.00
SAHI NMM IOU: bar 0.39, bar 0.39, bar 0.43, square 0.75, square 1.00
SAHI NMM IOS: bar 0.39, bar 0.39, bar 0.43, square 0.75, square 1.00
SAHI NMS IOU: bar 0.39, bar 0.39, bar 0.43, square 0.75
SAHI NMS IOS: bar 0.39, bar 0.39, bar 0.43, square 0.75
TEXT

venv/bin/python -W ignore seams.py 2> errors > actual || { cat errors; exit 1; }
cat actual
diff expected actual > /dev/null || { echo "The behavior has changed. Expected:"; cat expected; exit 1; }
