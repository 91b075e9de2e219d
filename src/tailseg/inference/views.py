"""Test-time augmentation: the detections in several views of an image, mirrored and in other sizes, joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from tailseg.inference.pipeline import Detector
from tailseg.ops import strips
from tailseg.structures import Detections


@dataclass(frozen=True)
class ViewsDetector:
    """A detector that detects in several views of an image.

    The detections of all views are brought back to the image. In each class NMS keeps those with the highest scores, as
    detectron2's ``GeneralizedRCNNWithTTA`` does for boxes; a mask is that of its box.

    Attributes:
        detectors: one for each size of the image.
        flip: detect in the mirrored image, too.
        iou_threshold: NMS keeps no two boxes of one class with a larger IoU.
        max_detections: the largest number of detections of an image.
    """

    detectors: Sequence[Detector]
    flip: bool
    iou_threshold: float = 0.5
    max_detections: int = 300

    def __call__(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detects objects in images, uint8 RGB ``[3, h, w]``.

        Returns:
            The detections of each, best first, in pixels of the image.
        """
        views = [detector(images) for detector in self.detectors]
        if self.flip:
            mirrored = [image.flip(-1) for image in images]
            views += [[mirror(found) for found in detector(mirrored)] for detector in self.detectors]
        return [self._join(found) for found in zip(*views, strict=True)]

    def _join(self, views: Sequence[Detections]) -> Detections:
        first = views[0]
        masks = None if first.masks is None else tuple(mask for view in views for mask in view.masks or ())
        together = Detections(
            torch.cat([view.boxes for view in views]),
            torch.cat([view.scores for view in views]),
            torch.cat([view.labels for view in views]),
            masks,
            first.height,
            first.width,
            first.class_names,
        )
        boxes, scores = together.boxes.float(), together.scores.float()
        # class by class: batched_nms moves the classes apart in float32, which rounds the boxes of the last ones
        kept = [torch.empty(0, dtype=torch.int64, device=boxes.device)]
        for label in together.labels.unique():
            rows = (together.labels == label).nonzero().flatten()
            kept.append(rows[nms(boxes[rows], scores[rows], self.iou_threshold)])
        rows = torch.cat(kept)
        order = scores[rows].argsort(descending=True, stable=True)
        return together.select(rows[order[: self.max_detections]])


def mirror(detections: Detections) -> Detections:
    """Brings the detections in a mirrored image back to the image."""
    x1, y1, x2, y2 = detections.boxes.unbind(dim=1)
    width, masks = detections.width, detections.masks
    return Detections(
        torch.stack([width - x2, y1, width - x1, y2], dim=1),
        detections.scores,
        detections.labels,
        None
        if masks is None
        else tuple(
            strips.to_run_lengths(strips.mirror(strips.from_run_lengths(mask), width), detections.height, width)
            for mask in masks
        ),
        detections.height,
        width,
        detections.class_names,
    )
