"""A detector of your own: torchvision's SSDLite, which finds boxes and trains with its own loss.

tailseg train own_detector:recipe --data.train my.json   # in the folder of this file
"""

from dataclasses import dataclass, replace

from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from tailseg.models import Detector
from tailseg.ops.boxes import scale_boxes
from tailseg.recipes import get_recipe
from tailseg.structures import Detections


class TorchvisionDetector(Detector):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images, targets=None, original_sizes=None):
        scaled = [image.float() / 255 for image in images]  # tailseg's pixels are 0 .. 255, torchvision's 0 .. 1
        if targets is not None:  # torchvision counts labels from 1
            return self.network(scaled, [{"boxes": each.boxes, "labels": each.labels + 1} for each in targets])
        sizes = original_sizes or [tuple(image.shape[1:]) for image in images]
        return [self.convert(*result) for result in zip(self.network(scaled), images, sizes, strict=True)]

    def convert(self, result, image, size):
        height, width = size
        boxes = scale_boxes(result["boxes"], width / image.shape[2], height / image.shape[1])
        return Detections(boxes, result["scores"], result["labels"] - 1, None, height, width)


@dataclass(frozen=True)
class SSDLiteConfig:
    weights: str | None = None  # "DEFAULT" downloads ImageNet's
    has_masks = False

    def build(self, loss, *, load_weights=True):
        return TorchvisionDetector(
            ssdlite320_mobilenet_v3_large(
                weights_backbone=self.weights if load_weights else None,
                num_classes=loss.num_classes + 1,
            )
        )


def recipe():
    base = get_recipe("custom_small")
    return replace(base, name="own_detector", model=SSDLiteConfig(), optim=replace(base.optim, lr=0.02))
