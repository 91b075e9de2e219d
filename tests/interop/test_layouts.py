"""The project of a file is found by names as the project writes them, and named if tailseg does not read it."""

import pytest
import timm
import torch
from tests.parity import detectron2
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn, maskrcnn_resnet50_fpn

from tailseg.interop.layouts import detect_layout
from tailseg.training.checkpoint import CheckpointError

from . import published


@pytest.fixture(autouse=True)
def _no_values():
    with torch.device("meta"):
        yield


def test_layouts_that_are_read():
    with torch.device("cpu"):
        zoo = detectron2.make_state()
    assert detect_layout(zoo, "x") == detect_layout(detectron2.to_caffe2(zoo), "x") == "detectron2"
    assert detect_layout(published.mask_rcnn_shapes(), "x") == "mmdet"
    for build in (maskrcnn_resnet50_fpn, fasterrcnn_mobilenet_v3_large_fpn):
        assert detect_layout(build(weights=None, weights_backbone=None).state_dict(), "x") == "torchvision"


@pytest.mark.parametrize(
    ("names", "project"),
    [
        (["model.0.conv.weight", "model.0.bn.weight", "model.22.cv2.0.0.conv.weight"], "ultralytics"),
        (["model.model.0.conv.weight"], "ultralytics"),
        (["model.pixel_level_module.encoder.embeddings.patch_embeddings.projection.weight"], "transformers"),
        (["model.backbone.conv_encoder.model.conv1.weight", "class_labels_classifier.weight"], "transformers"),
        (["vit.encoder.layer.0.attention.attention.query.weight"], "transformers"),
        (["res2.0.conv1.weight", "stem.conv1.weight"], "detectron2, of a backbone alone"),
        (["backbone.net.blocks.0.attn.qkv.weight"], "detectron2, for another kind of network"),
        (["box_head.fc1.weight", "fpn.lateral.0.weight"], "tailseg, but not its recipe and classes"),
    ],
)
def test_others_are_named(names, project):
    with pytest.raises(CheckpointError, match=f"^x.pth has the names of {project} \\({names[0]}.*reads checkpoints of"):
        detect_layout(names, "x.pth")


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "vit_tiny_patch16_224", "efficientnet_b0"])
def test_networks_of_timm_are_named(name):
    with pytest.raises(CheckpointError, match="the names of timm or torchvision, of a backbone alone"):
        detect_layout(timm.create_model(name).state_dict(), "x")


def test_unknown_names():
    with pytest.raises(CheckpointError, match="has names of no project that tailseg knows"):
        detect_layout(["net.layer.weight"], "x")
