"""Golden files of single parts, made by the code of GOL's authors after 2022: AGLU/APA and FRACAL.

Each function measures one file; benchmarks/parity.py prints the table. "Of scale" as in parity.py.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tailseg.detection.calibration import adjust_logits, fracal_offsets, fracal_sigmoid_scores
from tailseg.interop.mmdet_weights import RULES, TEMPERATURE, to_mmdet
from tailseg.interop.rules import find_our_name
from tailseg.losses.drop_loss import DropLoss
from tailseg.losses.links import _APAOf
from tailseg.models.activations import LEAST_LAMBDA, aglu, apa
from tailseg.models.carafe import CARAFE
from tailseg.models.config import MaskHeadConfig, NormalizedConfig, WrappedCauchyConfig
from tailseg.models.mask_head import MaskHead
from tailseg.models.predictors import NormalizedLinear, WrappedCauchyLinear, normalized_class_map
from tailseg.structures import ClassFrequency

from .parity import LIMIT, Difference, compare_gradients, of_scale

Tensors = Mapping[str, Tensor]
FLOAT64 = 1e-10
"""Of scale; their activations end log sigmoid at -20, 2e-9 early, and the largest values are the farthest out."""
SLOPES = ("d_z", "d_lambda", "d_kappa")


def measure_part(folder: Path, name: str) -> list[Difference]:
    """Every stage of a golden file of a part."""
    tensors = load_file(folder / f"{name}.safetensors")
    return next(measure for mark, measure in MEASURES.items() if mark in tensors)(tensors, folder / name)


def activations(tensors: Tensors, _: Path) -> list[Difference]:
    """APA and AGLU on a grid of z, lambda and kappa, with the derivatives of each element; APA as a link too."""
    found = []
    for dtype, prefix, limit in ((torch.float64, "", FLOAT64), (torch.float32, "float32.", LIMIT)):
        axes = [tensors[key].to(dtype) for key in ("z", "lambda", "kappa")]
        grid = [axis.contiguous().requires_grad_() for axis in torch.meshgrid(*axes, indexing="ij")]
        for function, theirs in ((apa, "unified"), (aglu, "unirect")):
            value = function(grid[0], grid[1].clamp(min=LEAST_LAMBDA), grid[2])
            slopes = torch.autograd.grad(value.sum(), grid)
            # in float32, their own derivative by lambda lost its digits: ours is compared with theirs in float64
            pairs = [(value, tensors[f"{prefix}{theirs}.value"])]
            pairs += [(ours, tensors[f"{theirs}.{kind}"].to(dtype)) for kind, ours in zip(SLOPES, slopes, strict=True)]
            title = f"{'APA' if function is apa else 'AGLU'}, {str(dtype).removeprefix('torch.')}"
            found.append(Difference(f"{title}: values", "of scale", of_scale(pairs[:1]), limit))
            found.append(Difference(f"{title}: three derivatives", "of scale", of_scale(pairs[1:]), limit))
    return [*found, _link(tensors)]


def _link(tensors: Tensors) -> Difference:
    """The link on the grid's rising part, kappa above 0."""
    lambdas, kappas = tensors["lambda"] > LEAST_LAMBDA, tensors["kappa"] > 0
    axes = (tensors["z"], tensors["lambda"][lambdas], tensors["kappa"][kappas])
    grid = [axis.contiguous().requires_grad_() for axis in torch.meshgrid(*axes, indexing="ij")]
    value = _APAOf(grid[1], grid[2], learns=True).probability(grid[0])
    slopes = torch.autograd.grad(value.sum(), grid)
    names = ("value", *SLOPES)
    pairs = [
        (ours, tensors[f"unified.{kind}"][:, lambdas][:, :, kappas])
        for kind, ours in zip(names, (value, *slopes), strict=True)
    ]
    return Difference("APA as a link: values, derivatives", "of scale", of_scale(pairs), FLOAT64)


def drop_loss(tensors: Tensors, _: Path) -> list[Difference]:
    """Their loss, gradient and scores with their draws, in each case that the file has."""
    counts = (tensors["frequency"].double() * 99_388).round().long()
    frequency = ClassFrequency.from_counts(counts, counts, 99_388)
    losses, gradients, scores = [], [], []
    cases = [key.removesuffix(".logits") for key in tensors if key.endswith(".logits")]
    for case in cases:
        draws = (tensors[f"{case}.draws"] - 2**15).to(torch.int16)
        labels = tensors[f"{case}.labels"]
        for link in ("gumbel", "sigmoid"):
            loss = DropLoss(frequency, tail=0.0011, link=link, published="2024")
            logits = tensors[f"{case}.logits"].clone().requires_grad_()
            with mock.patch("tailseg.losses.drop_loss.draw_uniform", lambda *_, draws=draws: draws):
                value = loss(logits, labels)["loss_cls"]
            losses.append((value[None], tensors[f"{case}.{link}.loss"]))
            if f"{case}.{link}.grad" in tensors:
                (gradient,) = torch.autograd.grad(value, logits)
                gradients.append((gradient, tensors[f"{case}.{link}.grad"]))
            if f"{case}.{link}.scores" in tensors:
                scores.append((loss.scores(logits.detach()), tensors[f"{case}.{link}.scores"][:, :-1]))
    return [
        Difference("DropLoss 2024: losses", "of scale", of_scale(losses), 1e-6),
        Difference("DropLoss 2024: gradients", "of scale", of_scale(gradients), 1e-6),
        Difference("DropLoss 2024: scores", "of scale", of_scale(scores), 1e-6),
    ]


def predictors(tensors: Tensors, _: Path) -> list[Difference]:
    """The normalized predictors with a fixed and a learned temperature, and the wrapped Cauchy classifier."""
    found = []
    for title, start in PREDICTORS.items():
        keys = sorted({key.split(".")[0] for key in tensors if key.startswith(start)})
        for dtype, prefix, limit in ((torch.float64, "float64.", 1e-12), (torch.float32, "", LIMIT)):
            if f"{keys[0]}.{prefix}output" not in tensors:
                continue
            pairs = [pair for key in keys for pair in _predictor(tensors, key, prefix, dtype)]
            kind = str(dtype).removeprefix("torch.")
            found.append(Difference(f"{title}, {kind}: outputs, gradients", "of scale", of_scale(pairs), limit))
    return found


PREDICTORS = {
    "normalized mask predictor": "normed_conv",
    "normalized classifier": "normed_linear",
    "wrapped Cauchy classifier": "wc_linear",
}
"""What the names in the file begin with: a predictor with a fixed and one with a learned factor."""
PARAMETERS = {TEMPERATURE: "temperature", "s_": "scale"}
"""Our names of their parameters."""


def _predictor(tensors: Tensors, key: str, prefix: str, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """The output, and the gradients of its sum with the cotangent."""
    state = {k.removeprefix(f"{key}.state."): v.to(dtype) for k, v in tensors.items() if k.startswith(f"{key}.state.")}
    x = tensors[f"{key}.input"].to(dtype).requires_grad_()
    learned = TEMPERATURE in state or "s_" in state
    classes, features = state["weight"].shape[:2]
    if key.startswith("wc"):
        layer: nn.Module = WrappedCauchyLinear(features, classes, WrappedCauchyConfig(learned=learned))
    else:
        layer = NormalizedLinear(features, classes, NormalizedConfig(learned=learned))
    layer = layer.to(dtype)
    layer.load_state_dict(
        {PARAMETERS.get(name, name): value.flatten(1) if name == "weight" else value for name, value in state.items()}
    )
    forward: Callable[[Tensor], Tensor] = _as_map(layer) if "conv" in key else layer
    out = forward(x)
    names = [name for name, _ in layer.named_parameters()]
    grads = torch.autograd.grad(
        (out * tensors[f"{key}.cotangent"].to(dtype)).sum(), (x, *(layer.get_parameter(name) for name in names))
    )
    theirs = {ours: name for name, ours in PARAMETERS.items()}
    pairs = [(out, tensors[f"{key}.{prefix}output"])]
    for name, grad in zip(("input", *names), grads, strict=True):
        golden = tensors[f"{key}.{prefix}d_{theirs.get(name, name)}"]
        pairs.append((grad.view(golden.shape), golden))
    return pairs


def _as_map(layer: NormalizedLinear) -> Callable[[Tensor], Tensor]:
    """The mask predictor on maps [N, K, H, W]: each class's channel as the mask head computes it."""

    def forward(x: Tensor) -> Tensor:
        rows, side = len(x), x.shape[2:]
        positions = x.flatten(2).transpose(1, 2)
        temperature = None if layer.temperature is None else layer.temperature.square()
        channels = [
            normalized_class_map(positions, layer.weight, layer.bias, torch.full((rows,), c), layer.config, temperature)
            for c in range(len(layer.bias))
        ]
        return torch.stack(channels, 1).unflatten(2, side)

    return forward


def carafe(tensors: Tensors, _: Path) -> list[Difference]:
    """The weights, the output, and the gradients."""
    weights, outputs, gradients = [], [], []
    for key, groups in (("carafe", 1), ("carafe_two_groups", 2)):
        if f"{key}.input" not in tensors:
            continue
        channels = tensors[f"{key}.input"].shape[1]
        layer = CARAFE(channels, compressed=4, groups=groups).double()
        names = [name for name, _ in layer.named_parameters()]
        layer.load_state_dict({name: tensors[f"{key}.state.{name}"] for name in names})
        x = tensors[f"{key}.input"].clone().requires_grad_()
        w = layer.weights(x).detach()
        n, g, taps, _, h, width = w.shape
        shuffled = w.view(n, g, taps, 2, 2, h, width).permute(0, 1, 2, 5, 3, 6, 4).reshape(n, g, taps, 2 * h, 2 * width)
        if f"{key}.kernels" in tensors:
            weights.append((shuffled, tensors[f"{key}.kernels"]))
        out = layer(x)
        outputs.append((out, tensors[f"{key}.output"]))
        grads = torch.autograd.grad((out * tensors[f"{key}.cotangent"]).sum(), (x, *layer.parameters()))
        golden = [tensors[f"{key}.d_{name}"] for name in ("input", *names)]
        gradients += list(zip(grads, golden, strict=True))
    stages = {"weights": weights, "outputs": outputs, "gradients": gradients}
    return [
        Difference(f"CARAFE, float64: {title}", "of scale", of_scale(pairs), 1e-12)
        for title, pairs in stages.items()
        if pairs
    ]


class _Holder(nn.Module):
    """A mask head by the name that it has in a detector."""

    def __init__(self, head: MaskHead) -> None:
        super().__init__()
        self.mask_head = head


def mask_head(tensors: Tensors, file: Path) -> list[Difference]:
    """From RoI features to logits, the loss and its gradients."""
    names = json.loads(file.with_suffix(".json").read_text())["grad_names"]
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    classes, channels = state["roi_head.mask_head.conv_logits.weight"].shape[:2]
    learned = f"roi_head.mask_head.conv_logits.{TEMPERATURE}" in state
    compressor = state.get("roi_head.mask_head.upsample.channel_compressor.bias")
    config = MaskHeadConfig(
        channels=channels,
        upsample="deconvolution" if compressor is None else "carafe",
        normalized=NormalizedConfig(learned=learned),
    )
    model = _Holder(MaskHead(channels, classes, config))
    if compressor is not None:
        model.mask_head.upsample = CARAFE(channels, compressed=len(compressor))
    ours = model.state_dict()
    model.load_state_dict({find_our_name(key, RULES, ours): value for key, value in state.items()})  # ty: ignore
    head, labels, pooled = model.mask_head, tensors["input.labels"], tensors["input.roi_features"]
    targets = tensors["input.targets"].float()
    with torch.no_grad():
        theirs = tensors["test.features"]
        each = [head.predict(theirs, torch.full_like(labels, c)) for c in range(classes)]
        stages = {
            "features": head.features(pooled),
            "upsampled": head.upsample(theirs),
            "logits": torch.stack(each, 1),
            "logits_of_label": head.predict(theirs, labels),
        }

    def loss() -> Tensor:
        return F.binary_cross_entropy_with_logits(head.predict(head.features(pooled), labels), targets)

    def gradients(total: Tensor) -> Tensors:
        model.zero_grad()
        total.backward(retain_graph=True)
        return to_mmdet({key: p.grad for key, p in model.named_parameters() if p.grad is not None}).state

    expected = float(tensors["train.loss_mask"])
    value = abs(float(loss().detach()) - expected) / expected
    return [
        *(
            Difference(f"mask head: {stage}", "of scale", of_scale([(ours, tensors[f"test.{stage}"])]), LIMIT)
            for stage, ours in stages.items()
            if f"test.{stage}" in tensors
        ),
        Difference("mask loss", "relative", value, LIMIT),
        *compare_gradients(loss, gradients, tensors, names),
    ]


def fracal(tensors: Tensors, file: Path) -> list[Difference]:
    """FRACAL's scores from their frequencies and dimensions, with both activations."""
    counts, num_images = find_counts(tensors, file.parents[2])
    dimensions = tensors["sigmoid.dimensions"]
    softmax, sigmoid = [], []
    for strength in (0.0, 1.0, 2.0):
        offsets = fracal_offsets(counts, dimensions, num_images=num_images, strength=strength)
        suffix = "" if strength == 2 else f".strength_{strength:.0f}"
        theirs = tensors[f"softmax.scores{suffix}"]
        logits = tensors["softmax.logits"][: len(theirs)]
        softmax.append((adjust_logits(logits, offsets).softmax(1), theirs))
        theirs = tensors[f"sigmoid.scores{suffix}"][:, :-1]
        logits = tensors["sigmoid.logits"][: len(theirs)]
        ours = fracal_sigmoid_scores(logits, counts, dimensions, num_images=num_images, strength=strength)
        sigmoid.append((ours, theirs))
    return [
        Difference("FRACAL scores of a softmax", "of scale", of_scale(softmax), 1e-5),
        Difference("FRACAL scores of sigmoids", "of scale", of_scale(sigmoid), 1e-5),
    ]


def find_counts(tensors: Tensors, shared: Path) -> tuple[Tensor, int]:
    """The training images of each class and of all, from the file or the authors' statistics next to the full files."""
    if "image_counts" in tensors:
        return tensors["image_counts"], int(tensors["num_images"])
    statistics = json.loads((shared / "data/lvis/lvis_v1_fractal.json").read_text())
    return torch.tensor([each["image_frequency"] for each in statistics["categories"]]), statistics["num_images"]


MEASURES: dict[str, Callable[[Tensors, Path], list[Difference]]] = {
    "unified.value": activations,
    "frequency": drop_loss,
    "normed_linear.input": predictors,
    "carafe.input": carafe,
    "test.logits_of_label": mask_head,
    "softmax.logits": fracal,
}
"""By a tensor that only this kind of file has."""
