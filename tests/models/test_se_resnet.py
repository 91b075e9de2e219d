"""SE-ResNet with AGLU and APA, CARAFE, learned temperatures: training, freezing, files. Values: tests/parity."""

import argparse
from dataclasses import replace

import pytest
import torch
from torch import nn

from tailseg.losses import SoftmaxCE
from tailseg.models import ModelConfig, ResNetConfig, SEConfig, build_detector, load_backbone
from tailseg.models.activations import AGLU, APA
from tailseg.models.backbones import build_backbone
from tailseg.models.carafe import CARAFE
from tailseg.models.config import BoxHeadConfig, MaskHeadConfig, NormalizedConfig, WrappedCauchyConfig
from tailseg.models.mask_head import CHUNK, MaskHead
from tailseg.models.optimize import fold_norms
from tailseg.models.optimizers import build_adamw
from tailseg.models.predictors import NormalizedLinear

ADAPTIVE = ResNetConfig(
    depth=18, base_width=16, activation="aglu", se=SEConfig(gate="apa", reduction=4), weights="none", frozen_stages=0
)
IMAGES = torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize(
    ("depth", "activation", "gate"), [(18, "silu", "apa"), (18, "aglu", "sigmoid"), (50, "aglu", "apa")]
)
def test_trains_every_parameter(depth, activation, gate):
    config = replace(ADAPTIVE, depth=depth, base_width=4, activation=activation, se=SEConfig(gate=gate, reduction=4))
    backbone = build_backbone(config)
    maps = backbone(IMAGES)
    assert [m.shape[1] for m in maps] == list(backbone.out_channels)
    torch.stack([m.square().mean() for m in maps]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_frozen_stages_freeze_the_stems_activation_and_the_dropout():
    """The authors' code trains the two numbers of the stem's AGLU, and so keeps the maps of the frozen stage."""
    backbone = build_backbone(replace(ADAPTIVE, frozen_stages=1)).train()
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {"act.raw_lambda", "act.kappa", "layer1.0.act1.kappa", "layer1.0.se.gate.kappa"} <= frozen
    dropouts = {name: m.training for name, m in backbone.named_modules() if isinstance(m, nn.Dropout)}
    assert dropouts == {name: not name.startswith("layer1") for name in dropouts}
    assert not backbone(IMAGES)[0].requires_grad


def test_blocks_that_run_twice_drop_the_same(monkeypatch):
    backbone = build_backbone(ADAPTIVE)
    twice = build_backbone(replace(ADAPTIVE, checkpoint_blocks=True))
    twice.load_state_dict(backbone.state_dict())
    gradients = []
    for module in (backbone, twice):
        torch.manual_seed(0)
        loss = torch.stack([m.square().mean() for m in module.train()(IMAGES)]).sum()
        gradients.append(torch.autograd.grad(loss, tuple(module.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_folded_norms_change_nothing():
    backbone = build_backbone(ADAPTIVE).eval()
    before = backbone(IMAGES)
    fold_norms(backbone)
    for ours, theirs in zip(backbone(IMAGES), before, strict=True):
        torch.testing.assert_close(ours, theirs)


def to_published(state):
    """The state dict in the authors' names, with a classifier."""
    names = {
        "act.": "relu.",
        ".act": ".unirect",
        ".se.gate.": ".se.uniact.",
        ".fc1.": ".excitation.0.",
        ".fc2.": ".excitation.2.",
        "raw_lambda": "lambda_param",
        "kappa": "kappa_param",
    }
    published = {}
    for key, value in state.items():
        for ours, theirs in names.items():
            if not (ours == "act." and not key.startswith(ours)):
                key = key.replace(ours, theirs)
        published[key] = value
    return {**published, "fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}


@pytest.mark.parametrize("wrapped", ["model", "state_dict", "module", None])
def test_reads_the_authors_imagenet_files(tmp_path, wrapped):
    """Their training script puts the tensors under ``model``, next to its options."""
    saved = build_backbone(ADAPTIVE)
    state = to_published(saved.state_dict())
    assert {"relu.lambda_param", "layer1.0.unirect1.kappa_param", "layer2.0.se.excitation.2.weight"} <= state.keys()
    if wrapped == "module":
        state = {f"module.{name}": value for name, value in state.items()}
    content = (
        {wrapped: state, "args": argparse.Namespace(lr=0.1), "epoch": 99}
        if wrapped in ("model", "state_dict")
        else state
    )
    torch.save(content, tmp_path / "aglu.pth")
    loaded = build_backbone(ADAPTIVE)
    load_backbone(loaded, str(tmp_path / "aglu.pth"))
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_refuses_files_that_do_not_fit(tmp_path):
    state = to_published(build_backbone(ADAPTIVE).state_dict())
    damaged = {name: value for name, value in state.items() if "se.uniact" not in name}
    for name, content, message in (
        ("damaged", {"model": damaged}, r"missing: layer1\.0\.se\.gate\.raw_lambda.* and 11 more"),
        ("other", {"model": {"embeddings.weight": torch.zeros(3)}}, r"missing: conv1\.weight"),
        ("plain", build_backbone(replace(ADAPTIVE, se=None, activation="relu")).state_dict(), r"missing: .*act"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=rf"does not fit an? SE-ResNet-18.*with aglu and apa gates: {message}"):
            load_backbone(build_backbone(ADAPTIVE), str(tmp_path / f"{name}.pth"))
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="not a state dict of tensors"):
        load_backbone(build_backbone(ADAPTIVE), str(tmp_path / "empty.pth"))


def test_starts_from_a_backbone_without_its_new_parts():
    """As the authors' COCO config does, from torchvision's ResNet; here from the one that tailseg carries."""
    backbone = build_backbone(replace(ADAPTIVE, base_width=32, weights="tiny"))
    start = {name: value.clone() for name, value in backbone.state_dict().items()}
    load_backbone(backbone, "tiny")
    changed = {name for name, value in backbone.state_dict().items() if not torch.equal(value, start[name])}
    assert "layer3.1.conv2.weight" in changed
    assert not {name for name in changed if ".act" in name or ".se." in name or name.startswith("act.")}


def test_names_and_kinds():
    assert ResNetConfig(activation="aglu", se=SEConfig(gate="apa")).short_name == "SE-R50-AGLU"
    assert "SE-ResNet-101" in ResNetConfig(depth=101, se=SEConfig()).description
    kinds = [type(m) for m in build_backbone(replace(ADAPTIVE, depth=50)).modules()]
    assert kinds.count(AGLU) == 49
    assert kinds.count(APA) == 16
    assert ResNetConfig(depth=152, weights="none", base_width=4).build().layer3[35] is not None


def test_adamw_applies_no_weight_decay_to_the_shapes():
    backbone = build_backbone(ADAPTIVE)
    optimizer = build_adamw(backbone, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    spared = {id(p) for p in optimizer.param_groups[1]["params"]}
    shapes = {id(p) for name, p in backbone.named_parameters() if name.endswith(("raw_lambda", "kappa"))}
    weights = {id(p) for p in backbone.parameters() if p.ndim > 1}
    assert shapes <= spared
    assert not weights & spared


def naive_carafe(layer, x):
    """Each output from its 25 taps, one by one."""
    weights = layer.weights(x)
    n, d, h, w = x.shape
    out = torch.zeros(n, d, 2 * h, 2 * w)
    for y in range(2 * h):
        for column in range(2 * w):
            for tap in range(25):
                row, col = y // 2 + tap // 5 - 2, column // 2 + tap % 5 - 2
                if 0 <= row < h and 0 <= col < w:
                    sub = 2 * (y % 2) + column % 2
                    out[:, :, y, column] += weights[:, :1, tap, sub, y // 2, column // 2] * x[:, :, row, col]
    return out


def test_carafe_against_its_taps():
    torch.manual_seed(0)
    layer = CARAFE(6, compressed=4)
    nn.init.normal_(layer.content_encoder.weight)
    for shape in ((1, 6, 3, 4), (2, 6, 1, 7), (0, 6, 3, 3)):
        x = torch.randn(shape)
        torch.testing.assert_close(layer(x), naive_carafe(layer, x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="needs odd taps and groups that divide 6 channels, got 4, 1"):
        CARAFE(6, taps=4)


def mask_head(**settings):
    return MaskHead(8, 5, MaskHeadConfig(channels=8, num_convs=1, pool_size=6, **settings))


@pytest.mark.parametrize("learned", [False, True])
def test_a_mask_head_with_carafe_is_its_parts(learned):
    """Also in bounded parts: as many RoIs as the chunks of three."""
    torch.manual_seed(0)
    head = mask_head(upsample="carafe", normalized=NormalizedConfig(temperature=20.25, learned=learned))
    x, labels = torch.randn(7, 8, 6, 6), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    up = head.upsample(x)
    features, weight = up.flatten(2), head.predictor.weight.flatten(1)[labels].unsqueeze(1)
    features = features / (features.norm(dim=1, keepdim=True) + 1e-6)
    cosines = (weight / (weight.norm(dim=2, keepdim=True) + 1e-6)) @ features
    expected = 20.25 * cosines.view(7, 12, 12) + head.predictor.bias[labels][:, None, None]
    torch.testing.assert_close(head.predict(x, labels), expected, rtol=1e-4, atol=1e-4)
    assert (head.temperature is None) != learned
    if learned:
        assert head.temperature.shape == ()
        assert head.temperature.item() == pytest.approx(4.5)


def test_many_rois_in_bounded_parts(monkeypatch):
    head = mask_head(upsample="carafe", normalized=NormalizedConfig(learned=True))
    x, labels = torch.randn(7, 8, 6, 6, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    results = []
    for size in (32, 3):
        monkeypatch.setitem(CHUNK, "cpu", size)
        out = head.predict(x, labels)
        assert out.shape == (7, 12, 12)
        parameters = [p for name, p in head.named_parameters() if not name.startswith("convs")]
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, *parameters))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_classifiers_that_learn_their_scale():
    loss = SoftmaxCE(6)
    cauchy = WrappedCauchyConfig(scale=50.0, learned=True)
    for box, name in (
        (BoxHeadConfig(hidden=8, normalized=NormalizedConfig(learned=True)), "box_head.classifier.temperature"),
        (BoxHeadConfig(hidden=8, wrapped_cauchy=cauchy), "box_head.classifier.scale"),
        (BoxHeadConfig(hidden=8, first_weights="xavier"), "box_head.classifier.bias"),
    ):
        model = build_detector(ModelConfig(backbone=replace(ADAPTIVE, base_width=4), box=box, mask=None), loss)
        assert name in dict(model.named_parameters())
    assert model.box_head.regressor.bias.eq(0).all()
    layer = NormalizedLinear(4, 3, NormalizedConfig(temperature=16.0, learned=True))
    fixed = NormalizedLinear(4, 3, NormalizedConfig(temperature=16.0))
    fixed.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = torch.randn(5, 4)
    torch.testing.assert_close(layer(x), fixed(x))
    with pytest.raises(ValueError, match="are two kinds of classifier"):
        BoxHeadConfig(normalized=NormalizedConfig(), wrapped_cauchy=WrappedCauchyConfig())
