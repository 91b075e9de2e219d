"""The ops against torchvision where it means the same, and against golden files made with mmdetection."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import load_file
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, nms, roi_align
from torchvision.ops.poolers import LevelMapper

from tailseg.ops.anchors import grid_anchors
from tailseg.ops.boxes import decode_boxes, encode_boxes, intersection_over_area
from tailseg.ops.masks import decode_mask, mask_targets, paste_bitmaps, paste_masks, polygons_to_rle
from tailseg.ops.matching import IGNORED, NEGATIVE, match
from tailseg.ops.nms import class_nms, level_nms
from tailseg.ops.roi_pool import fpn_levels, roi_pool
from tailseg.structures import Frame

from .assertions import files, place

STRIDES = (4, 8, 16, 32)


def random_boxes(count, *, extent=600.0, smallest=2.0, largest=300.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * extent
    side = smallest + torch.rand(count, 2, generator=generator) ** 2 * (largest - smallest)
    return torch.cat([corner, corner + side], dim=1)


@pytest.fixture(scope="module", params=files("e_ops"))
def golden(request):
    folder, name = place(request)
    return load_file(folder / f"{name}.safetensors")


MASK_RCNNS = files("a_mask_rcnn", "a2_mask_rcnn_normed_mask", "a3_mask_rcnn_gumbel")


@pytest.fixture
def mask_rcnn(request):
    folder, name = place(request)
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


# Boxes


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
def test_box_coding_is_torchvisions(stds):
    references, boxes = random_boxes(500), random_boxes(500, seed=1)
    coder = BoxCoder(tuple(1 / std for std in stds))
    deltas = encode_boxes(boxes, references, stds=stds)
    # float32 pixels up to 900 over sides of 2: 1e-4 relative
    torch.testing.assert_close(deltas, coder.encode_single(boxes, references), rtol=1e-4, atol=1e-4)
    noisy = torch.randn(500, 12, generator=torch.Generator().manual_seed(2))
    expected = coder.decode_single(noisy, references).flatten(1)
    torch.testing.assert_close(decode_boxes(noisy, references, stds=stds), expected, rtol=1e-5, atol=1e-3)


def test_the_upper_clamp_is_torchvisions_and_the_lower_one_mirrors_it():
    references = random_boxes(50)
    large = torch.full((50, 4), 9.0)
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(large, references).flatten(1)
    torch.testing.assert_close(decode_boxes(large, references), expected)
    small = decode_boxes(torch.full((50, 4), -9.0), references)
    ratio = (small[:, 2:] - small[:, :2]) / (references[:, 2:] - references[:, :2])
    # sides of a few hundredths of a pixel between coordinates of thousands: float32 leaves 1e-3
    torch.testing.assert_close(ratio, torch.full((50, 2), 1 / 62.5), atol=1e-3, rtol=0)


def test_share_of_area_against_pixel_counting():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 30, (40, 4), generator=generator).float()
    corners[:, 2:] = corners[:, :2] + torch.randint(1, 20, (40, 2), generator=generator)
    boxes, regions = corners[:25], corners[25:]
    bitmap = torch.zeros(40, 60, 60)
    for i, (x1, y1, x2, y2) in enumerate(corners.int().tolist()):
        bitmap[i, y1:y2, x1:x2] = 1
    inside, region = bitmap[:25].flatten(1), bitmap[25:].flatten(1)
    expected = inside @ region.T / inside.sum(1, keepdim=True)
    torch.testing.assert_close(intersection_over_area(boxes, regions), expected)


# Anchors


def test_anchors_are_torchvisions_with_rounded_sides_where_sides_are_whole():
    # torchvision rounds half sides; at ratio 1 and 4 they are whole, so both agree, in value and in order
    generator = AnchorGenerator(sizes=((32,), (64,)), aspect_ratios=((0.25, 1.0, 4.0),) * 2)
    images = ImageList(torch.zeros(1, 3, 96, 160), [(96, 160)])
    features = [torch.zeros(1, 1, 24, 40), torch.zeros(1, 1, 12, 20)]
    expected = generator(images, features)[0]
    levels = [
        grid_anchors(height, width, stride, scale=8.0, ratios=(0.25, 1.0, 4.0))
        for height, width, stride in ((24, 40, 4), (12, 20, 8))
    ]
    torch.testing.assert_close(torch.cat(levels), expected, rtol=0, atol=0)


def test_published_anchors_are_torchvisions_within_its_rounding():
    generator = AnchorGenerator(sizes=((32,),), aspect_ratios=((0.5, 1.0, 2.0),))
    expected = generator(ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)]), [torch.zeros(1, 1, 16, 16)])[0]
    anchors = grid_anchors(16, 16, 4, scale=8.0, ratios=(0.5, 1.0, 2.0))
    assert (anchors - expected).abs().max() <= 0.5


# Matching


@pytest.mark.parametrize(("positive", "negative"), [(0.7, 0.3), (0.5, 0.5), (0.6, 0.4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matching_is_torchvisions_without_low_quality(positive, negative, seed):
    iou = box_iou(random_boxes(12, seed=seed), random_boxes(800, seed=seed + 10))
    expected = Matcher(positive, negative)(iou)
    assert Matcher.BELOW_LOW_THRESHOLD == NEGATIVE
    assert Matcher.BETWEEN_THRESHOLDS == IGNORED
    rule = {"positive": positive, "negative": negative, "minimum_positive": 0.0}
    assert torch.equal(match(iou, **rule, allow_low_quality_matches=False), expected)


@pytest.mark.parametrize("seed", range(5))
def test_low_quality_matches_are_torchvisions_for_one_object(seed):
    # With one object the rules meet: torchvision keeps the object of largest IoU, the published one the last object.
    iou = box_iou(random_boxes(1, seed=seed), random_boxes(800, seed=seed + 10)).round(decimals=1)  # ties
    rule = {"positive": 0.7, "negative": 0.3, "minimum_positive": 0.0, "allow_low_quality_matches": True}
    assert torch.equal(match(iou, **rule), Matcher(0.7, 0.3, allow_low_quality_matches=True)(iou))


# RoIAlign


def test_levels_are_torchvisions():
    # torchvision writes 4 + log2(s / 224) + 1e-6: the same but within 1e-6 of a level's edge
    boxes = random_boxes(5000, largest=900.0)
    expected = LevelMapper(2, 5)([boxes])
    assert torch.equal(fpn_levels(boxes), expected)


def test_levels_are_golden(golden):
    assert torch.equal(fpn_levels(golden["roi.rois"][:, 1:]), golden["roi.level"])


@pytest.mark.parametrize("size", [7, 14])
def test_pooling_is_golden(golden, size):
    features = [golden[f"roi.feat.{level}"].float() for level in range(4)]
    rois = golden["roi.rois"]
    image = rois[:, 0].long()
    boxes = [rois[image == i, 1:] for i in range(2)]
    pooled = roi_pool(features, boxes, output_size=size, strides=STRIDES)
    order = image.argsort(stable=True)
    # the same sums in another order: float32 rounding of values around 1
    torch.testing.assert_close(pooled, golden[f"roi.out{size}"][order], atol=1e-5, rtol=1e-5)


# NMS


@pytest.mark.parametrize("kind", ["specific", "agnostic"])
def test_class_nms_is_golden(golden, kind):
    boxes, scores = golden[f"nms.boxes_{kind}"], golden["nms.scores"][:, :6]
    result = class_nms(
        boxes.view(60, 6, 4) if kind == "specific" else boxes,
        scores,
        score_threshold=0.25,
        iou_threshold=0.5,
        max_detections=80,
    )
    assert torch.equal(result.rois * 6 + result.labels, golden[f"nms.{kind}.flat_index"])
    assert torch.equal(result.labels, golden[f"nms.{kind}.labels"])
    dets = torch.cat([result.boxes, result.scores[:, None]], dim=1)
    torch.testing.assert_close(dets, golden[f"nms.{kind}.dets"], rtol=0, atol=0)


def per_class(boxes, scores, *, score_threshold, iou_threshold, max_detections):
    """torchvision's nms for one class at a time, in float64."""
    kept = []
    for label in range(scores.shape[1]):
        rows = (scores[:, label] > score_threshold).nonzero()[:, 0]
        of_class = (boxes if boxes.ndim == 2 else boxes[:, label])[rows].double()
        rows = rows[nms(of_class, scores[rows, label].double(), iou_threshold)]
        kept.append(torch.stack([rows, torch.full_like(rows, label)], dim=1))
    pairs = torch.cat(kept)
    order = scores[pairs[:, 0], pairs[:, 1]].argsort(descending=True)
    return pairs[order[:max_detections]]


@pytest.mark.parametrize("crowding", [1, 40], ids=["within the first prefix", "past all prefixes"])
def test_class_nms_at_lvis_scale_is_torchvisions_class_by_class(crowding):
    """60 regions of 1,203 classes, 72,180 candidates: spread, or on top of each other and good in few classes."""
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(60).repeat(1, 1203).view(60, 1203, 4)
    scores = torch.rand(60, 1203, generator=generator).mul(0.5) + 1e-3
    if crowding > 1:
        boxes = boxes[:1].expand(60, -1, -1)
        scores[:, :150] += 0.5
    boxes = boxes + torch.randn(60, 1203, 4, generator=generator)
    settings = {"score_threshold": 1e-4, "iou_threshold": 0.5, "max_detections": 300}
    result = class_nms(boxes, scores, **settings)
    expected = per_class(boxes, scores, **settings)
    assert torch.equal(torch.stack([result.rois, result.labels], dim=1), expected)


def test_level_nms_is_torchvisions_level_by_level():
    boxes, scores = random_boxes(4000), torch.randperm(4000, generator=torch.Generator().manual_seed(0)).float()
    levels = torch.arange(4000) % 5
    kept = level_nms(boxes, scores, levels, iou_threshold=0.7, max_proposals=1000)
    expected = torch.cat(
        [
            members[nms(boxes[members].double(), scores[members].double(), 0.7)]
            for members in ((levels == level).nonzero()[:, 0] for level in range(5))
        ]
    )
    expected = expected[scores[expected].argsort(descending=True)][:1000]
    assert torch.equal(kept, expected)


# Masks


def paste_whole_image(probabilities, boxes, height, width):
    """Probabilities of every pixel of the image by grid_sample in float64, without any crop."""
    x1, y1, x2, y2 = boxes.double()[:, :, None].unbind(1)
    x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1
    y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return F.grid_sample(probabilities.double()[:, None], grid, align_corners=False)[:, 0]


@pytest.mark.parametrize("side", [28, 14, 56])
def test_pasting_is_bilinear_sampling_of_the_whole_image(side):
    generator = torch.Generator().manual_seed(side)
    noise = torch.randn(60, 1, side + 4, side + 4, generator=generator)
    probabilities = (6 * F.avg_pool2d(noise, 5, stride=1)[:, 0] + 0.5).sigmoid()
    boxes = random_boxes(60, extent=110.0, smallest=0.3, largest=120.0, seed=side) - 20  # some reach outside
    whole = paste_whole_image(probabilities, boxes, 90, 120)
    pasted = paste_bitmaps(probabilities, boxes, 90, 120)
    # float32 sums may fall on the other side of the threshold where the probability is within 1e-6 of it
    differs = pasted != (whole >= 0.5)
    assert not differs[(whole - 0.5).abs() > 1e-6].any()
    assert pasted.flatten(1).any(1).sum() > 40


@pytest.mark.parametrize("mask_rcnn", MASK_RCNNS, indirect=True)
def test_pasting_is_golden(mask_rcnn):
    """The final run lengths of mmdetection's Mask R-CNN from its own mask logits and boxes, to the bit."""
    tensors, facts = mask_rcnn
    rles = facts["rle"]
    for image, (height, width) in enumerate(tensors["input.img_shape"].tolist()):
        logits = tensors[f"test.det.{image}.mask_logits.0"]
        boxes = tensors[f"test.det.{image}.boxes"][: len(logits)]
        pasted = paste_masks(logits.sigmoid(), boxes, height, width)
        wanted = rles[image][: len(logits)]
        assert [rle["size"] for rle in pasted] == [[height, width]] * len(logits)
        assert [rle["counts"] for rle in pasted] == [rle["counts"] for rle in wanted]


@pytest.mark.parametrize("mask_rcnn", MASK_RCNNS, indirect=True)
def test_polygon_targets_are_golden(mask_rcnn):
    tensors, facts = mask_rcnn
    polygons = facts["polygons"]
    counts = tensors["train.mask.0.num_per_img"].tolist()
    boxes, objects = tensors["train.mask.0.boxes"].split(counts), tensors["train.mask.0.gt_index"].split(counts)
    targets = []
    for image in range(2):
        masks = [tuple(np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts) for parts in polygons[image]]
        targets.append(mask_targets([masks[i] for i in objects[image].tolist()], Frame(), boxes[image]))
    bits = np.unpackbits(tensors["train.mask.0.targets_packed"].numpy(), axis=1).reshape(-1, 28, 28)
    assert torch.equal(torch.cat(targets), torch.from_numpy(bits).float())


def blob(center, radius, points, seed):
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    length = radius * (0.7 + 0.3 * rng.random(points))
    return np.stack([center[0] + length * np.cos(angle), center[1] + length * np.sin(angle)], axis=1)


FRAMES = [
    Frame(),
    Frame(scale_x=1.7, scale_y=0.6, shift_x=3.0, shift_y=-2.0),
    Frame(scale_x=-1.25, scale_y=1.25, shift_x=250.0),
]


@pytest.mark.parametrize("frame", FRAMES, ids=["as annotated", "resized", "mirrored"])
def test_polygon_targets_are_pycocotools_object_by_object(frame):
    masks = [
        tuple(blob((60 + 9 * i, 50 + 4 * part), 12 + 2 * i, 6 + i, i) for part in range(1 + i % 3)) for i in range(12)
    ]
    moved = [
        [p * [frame.scale_x, frame.scale_y] + [frame.shift_x, frame.shift_y] for p in polygons] for polygons in masks
    ]
    boxes = torch.tensor([[*np.concatenate(m).min(0), *np.concatenate(m).max(0)] for m in moved]).float()
    boxes = boxes + 4 * torch.randn(boxes.shape, generator=torch.Generator().manual_seed(0))
    boxes[0, 2] = boxes[0, 0] + 0.4  # a side below 1 counts as 1
    targets = mask_targets(masks, frame, boxes)
    for polygons, (x1, y1, x2, y2), target in zip(moved, boxes.tolist(), targets, strict=True):
        scale = [28 / max(x2 - x1, 1), 28 / max(y2 - y1, 1)]
        flat = [((polygon - [x1, y1]) * scale).ravel().tolist() for polygon in polygons]
        expected = coco.decode(coco.merge(coco.frPyObjects(flat, 28, 28)))
        # the same products in another order: a vertex on a pixel's edge may round either way
        assert (target.numpy() != expected).sum() <= 1


@pytest.mark.parametrize("frame", FRAMES, ids=["as annotated", "resized", "mirrored"])
def test_run_length_targets_are_torchvisions_roi_align(frame):
    rle = polygons_to_rle((blob((60, 50), 30, 9, 0),), 100, 120)
    bitmap = torch.from_numpy(decode_mask(rle)).float()
    annotated = torch.tensor([[30.0, 20.0, 90.0, 80.0], [50.5, 41.25, 70.0, 99.0], [10.0, 45.0, 110.0, 52.0]])
    scale = torch.tensor([frame.scale_x, frame.scale_y] * 2)
    boxes = annotated * scale + torch.tensor([frame.shift_x, frame.shift_y] * 2)
    expected = roi_align(bitmap[None, None], [annotated], 28, aligned=True)[:, 0] >= 0.5
    if frame.scale_x < 0:
        boxes, expected = boxes[:, [2, 1, 0, 3]], expected.flip(2)
    targets = mask_targets([rle] * 3, frame, boxes)
    # mapping the box there and back moves it by 1e-6 pixel
    assert (targets != expected).sum() <= 1


def test_polygon_and_run_length_targets_nearly_agree():
    mask = (blob((60, 50), 40, 14, 1),)
    box = torch.tensor([[15.0, 5.0, 105.0, 95.0]])
    targets = mask_targets([mask, polygons_to_rle(mask, 100, 120)], Frame(), box.expand(2, 4))
    intersection = (targets[0] * targets[1]).sum()
    assert intersection / targets.amax(0).sum() > 0.93  # a border of half a pixel of 28
