"""Detections of an image: filtered, printed, and in the forms of other libraries, read by these libraries."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from tailseg.evaluation import evaluate, to_results
from tailseg.ops.masks import encode_mask
from tailseg.structures import Detections

NAMES = ("cat", "dog", "bird")
HEIGHT, WIDTH = 40, 60


def bitmaps() -> np.ndarray:
    """A rectangle, a triangle, nothing."""
    masks = np.zeros((3, HEIGHT, WIDTH), dtype=bool)
    masks[0, 5:20, 10:30] = True
    masks[1, 10:35, 30:55] = np.tri(25, dtype=bool)
    return masks


def detections(*, masks: bool = True, names: bool = True) -> Detections:
    """A dog, a cat and another dog."""
    return Detections(
        boxes=torch.tensor([[10.0, 5.0, 30.0, 20.0], [30.0, 10.0, 55.0, 35.0], [0.25, 0.5, 3.0, 4.0]]),
        scores=torch.tensor([0.9, 0.6, 0.1]),
        labels=torch.tensor([1, 0, 1]),
        masks=tuple(map(encode_mask, bitmaps())) if masks else None,
        height=HEIGHT,
        width=WIDTH,
        class_names=NAMES if names else None,
    )


def test_the_text_is_short() -> None:
    assert repr(detections()) == "Detections(3 objects in 60 x 40 pixels, scores 0.90 to 0.10: 2 dog, 1 cat)"
    assert repr(detections(names=False).above(0.7)) == (
        "Detections(1 object in 60 x 40 pixels, scores 0.90 to 0.90: 1 class 1)"
    )
    assert repr(detections().above(0.95)) == "Detections(0 objects in 60 x 40 pixels)"
    many = detections(masks=False, names=False).select(torch.zeros(7, dtype=torch.int64))
    assert repr(replace(many, labels=torch.arange(7))).endswith("1 class 4, ...)")


def test_some_are_selected_by_flags_or_places() -> None:
    chosen = detections().select(torch.tensor([2, 0]))
    assert chosen.scores.tolist() == pytest.approx([0.1, 0.9])
    assert chosen.masks == tuple(encode_mask(bitmaps()[i]) for i in (2, 0))
    assert detections().above(0.6).labels.tolist() == [1, 0]
    assert detections().select(detections().labels == 1).class_names == NAMES


def test_masks_become_bitmaps() -> None:
    assert (detections().decode_masks() == bitmaps()).all()
    assert detections().above(0.95).decode_masks().shape == (0, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="finds boxes only"):
        detections(masks=False).decode_masks()


def test_torchvision_draws_its_form_of_them() -> None:
    output = detections().to_torchvision()
    assert output["labels"].tolist() == [2, 1, 2]
    assert detections().to_torchvision(first_label=0)["labels"].tolist() == [1, 0, 1]
    assert {key: (value.dtype, list(value.shape)) for key, value in output.items()} == {
        "boxes": (torch.float32, [3, 4]),
        "labels": (torch.int64, [3]),
        "scores": (torch.float32, [3]),
        "masks": (torch.uint8, [3, 1, HEIGHT, WIDTH]),
    }
    assert torch.equal(output["boxes"], detections().boxes)
    masks = (output["masks"] > 0.5).squeeze(1)
    assert (masks.numpy() == bitmaps()).all()
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    drawn = draw_segmentation_masks(image, masks, alpha=1.0, colors="white")
    assert (drawn.any(0).numpy() == bitmaps().any(0)).all()
    assert draw_bounding_boxes(image, output["boxes"]).any()
    assert set(detections(masks=False).to_torchvision()) == {"boxes", "labels", "scores"}


def test_supervision_takes_its_form_of_them() -> None:
    converted = detections().to_supervision()
    assert converted.xyxy.tolist() == detections().boxes.tolist()
    assert converted.confidence is not None
    assert converted.confidence.tolist() == detections().scores.tolist()
    assert converted.class_id is not None
    assert converted.class_id.tolist() == [1, 0, 1]
    assert list(converted.data["class_name"]) == ["dog", "cat", "dog"]
    assert converted.mask is not None
    assert (np.asarray(converted.mask) == bitmaps()).all()
    assert len(converted[converted.data["class_name"] == "cat"]) == 1
    assert converted.with_nms(0.5).class_id is not None
    drawn = sv.MaskAnnotator().annotate(np.zeros((HEIGHT, WIDTH, 3), np.uint8), converted)
    assert drawn.any()
    nothing = detections().above(0.95).to_supervision()
    assert len(nothing) == 0
    assert len(sv.Detections.merge([nothing, converted])) == 3
    assert detections(masks=False, names=False).to_supervision().mask is None


def coco_file(folder: Path) -> Path:
    """An annotation file that has the detections as its objects, with ids that are not contiguous."""
    objects = to_results(detections().above(0.5), 7, [30, 10, 20])
    annotations = [
        {key: value for key, value in record.items() if key != "score"}
        | {"id": i + 1, "area": float(bitmaps()[i].sum()), "iscrowd": 0}
        for i, record in enumerate(objects)
    ]
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 30, "name": "cat"}, {"id": 10, "name": "dog"}, {"id": 20, "name": "bird"}],
        "annotations": annotations,
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder / "annotations.json"


def test_pycocotools_reads_its_form_of_them(tmp_path: Path) -> None:
    records = json.loads(json.dumps(detections().to_coco(7, [30, 10, 20])))
    annotations = COCO(str(coco_file(tmp_path)))
    loaded = annotations.loadRes(records)
    read = [loaded.anns[i + 1] for i in range(3)]
    assert [one["category_id"] for one in read] == [10, 30, 10]
    assert [one["bbox"] for one in read[:2]] == [[10.0, 5.0, 20.0, 15.0], [30.0, 10.0, 25.0, 25.0]]
    assert [one["score"] for one in read] == detections().scores.tolist()
    for one, bitmap in zip(read, bitmaps(), strict=True):
        assert (loaded.annToMask(one) == bitmap).all()
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(annotations, loaded, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1.0)
    assert evaluate(tmp_path / "annotations.json", records)["segm"]["AP"] == pytest.approx(1.0)
    assert "segmentation" not in detections(masks=False).to_coco(7, [30, 10, 20])[0]
    with pytest.raises(ValueError, match="labels 0 to 1 need as many category ids, got 1"):
        detections().to_coco(7, [30])
