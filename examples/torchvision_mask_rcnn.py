"""Use any loss of tailseg in torchvision's Mask R-CNN.

    python examples/torchvision_mask_rcnn.py --loss gol

Three lines are for the loss::

    loss = build_loss(DropLossConfig(tail="rc"), frequency)
    model = maskrcnn_resnet50_fpn(num_classes=loss.num_classes + 1, box_score_thresh=1e-4, box_detections_per_img=300)
    use_loss(model, loss, reset_bias=True)  # before the optimizer

Faster and Keypoint R-CNN, RetinaNet and FCOS work in the same way. Data sets, targets, box deltas, masks and detections
stay as in torchvision: background is class 0, and the classes start at 1. torchvision's threshold of 0.05 is too high
for a long tail: rare classes have low scores, and average precision depends only on the order.

The rest of this file trains the model for a few steps on the smallest version of the embedded data set.
"""

import tempfile
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.images import read_image
from tailseg.data.tiny_tail import generate
from tailseg.interop.torchvision import use_loss
from tailseg.losses import ClassificationLoss, build_loss
from tailseg.ops.masks import decode_mask, segmentation_to_rle
from tailseg.recipes.tiny import TINY_LOSSES
from tailseg.structures import ClassFrequency

Targets = list[dict[str, Tensor]]

LOSSES = {make.__name__.removeprefix("tiny_"): make().loss for make in TINY_LOSSES}
"""The settings of every loss, by name, from the recipes for small data."""


def count(targets: Targets, num_classes: int) -> ClassFrequency:
    """Counts the objects and images of each class in torchvision's targets. Some losses need these counts."""
    objects = torch.stack([(t["labels"] - 1).bincount(minlength=num_classes) for t in targets])
    annotated = int((objects.sum(1) > 0).sum())
    return ClassFrequency.from_counts((objects > 0).sum(0), objects.sum(0), annotated)


def load(annotations: Annotations) -> tuple[list[Tensor], Targets]:
    """Returns images in 0 .. 1 and targets in torchvision's format. Your own data set returns the same format."""
    images, targets = [], []
    for index in range(annotations.num_images):
        info, record = annotations.get_info(index), annotations.get_record(index)
        masks = [decode_mask(segmentation_to_rle(s, info.height, info.width)) for s in record.segmentations]
        images.append(read_image(info) / 255)
        targets.append(
            {
                "boxes": torch.from_numpy(record.boxes),
                "labels": torch.from_numpy(record.labels) + 1,  # 0 is torchvision's background
                "masks": torch.stack([torch.from_numpy(mask) for mask in masks]).byte(),
            }
        )
    return images, targets


def build_model(loss: ClassificationLoss, *, size: int = 128) -> MaskRCNN:
    """Builds a small Mask R-CNN without trained weights. `maskrcnn_resnet50_fpn` works in the same way."""
    model = MaskRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d),
        num_classes=loss.num_classes + 1,
        min_size=size,
        max_size=2 * size,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=64,
        box_score_thresh=1e-4,
        box_detections_per_img=300,
    )
    use_loss(model, loss, reset_bias=True)
    return model


def train(model: MaskRCNN, images: list[Tensor], targets: Targets, *, steps: int, batch_size: int = 2) -> None:
    """Trains for a few steps of SGD and prints the losses.

    Args:
        model: the detector.
        images: images in 0 .. 1, ``[3, H, W]`` each.
        targets: their targets in torchvision's format.
        steps: number of steps.
        batch_size: images per step.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    model.train()
    for step in range(steps):
        batch = torch.randperm(len(images))[:batch_size].tolist()
        losses = model([images[i] for i in batch], [targets[i] for i in batch])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        # The gradient of the Gumbel link is large where the score of an object is very low.
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        model.roi_heads.loss.step_taken()
        print(f"step {step + 1}: " + ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items()))


def main(loss: str = "gol", steps: int = 5, seed: int = 0) -> None:
    """Train torchvision's Mask R-CNN with a loss of tailseg for a few steps, and detect objects.

    Args:
        loss: gumbel, sigmoid, softmax, gol, droploss, eql, class_relative, focal, eql_v2, seesaw, bags, federated,
            balanced_softmax, ecm or ldam.
        steps: number of steps with two images each; enough to see that it runs, not enough to learn.
        seed: seed of the weights and of the order of images.
    """
    if loss not in LOSSES:
        raise SystemExit(f"no loss is called {loss!r}: there are {', '.join(LOSSES)}")
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        annotations = read_dataset(generate(Path(folder) / "data", preset="test") / "train.json")
        images, targets = load(annotations)
    names = [category.name for category in annotations.categories]
    model = build_model(build_loss(LOSSES[loss], count(targets, len(names))))
    train(model, images, targets, steps=steps)
    model.eval()
    with torch.no_grad():
        (result,) = model(images[:1])
    print(f"{len(result['labels'])} detections, the best of them:")
    for label, score, box in list(zip(result["labels"], result["scores"], result["boxes"], strict=True))[:3]:
        print(f"  {names[label - 1]}: score {score:.4f}, box {[round(x) for x in box.tolist()]}")


if __name__ == "__main__":
    tyro.cli(main)
