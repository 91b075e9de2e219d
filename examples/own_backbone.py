"""A backbone of your own: a plain Vision Transformer with a simple feature pyramid, which DINOv3's networks need too.

tailseg train own_backbone:recipe --data.train my.json   # in the folder of this file
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from tailseg.models import BackboneConfig
from tailseg.recipes import AdamWConfig, get_recipe


class PlainViT(nn.Module):
    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        self.out_channels = (width // 4, width // 2, width, width)
        self.patches = nn.Conv2d(3, width, 16, stride=16)
        self.positions = nn.Parameter(0.02 * torch.randn(1, width, 14, 14))
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.stride_8 = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.stride_4 = nn.Sequential(nn.GELU(), nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2))

    def forward(self, images):
        x = self.patches(images)
        x = x + F.interpolate(self.positions, x.shape[2:], mode="bicubic")
        x = self.blocks(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        finer = self.stride_8(x)
        return [self.stride_4(finer), finer, x, F.max_pool2d(x, 2)]  # strides 4, 8, 16, 32

    def no_weight_decay(self):
        return {"positions"}


@dataclass(frozen=True)
class PlainViTConfig(BackboneConfig):
    width: int = 192
    depth: int = 6
    heads: int = 3
    weights: str | None = None

    def build(self):
        return PlainViT(self.width, self.depth, self.heads)

    def load_weights(self, backbone):
        if self.weights:
            backbone.load_state_dict(torch.load(self.weights, weights_only=True))


def recipe():
    base = get_recipe("custom_small")
    model = replace(base.model, backbone=PlainViTConfig())
    return replace(base, name="own_backbone", model=model, optim=AdamWConfig(epochs=24, milestones=(18, 22)))
