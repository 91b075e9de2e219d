"""Test-time augmentation with detectors that see a bright rectangle."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tailseg.inference.views import ViewsDetector
from tailseg.ops.masks import decode_mask, encode_mask
from tailseg.structures import Detections


def detector(score: float, *, masks: bool = True, shift: float = 0.0):
    """Finds what is bright, with this score; the score is 0.1 higher if it lies in the left half."""

    def detect(images: Sequence[Tensor]) -> list[Detections]:
        found = []
        for image in images:
            bitmap = (image[0] > 100).numpy()
            rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
            box = [columns[0] + shift, rows[0], columns[-1] + 1 + shift, rows[-1] + 1]
            left = 0.1 * (columns[-1] < image.shape[-1] / 2)
            runs = (encode_mask(bitmap),) if masks else None
            boxes, scores = torch.tensor([box], dtype=torch.float32), torch.tensor([score + left])
            found.append(Detections(boxes, scores, torch.tensor([3]), runs, *bitmap.shape))
        return found

    return detect


def bright(x1: int, y1: int, x2: int, y2: int) -> Tensor:
    image = torch.zeros(3, 30, 40, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 200
    return image


def test_the_best_view_decides_and_is_brought_back() -> None:
    images = [bright(25, 5, 35, 25), bright(2, 3, 9, 10)]
    for masks in (True, False):
        found = ViewsDetector([detector(0.5, masks=masks)], flip=True)(images)
        assert [round(float(each.scores), 3) for each in found] == [0.6, 0.6]  # of the mirrored one, of itself
        assert [each.boxes.tolist() for each in found] == [[[25, 5, 35, 25]], [[2, 3, 9, 10]]]
        assert [each.labels.tolist() for each in found] == [[3], [3]]
        if masks:
            for each, image in zip(found, images, strict=True):
                assert each.masks is not None
                assert np.array_equal(decode_mask(each.masks[0]), (image[0] > 100).numpy())
        else:
            assert [each.masks for each in found] == [None, None]


def test_boxes_that_do_not_agree_are_all_kept_up_to_the_limit() -> None:
    detectors = [detector(score, shift=shift) for score, shift in ((0.5, 0), (0.8, 2), (0.7, 20))]
    (found,) = ViewsDetector(detectors, flip=False)([bright(2, 3, 12, 13)])
    assert [round(score, 3) for score in found.scores.tolist()] == [0.9, 0.8]
    assert found.boxes[:, 0].tolist() == [4, 22]
    (one,) = ViewsDetector(detectors, flip=False, max_detections=1)([bright(2, 3, 12, 13)])
    assert len(one) == 1
    assert one.masks is not None
    assert len(one.masks) == 1
