"""What the right mean and deviation of images are worth to a network of timm: nearest neighbours of objects.

    python benchmarks/timm_norm.py tf_efficientnet_lite0 WEIGHTS --train train.json --val val.json --images FOLDER

Every object of the validation file is given the class of the training object whose features are nearest (cosine of the
means of the network's coarsest map). No training: the features are those of the weights alone. WEIGHTS is a file in
timm's names, or one whose tensors stand in the order of timm's and have their shapes.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import table, write
from torch import Tensor
from torch.nn import functional as F

from tailseg.data.images import load_image
from tailseg.models.backbones import build_backbone
from tailseg.models.config import TimmConfig
from tailseg.models.images import ImageBatcher, normalisation
from tailseg.models.timm_backbone import create
from tailseg.models.timm_weights import with_own_normalisation
from tailseg.models.weights import load_backbone, read_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--side", type=int, default=128, help="of the crops, in pixels")
    parser.add_argument("--least-area", type=float, default=256, help="of a box, in pixels")
    options = parser.parse_args()

    torch.manual_seed(0)
    known, classes = crops(options.train, options.images, options.side, options.least_area)
    asked, truth = crops(options.val, options.images, options.side, options.least_area)
    file = in_timms_names(options.weights, options.network)
    config = TimmConfig(name=options.network, weights=str(file))
    rows = []
    for label, each in (("the weights' own", with_own_normalisation(config)), ("ImageNet's", config)):
        backbone = build_backbone(each).eval()
        load_backbone(backbone, each.weights)
        batcher = ImageBatcher(*normalisation(each))
        ours, theirs = (features(backbone, batcher, images) for images in (known, asked))
        right = classes[(theirs @ ours.T).argmax(1)] == truth
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in normalisation(each))
        rows.append([options.network, label, mean, std, f"{100 * right.double().mean():.1f}"])
    said = (
        f"{len(asked)} objects of {options.val.name} among {len(known)} of {options.train.name} "
        f"({len(set(classes.tolist()))} classes), crops of {options.side} pixels a side.\n\n"
    )
    text = said + table(["network", "normalised with", "mean", "deviation", "same class, %"], rows)
    title = f"Nearest neighbours of objects by the features of {options.network}"
    write("timm_norm", title, text, threads=torch.get_num_threads(), file=f"timm_norm-{options.network}")


def crops(file: Path, folder: Path, side: int, least_area: float) -> tuple[Tensor, Tensor]:
    """The boxes of a COCO file's objects cut out, ``[N, 3, side, side]`` uint8, and their category ids; no crowds."""
    content = json.loads(file.read_text())
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    made = list(_crops(content["images"], objects, folder, side, least_area))
    return torch.stack([crop for crop, _ in made]), torch.tensor([category for _, category in made])


def _crops(
    images: list[dict], objects: dict[int, list[dict]], folder: Path, side: int, least_area: float
) -> Iterator[tuple[Tensor, int]]:
    for image in images:
        pixels = load_image(folder / image["file_name"])
        for annotation in objects[image["id"]]:
            x, y, width, height = annotation["bbox"]
            if annotation.get("iscrowd") or width * height < least_area:
                continue
            crop = pixels[:, int(y) : int(-(-(y + height) // 1)), int(x) : int(-(-(x + width) // 1))]
            resized = F.interpolate(crop[None].float(), (side, side), mode="bilinear", antialias=True)[0]
            yield resized.round().clamp(0, 255).byte(), annotation["category_id"]


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
