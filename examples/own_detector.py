"""A detector of your own: torchvision's RetinaNet, which finds boxes and trains with its own focal loss.

tailseg train own_detector:recipe --data.train my.json   # in the folder of this file
"""

from dataclasses import dataclass, replace

from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

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
        if targets is not None:
            return self.network(scaled, [{"boxes": target.boxes, "labels": target.labels} for target in targets])
        sizes = original_sizes or [image.shape[1:] for image in images]
        return [self.convert(*result) for result in zip(self.network(scaled), images, sizes, strict=True)]

    def convert(self, result, image, size):
        height, width = size
        boxes = scale_boxes(result["boxes"], width / image.shape[2], height / image.shape[1])
        return Detections(boxes, result["scores"], result["labels"], None, height, width)


@dataclass(frozen=True)
class RetinaNetConfig:
    weights: str | None = None  # "DEFAULT" downloads ImageNet's
    has_masks = False

    def build(self, loss, *, load_weights=True):
        weights = self.weights if load_weights else None
        backbone = resnet_fpn_backbone(
            backbone_name="resnet18", weights=weights, trainable_layers=5, norm_layer=nn.BatchNorm2d
        )
        return TorchvisionDetector(RetinaNet(backbone, loss.num_classes, _skip_resize=True))


def recipe():
    base = get_recipe("custom_small")
    return replace(base, name="own_detector", model=RetinaNetConfig(), optim=replace(base.optim, lr=0.02))
