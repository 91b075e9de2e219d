"""Makes tests/golden from the full golden files: six megabytes that test every stage.

    uv run python tools/trim_golden.py FOLDER tests/golden

Nothing is rounded: what is kept is as it was, to the bit. One detector keeps all of its weights and its images; of the
others the golden feature maps stand for backbone and neck. Backbones end after a stage or three.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.parity.golden import without_backbone

ROIS = 50
"""RoIs of each image in testing."""
MASKS = 3
"""Of each image."""
FIRST_LEVEL = 2
"""Levels of the RPN's maps. The finer ones are larger and come from the same weights."""

Files = tuple[dict[str, Tensor], dict[str, Any]]


def whole(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Files:
    """Keeps a detector from the pixels on."""
    return shorter({key: tensor for key, tensor in tensors.items() if key not in ("test.fpn.0", "test.fpn.1")}), facts


def heads(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Files:
    """Keeps a detector from the golden feature maps on."""
    kept, facts = without_backbone(tensors, facts)
    return shorter(kept), facts


def shorter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keeps fewer RoIs and masks in testing, and only the coarser maps of the RPN."""
    fine = tuple(f"test.rpn_{kind}.{level}" for kind in ("cls", "reg") for level in range(FIRST_LEVEL))
    kept = {key: tensor for key, tensor in tensors.items() if key not in fine}
    for key, tensor in kept.items():
        if ".mask_logits." in key or key.endswith(".mask_prob"):
            kept[key] = tensor[:MASKS]
        elif key.startswith("test.roi."):
            image = tensors["test.roi.0.rois"][:, 0]
            kept[key] = torch.cat([tensor[image == i][:ROIS] for i in image.unique()])
    return kept


def stages(number: int) -> Callable[[dict[str, Tensor], dict[str, Any]], Files]:
    """Keeps a backbone's first stages and the last map of one image, without gradients."""

    def first(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Files:
        later = [f"state.layer{i + 1}." for i in range(number, 4)] + [f"state.stages.{i}." for i in range(number, 4)]
        later += [f"state.norm{i}." for i in range(number, 4)] + [f"state.stages.{number - 1}.downsample."]
        later += [f"test.out.{i}" for i in range(4) if i != number - 1] + ["train."]
        kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(tuple(later))}
        kept |= {key: tensor[:1] for key, tensor in kept.items() if key.startswith(("input.", "test.out."))}
        return kept, {key: facts[key] for key in ("name", "seed") if key in facts}

    return first


def one_channel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keeps the operators with one channel of RoIAlign; all channels are computed in the same way."""
    pooled = ("roi.feat.", "roi.out")
    return {key: tensor[:, :1].contiguous() if key.startswith(pooled) else tensor for key, tensor in tensors.items()}


KEPT = {
    "a2_mask_rcnn_normed_mask": heads,
    "a3_mask_rcnn_gumbel": whole,
    "b_cascade_mask_rcnn": heads,
    "c_htc": heads,
    "d_resnext": stages(1),
    "d_swin": stages(3),
}
"""The function for each file. The plain softmax Mask R-CNN is left out: the first two files have all of its parts."""
OPERATORS = "e_ops"
FRACAL = "2024/k_fracal.safetensors"


def fracal(source: Path) -> dict[str, Tensor]:
    """Keeps two regions of each form with their scores, and the counts of the authors' statistics."""
    tensors = load_file(source / FRACAL)
    statistics = json.loads((source.parent / "data/lvis/lvis_v1_fractal.json").read_text())
    kept = {key: tensor for key, tensor in tensors.items() if "variant" not in key}
    kept |= {key: tensor[:2] for key, tensor in kept.items() if tensor.ndim == 2}
    kept["image_counts"] = torch.tensor([each["image_frequency"] for each in statistics["categories"]])
    kept["num_images"] = torch.tensor(statistics["num_images"])
    return kept


def activations(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keeps every fourth z, without the wrong derivative and those in float32."""
    kept = {key: t[::4] if t.ndim == 3 or key == "z" else t for key, t in tensors.items()}
    dropped = ("classification.", "float32.unified.d_", "float32.unirect.d_")
    return {key: t for key, t in kept.items() if not key.startswith(dropped)}


def starting(*prefixes: str, without: tuple[str, ...] = ()) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Keeps the tensors whose names start so, but those that contain another text."""

    def choose(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: tensor
            for key, tensor in tensors.items()
            if key.startswith(prefixes) and not any(part in key for part in without)
        }

    return choose


PARTS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "f2_se_resnet_aglu": lambda tensors: {
        key: t for key, t in stages(1)(tensors, {})[0].items() if not key.startswith(("test.stem", "test.layer1"))
    },
    "g_activations": activations,
    "h_droploss": starting("frequency", "foreground_only.", "all_tail_foreground.", without=("dropped", "float64")),
    "i_predictors": lambda tensors: {
        key: t for key, t in tensors.items() if ".float64." in key or not key.split(".")[1].startswith(("d_", "out"))
    },
    "j_carafe": starting("carafe.", without=("encoded", "kernels")),
    "j2_mask_head_carafe": lambda tensors: {
        key: t for key, t in tensors.items() if key not in ("test.upsampled", "test.logits")
    },
}
"""What is kept of each file of the authors' later code, in the folder 2024."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 2
    source, out = map(Path, arguments)
    out.mkdir(parents=True, exist_ok=True)
    for name, trim in KEPT.items():
        facts = json.loads((source / f"{name}.json").read_text())
        tensors, facts = trim(load_file(source / f"{name}.safetensors"), facts)
        save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, out / f"{name}.safetensors")
        (out / f"{name}.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n")
    save_file(one_channel(load_file(source / f"{OPERATORS}.safetensors")), out / f"{OPERATORS}.safetensors")
    (out / FRACAL).parent.mkdir(exist_ok=True)
    save_file({key: tensor.clone() for key, tensor in fracal(source).items()}, out / FRACAL)
    for name, choose in PARTS.items():
        kept = choose(load_file(source / f"2024/{name}.safetensors"))
        save_file({key: tensor.contiguous().clone() for key, tensor in kept.items()}, out / f"2024/{name}.safetensors")
        facts = json.loads((source / f"2024/{name}.json").read_text())
        names = {key: facts[key] for key in ("grad_names",) if key in facts and name.startswith("j2")}
        (out / f"2024/{name}.json").write_text(json.dumps(names, separators=(",", ":")) + "\n")
    print(f"{sum(path.stat().st_size for path in out.rglob('*') if path.is_file()):,} bytes in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
