"""What the right mean and standard deviation of images are worth for a timm network: nearest neighbors of objects.

    python benchmarks/timm_norm.py tf_efficientnet_lite0 WEIGHTS --images FOLDER train.json val.json

Each object gets the class of the object in another image with the nearest features (cosine of the means of the coarsest
feature map). Nothing is trained: the features come from the weights alone. WEIGHTS is a file with timm's names, or with
tensors in timm's order and shapes.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import torch
from measure import table, write
from torch import Tensor
from torch.nn import functional as F

from tailseg.data.images import load_image
from tailseg.models.backbones import build_backbone
from tailseg.models.config import TimmConfig
from tailseg.models.images import ImageBatcher, get_normalization
from tailseg.models.timm_backbone import create
from tailseg.models.timm_weights import with_own_normalization
from tailseg.models.weights import load_backbone, read_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("weights", type=Path)
    parser.add_argument("files", type=Path, nargs="+", help="COCO files with the objects")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--side", type=int, default=128, help="of the crops, in pixels")
    parser.add_argument("--least-area", type=float, default=256, help="of a box, in pixels")
    options = parser.parse_args()

    torch.manual_seed(0)
    found = [list(crops(file, options.images, options.side, options.least_area)) for file in options.files]
    images = torch.cat([crop for each in found for crop, _, _ in each])
    classes = [category for each in found for _, category, _ in each]
    names = [name for each in found for _, _, name in each]
    truth, place = torch.tensor(classes), torch.tensor([sorted(set(names)).index(name) for name in names])
    same_image = place[:, None] == place
    file = in_timms_names(options.weights, options.network)
    config = TimmConfig(name=options.network, weights=str(file))
    rows = []
    for label, each in (("the weights' own", with_own_normalization(config)), ("ImageNet's", config)):
        backbone = build_backbone(each).eval()
        load_backbone(backbone, each.weights)
        batcher = ImageBatcher(*get_normalization(each))
        vectors = features(backbone, batcher, images)
        right = truth[(vectors @ vectors.T).masked_fill(same_image, -2).argmax(1)] == truth
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in get_normalization(each))
        rows.append([options.network, label, mean, std, f"{100 * right.double().mean():.1f}"])
    said = (
        f"{len(images)} objects of {len(set(names))} images and {len(set(classes))} classes, each beside those of the "
        f"other images; crops of {options.side} pixels a side.\n\n"
    )
    text = said + table(["network", "normalized with", "mean", "deviation", "same class, %"], rows)
    title = f"Nearest neighbors of objects by the features of {options.network}"
    write("timm_norm", title, text, threads=torch.get_num_threads(), file=f"timm_norm-{options.network}")


def crops(file: Path, folder: Path, side: int, least_area: float) -> Iterator[tuple[Tensor, int, str]]:
    """Each object of a COCO file cut out, ``[1, 3, side, side]`` uint8, its category id and its image; no crowds."""
    content = json.loads(file.read_text())
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        pixels = load_image(folder / image["file_name"])
        for annotation in objects[image["id"]]:
            x, y, width, height = annotation["bbox"]
            if annotation.get("iscrowd") or width * height < least_area:
                continue
            crop = pixels[:, int(y) : ceil(y + height), int(x) : ceil(x + width)]
            resized = F.interpolate(crop[None].float(), (side, side), mode="bilinear", antialias=True)
            yield resized.round().clamp(0, 255).byte(), annotation["category_id"], image["file_name"]


@torch.inference_mode()
def features(backbone: torch.nn.Module, batcher: ImageBatcher, images: Tensor) -> Tensor:
    """The mean of the coarsest map of each image, of length 1."""
    maps = [backbone(batcher(list(part)).tensors)[3].mean((2, 3)) for part in images.split(32)]
    return F.normalize(torch.cat(maps), dim=1)


def in_timms_names(file: Path, name: str) -> Path:
    """The file, or a copy of it in timm's names beside it if its tensors stand in timm's order."""
    state = read_weights(file)
    with torch.device("meta"):
        expected = create(name, pretrained=False, features_only=False).state_dict()
    if state.keys() == expected.keys():
        return file
    pairs = list(zip(expected.items(), state.values(), strict=True))
    if any(wanted.shape != value.shape for (_, wanted), value in pairs):
        raise SystemExit(f"{file} holds neither the names nor the shapes of timm's {name}")
    renamed = file.with_suffix(".timm.pth")
    torch.save({key: value for (key, _), value in pairs}, renamed)
    return renamed


if __name__ == "__main__":
    main()
