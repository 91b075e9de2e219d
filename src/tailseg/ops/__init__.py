"""Operations on boxes, masks, anchors and regions of interest."""

from tailseg.ops.anchors import base_anchors, grid_anchors
from tailseg.ops.boxes import clip_boxes, decode_boxes, encode_boxes, intersection_over_area, scale_boxes, smooth_l1_sum
from tailseg.ops.masks import (
    decode_mask,
    encode_mask,
    mask_area,
    mask_box,
    mask_targets,
    paste_bitmaps,
    paste_masks,
    polygons_to_rle,
    segmentation_to_rle,
)
from tailseg.ops.matching import match, sample
from tailseg.ops.nms import ClassNMS, class_nms, level_nms
from tailseg.ops.roi_align import roi_align
from tailseg.ops.roi_pool import fpn_levels, roi_pool

__all__ = [
    "ClassNMS",
    "base_anchors",
    "class_nms",
    "clip_boxes",
    "decode_boxes",
    "decode_mask",
    "encode_boxes",
    "encode_mask",
    "fpn_levels",
    "grid_anchors",
    "intersection_over_area",
    "level_nms",
    "mask_area",
    "mask_box",
    "mask_targets",
    "match",
    "paste_bitmaps",
    "paste_masks",
    "polygons_to_rle",
    "roi_align",
    "roi_pool",
    "sample",
    "scale_boxes",
    "segmentation_to_rle",
    "smooth_l1_sum",
]
