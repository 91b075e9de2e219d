"""Any loss of tailseg in torchvision's Mask R-CNN.

    python examples/torchvision_mask_rcnn.py --loss gol

What to copy into a project of your own is `LossPredictor`, `LossRoIHeads` and three lines::

    loss = build_loss(DropLossConfig(tail="rc"), frequency)
    model = maskrcnn_resnet50_fpn(num_classes=loss.num_classes + 1, box_score_thresh=1e-4, box_detections_per_img=300)
    model.roi_heads = LossRoIHeads(model.roi_heads, loss)  # before model.to(device) and the optimizer

Faster R-CNN works alike. torchvision counts background as class 0 and the classes from 1; tailseg counts the classes
from 0 and background last. Data sets, targets, box deltas, masks and detections stay as torchvision has them; the
labels are translated where the loss is called, and back where the scores are read. torchvision's threshold of 0.05 is
too high for a long tail: rare classes score low, and average precision asks only for the order.

The rest of this file trains the model for a few steps on the smallest draw of the embedded data set.
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
"""The settings of every loss by name, as the recipes for small data have them."""


class LossPredictor(FastRCNNPredictor):
    """torchvision's predictor with as many logits as the loss wants; box deltas for background and the C classes."""

    def __init__(self, in_channels: int, loss: ClassificationLoss) -> None:
        super().__init__(in_channels, loss.num_classes + 1)
        self.cls_score = nn.Linear(in_channels, loss.num_logits)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        with torch.no_grad():
            self.cls_score.bias.copy_(loss.init_bias())


class LossRoIHeads(RoIHeads):
    """torchvision's RoI heads (boxes and masks) with the loss in training and its scores at test."""

    def __init__(self, heads: RoIHeads, loss: ClassificationLoss) -> None:
        nn.Module.__init__(self)
        # All parts and settings of the given heads: their constructor would want each of them again.
        self.__dict__.update(heads.__dict__)
        self.loss = loss  # a part of the model: its state is saved and moved with it
        self.box_predictor = LossPredictor(heads.box_predictor.cls_score.in_features, loss)

    def forward(self, features, proposals, image_shapes, targets=None):
        if not self.training:
            return super().forward(features, proposals, image_shapes)  # reads scores through postprocess_detections
        proposals, matched, labels, deltas_wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        terms = self.loss(logits, self.to_tailseg(torch.cat(labels)))
        # Renamed: Seesaw's loss_objectness would be overwritten by that of torchvision's RPN.
        losses = {name.replace("loss_", "loss_roi_"): term for name, term in terms.items()}
        # torchvision's box loss comes with its cross entropy: of zeros here, and not used.
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
        """Labels 1 .. C to 0 .. C-1, and background from 0 to C."""
        return (labels - 1) % (self.loss.num_classes + 1)

    def postprocess_detections(self, class_logits, box_regression, proposals, image_shapes):
        counts = [len(boxes) for boxes in proposals]
        # One box a class, without that of background, torchvision's first: column j is the loss's class j.
        boxes = self.box_coder.decode(box_regression, proposals)[:, 1:].split(counts)
        scores = self.loss.scores(class_logits).split(counts)
        found = [self.best(*image) for image in zip(boxes, scores, image_shapes, strict=True)]
        return tuple(list(part) for part in zip(*found, strict=True))

    def best(self, boxes: Tensor, scores: Tensor, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and torchvision's labels of one image, from boxes ``[R, C, 4]`` and scores ``[R, C]``."""
        region, label = torch.where(scores > self.score_thresh)
        boxes, scores = clip_boxes_to_image(boxes[region, label], image_shape), scores[region, label]
        kept = remove_small_boxes(boxes, min_size=1e-2)
        kept = kept[batched_nms(boxes[kept], scores[kept], label[kept], self.nms_thresh)][: self.detections_per_img]
        return boxes[kept], scores[kept], label[kept] + 1


def count(targets: Targets, num_classes: int) -> ClassFrequency:
    """How often each class occurs, from torchvision's targets: what a loss may want to know of the data."""
    objects = torch.stack([(t["labels"] - 1).bincount(minlength=num_classes) for t in targets])
    annotated = int((objects.sum(1) > 0).sum())
    return ClassFrequency.from_counts((objects > 0).sum(0), objects.sum(0), annotated)


def load(annotations: Annotations) -> tuple[list[Tensor], Targets]:
    """Images in 0 .. 1 and targets as torchvision wants them. Your own data set returns the like."""
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
    """A Mask R-CNN small enough for a CPU, without any trained weights; `maskrcnn_resnet50_fpn` is used alike."""
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
    """A few steps of SGD, printing the losses."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    model.train()
    for step in range(steps):
        chosen = torch.randperm(len(images))[:batch_size].tolist()
        losses = model([images[i] for i in chosen], [targets[i] for i in chosen])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        # The Gumbel link's gradient is large where an object is missed by far.
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        model.roi_heads.loss.step_taken()
        print(f"step {step + 1}: " + ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items()))


def main(loss: str = "gol", steps: int = 5, seed: int = 0) -> None:
    """Train torchvision's Mask R-CNN with a loss of tailseg for a few steps, and detect.

    Args:
        loss: gumbel, sigmoid, softmax, gol, droploss, eql, class_relative, focal, eql_v2, seesaw, bags, federated,
            balanced_softmax, ecm or ldam.
        steps: of two images each; enough to see it run, not to learn.
        seed: of the weights and of the order.
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
        (found,) = model(images[:1])
    print(f"{len(found['labels'])} detections, the best of them:")
    for label, score, box in list(zip(found["labels"], found["scores"], found["boxes"], strict=True))[:3]:
        print(f"  {names[label - 1]}: score {score:.4f}, box {[round(x) for x in box.tolist()]}")


if __name__ == "__main__":
    tyro.cli(main)
