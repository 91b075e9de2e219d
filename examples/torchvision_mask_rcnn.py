"""Use any loss of tailseg in torchvision's Mask R-CNN.

    python examples/torchvision_mask_rcnn.py --loss gol

Copy `LossPredictor`, `LossRoIHeads` and three lines into your own project::

    loss = build_loss(DropLossConfig(tail="rc"), frequency)
    model = maskrcnn_resnet50_fpn(num_classes=loss.num_classes + 1, box_score_thresh=1e-4, box_detections_per_img=300)
    model.roi_heads = LossRoIHeads(model.roi_heads, loss)  # before model.to(device) and the optimizer

Faster R-CNN works in the same way. torchvision's background is class 0, and its classes start at 1. tailseg's classes
start at 0, and background is last. Data sets, targets, box deltas, masks and detections stay as in torchvision. The
labels are converted where the loss is called, and converted back where the scores are read. torchvision's threshold of
0.05 is too high for a long tail: rare classes have low scores, and average precision depends only on the order.

The rest of this file trains the model for a few steps on the smallest version of the embedded data set.
"""

import tempfile
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data.images import read_image
from tailseg.data.tiny_tail import generate
from tailseg.losses import ClassificationLoss, build_loss
from tailseg.ops.masks import decode_mask, segmentation_to_rle
from tailseg.recipes.tiny import TINY_LOSSES
from tailseg.structures import ClassFrequency

Targets = list[dict[str, Tensor]]

LOSSES = {make.__name__.removeprefix("tiny_"): make().loss for make in TINY_LOSSES}
"""The settings of every loss, by name, from the recipes for small data."""


class LossPredictor(FastRCNNPredictor):
    """torchvision's predictor with the loss's number of logits, and box deltas for background and the C classes."""

    def __init__(self, in_channels: int, loss: ClassificationLoss) -> None:
        super().__init__(in_channels, loss.num_classes + 1)
        self.cls_score = nn.Linear(in_channels, loss.num_logits)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        with torch.no_grad():
            self.cls_score.bias.copy_(loss.init_bias())


class LossRoIHeads(RoIHeads):
    """torchvision's RoI heads (boxes and masks) with the loss in training and its scores at test time."""

    def __init__(self, heads: RoIHeads, loss: ClassificationLoss) -> None:
        nn.Module.__init__(self)
        # Copies all parts and settings of the given heads: the constructor would need each of them again.
        self.__dict__.update(heads.__dict__)
        self.loss = loss  # a submodule, so that its state is saved and moved with the model
        self.box_predictor = LossPredictor(heads.box_predictor.cls_score.in_features, loss)

    def forward(self, features, proposals, image_shapes, targets=None):
        if not self.training:
            return super().forward(features, proposals, image_shapes)  # calls postprocess_detections for the scores
        proposals, matched, labels, deltas_wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        terms = self.loss(logits, self.to_tailseg(torch.cat(labels)))
        # New names, because the loss_objectness of torchvision's RPN would overwrite Seesaw's.
        losses = {name.replace("loss_", "loss_roi_"): term for name, term in terms.items()}
        # torchvision computes its box loss together with its cross entropy. The logits are zeros, and the cross
        # entropy is not used.
        zeros = logits.new_zeros(len(logits), self.loss.num_classes + 1)
        _, losses["loss_box_reg"] = fastrcnn_loss(zeros, deltas, labels, deltas_wanted)
        if self.has_mask():
            boxes = [box[label > 0] for box, label in zip(proposals, labels, strict=True)]
            matched = [match[label > 0] for match, label in zip(matched, labels, strict=True)]
            masks = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
            true_masks, true_labels = [t["masks"] for t in targets], [t["labels"] for t in targets]
            losses["loss_mask"] = maskrcnn_loss(masks, boxes, true_masks, true_labels, matched)
        return [], losses

    def to_tailseg(self, labels: Tensor) -> Tensor:
        """Converts labels 1 .. C to 0 .. C-1, and background from 0 to C."""
        return (labels - 1) % (self.loss.num_classes + 1)

    def postprocess_detections(self, class_logits, box_regression, proposals, image_shapes):
        counts = [len(boxes) for boxes in proposals]
        # One box per class, without torchvision's first, the background's: column j is the loss's class j.
        boxes = self.box_coder.decode(box_regression, proposals)[:, 1:].split(counts)
        scores = self.loss.scores(class_logits).split(counts)
        detections = [self.select_best(*image) for image in zip(boxes, scores, image_shapes, strict=True)]
        return tuple(list(column) for column in zip(*detections, strict=True))

    def select_best(self, boxes: Tensor, scores: Tensor, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Selects the detections of one image.

        Args:
            boxes: boxes of each region and class, ``[R, C, 4]``.
            scores: scores, ``[R, C]``.
            image_shape: height, width.

        Returns:
            Boxes ``[N, 4]``, scores ``[N]`` and torchvision's labels ``[N]``, best first.
        """
        region, label = torch.where(scores > self.score_thresh)
        boxes, scores = clip_boxes_to_image(boxes[region, label], image_shape), scores[region, label]
        keep = remove_small_boxes(boxes, min_size=1e-2)
        keep = keep[batched_nms(boxes[keep], scores[keep], label[keep], self.nms_thresh)][: self.detections_per_img]
        return boxes[keep], scores[keep], label[keep] + 1


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
    model.roi_heads = LossRoIHeads(model.roi_heads, loss)
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
