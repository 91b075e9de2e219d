"""Tiny random DETR-like models of transformers, and a batch with objects of five classes."""

import json

import torch
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    EomtConfig,
    EomtForUniversalSegmentation,
    HGNetV2Config,
    LwDetrConfig,
    LwDetrForObjectDetection,
    LwDetrViTConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    RfDetrConfig,
    RfDetrForInstanceSegmentation,
    RfDetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    SwinConfig,
)
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config

NUM_CLASSES = 5
SIDE = 64


def rf_detr(kind=RfDetrForObjectDetection):
    backbone = RfDetrDinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=4,
        num_windows=2, out_features=["stage1", "stage2"],
    )  # fmt: skip
    return kind(
        RfDetrConfig(
            backbone_config=backbone, num_labels=NUM_CLASSES, d_model=16, decoder_layers=2, decoder_ffn_dim=16,
            decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=8, group_detr=2,
            intermediate_size=16, dropout=0.0,
        )
    )  # fmt: skip


def rf_detr_masks():
    return rf_detr(RfDetrForInstanceSegmentation)


def lw_detr():
    backbone = LwDetrViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=4,
        num_windows=4, window_block_indices=[0], out_indices=[1, 2], out_features=None,
    )  # fmt: skip
    return LwDetrForObjectDetection(
        LwDetrConfig(
            backbone_config=backbone, num_labels=NUM_CLASSES, d_model=16, decoder_layers=2, decoder_ffn_dim=16,
            decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=8, group_detr=2, dropout=0.0,
            projector_scale_factors=[1.0], decoder_n_points=2,
        )
    )  # fmt: skip


def rt_detr_settings():
    return {
        "encoder_in_channels": [8, 16, 16], "encoder_hidden_dim": 16, "d_model": 16, "encoder_ffn_dim": 16,
        "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 16, "decoder_layers": 2, "num_queries": 10,
        "num_denoising": 4, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_labels": NUM_CLASSES,
        "dropout": 0.0,
    }  # fmt: skip


def rt_detr(kind=RTDetrForObjectDetection, config=RTDetrConfig):
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return kind(config(backbone_config=backbone, **rt_detr_settings()))


def rt_detr_v2():
    return rt_detr(RTDetrV2ForObjectDetection, RTDetrV2Config)


def d_fine():
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 8, 16], stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16], stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, False, False],
        stage_kernel_size=[3, 3, 3, 3], hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], embedding_size=8,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return DFineForObjectDetection(
        DFineConfig(backbone_config=backbone, decoder_n_points=[2, 2, 2], max_num_bins=8, **rt_detr_settings())
    )


def mask2former():
    backbone = SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
            encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=8,
            train_num_points=64, num_labels=NUM_CLASSES,
        )
    )  # fmt: skip


def eomt():
    return EomtForUniversalSegmentation(
        EomtConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=4,
            num_blocks=1, num_upscale_blocks=1, num_queries=8, train_num_points=64, num_labels=NUM_CLASSES,
            num_register_tokens=0,
        )
    )  # fmt: skip


BOX_MODELS = {
    "rf_detr": rf_detr,
    "rf_detr_masks": rf_detr_masks,
    "lw_detr": lw_detr,
    "rt_detr": rt_detr,
    "rt_detr_v2": rt_detr_v2,
    "d_fine": d_fine,
}
MASK_MODELS = {"mask2former": mask2former, "eomt": eomt}
MODELS = BOX_MODELS | MASK_MODELS


def build(name):
    """A model with the same weights each time; larger ones than the initial, where norms divide by almost nothing."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.requires_grad:
                parameter.normal_(0, 0.2)
    return model


def make_batch(name):
    """Two images with two objects and one, as the model takes them; one has the highest class."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, SIDE, SIDE, generator=generator)
    boxes = [torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.65, 0.7, 0.3, 0.4]]), torch.tensor([[0.5, 0.4, 0.6, 0.3]])]
    classes = [torch.tensor([1, 2]), torch.tensor([4])]
    masks = [draw_masks(each) for each in boxes]
    if name in MASK_MODELS:
        return {"pixel_values": pixels, "class_labels": classes, "mask_labels": [each.float() for each in masks]}
    labels = [
        {"boxes": box, "class_labels": label, "masks": mask}
        for box, label, mask in zip(boxes, classes, masks, strict=True)
    ]
    return {"pixel_values": pixels, "labels": labels}


def draw_masks(boxes):
    """A filled box for each."""
    places = (torch.arange(SIDE) + 0.5) / SIDE
    inside = ((places - boxes[:, :2, None]).abs() < boxes[:, 2:, None] / 2).unbind(1)
    return inside[1][:, :, None] & inside[0][:, None, :]


class Images(torch.utils.data.Dataset):
    """The images of an annotation file in a square, with classes, boxes and filled boxes as masks."""

    def __init__(self, file):
        self.raw = json.loads(file.read_text())
        self.ids = sorted(category["id"] for category in self.raw["categories"])

    def __len__(self):
        return len(self.raw["images"])

    def __getitem__(self, index):
        image = self.raw["images"][index]
        objects = [one for one in self.raw["annotations"] if one["image_id"] == image["id"]]
        size = torch.tensor([image["width"], image["height"]] * 2)
        boxes = torch.tensor([one["bbox"] for one in objects]).reshape(-1, 4) / size
        boxes[:, :2] += boxes[:, 2:] / 2
        generator = torch.Generator().manual_seed(image["id"])
        return {
            "pixel_values": torch.rand(3, SIDE, SIDE, generator=generator),
            "labels": {
                "boxes": boxes,
                "class_labels": torch.tensor([self.ids.index(one["category_id"]) for one in objects]),
                "masks": draw_masks(boxes),
                "image_id": torch.tensor([image["id"]]),
            },
        }


def collate(samples):
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
    }
