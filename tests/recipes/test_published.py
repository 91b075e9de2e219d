"""Every published configuration is there, with the settings that its name and its folder stand for.

The lists and the settings are written down here from the published configurations, not from the recipes' code.
"""

import pytest
import torch

from tailseg.losses import (
    ClassRelativeLossConfig,
    DropLossConfig,
    ECMLossConfig,
    EQLConfig,
    EQLv2Config,
    GumbelCEConfig,
    SeesawLossConfig,
    SigmoidCEConfig,
    SoftmaxCEConfig,
    build_loss,
)
from tailseg.models import (
    BoxHeadConfig,
    CascadeConfig,
    CascadeStageConfig,
    GroupedConfig,
    HTCConfig,
    RPNConfig,
    build_detector,
)
from tailseg.models.config import MaskHeadConfig, NormalizedConfig, ResNetConfig, SwinConfig
from tailseg.recipes import RECIPES, AdamWConfig, SGDConfig, get_recipe
from tailseg.recipes.activations import ACTIVATIONS
from tailseg.recipes.gol import GOL
from tailseg.recipes.published import PUBLISHED
from tailseg.structures import ClassFrequency

ACTIVATION_NAMES = {
    *(
        f"{loss}_mask_rcnn_r50_{sampling}_{schedule}"
        for loss in ("sigmoid", "softmax", "gumbel")
        for sampling in ("random", "rfs")
        for schedule in ("1x", "2x")
    ),
    "gumbel_mask_rcnn_r50_lvis05_random_1x",
    "gumbel_mask_rcnn_r50_lvis05_random_2x",
    "softmax_mask_rcnn_r50_lvis05_rfs_2x",
    *(f"{loss}_mask_rcnn_r101_random_1x" for loss in ("sigmoid", "softmax", "gumbel")),
    "softmax_mask_rcnn_r101_rfs_2x",
    *(f"{loss}_mask_rcnn_x101_64x4d_random_1x" for loss in ("sigmoid", "softmax", "gumbel")),
    "class_relative_mask_rcnn_r50_random_1x",
    "gumbel_faster_rcnn_r50_lvis05_random_1x",
    *(f"{loss}_cascade_mask_rcnn_r101_random_1x" for loss in ("sigmoid", "softmax", "gumbel")),
    *(f"{loss}_htc_r101_random_1x" for loss in ("softmax", "gumbel")),
}
GOL_NAMES = {
    *(f"gol_mask_rcnn_{depth}_{sampling}_2x" for depth in ("r50", "r101") for sampling in ("random", "rfs")),
    "gol_mask_rcnn_r50_lvis05_rfs_2x",
    "gol_mask_rcnn_swin_t_rfs_1x",
    "gol_mask_rcnn_swin_t_rfs_3x",
    "droploss_sigmoid_mask_rcnn_r50_random_1x",
    "droploss_gumbel_mask_rcnn_r50_random_1x",
    "droploss_gumbel_mask_rcnn_r50_random_2x",
    *(f"eql_sigmoid_mask_rcnn_r50_{rest}" for rest in ("random_1x", "random_2x", "rfs_2x")),
    *(f"eql_gumbel_mask_rcnn_r50_{rest}" for rest in ("random_2x", "rfs_2x")),
    *(f"eql_gumbel_mask_rcnn_r50_normmask_{rest}" for rest in ("random_2x", "rfs_2x")),
    *(f"eql_gumbel_mask_rcnn_{rest}" for rest in ("r50_normboth_random_1x", "r50_normboth_rfs_2x")),
    "eql_gumbel_mask_rcnn_r101_normboth_rfs_2x",
}
LATER_NAMES = {
    *(f"gol_mask_rcnn_se_{depth}_aglu_rfs_2x" for depth in ("r50", "r101")),
    *(f"fracal_mask_rcnn_{depth}_rfs_2x" for depth in ("r50", "r101")),
}
RIVAL_NAMES = {
    "seesaw_mask_rcnn_r50_normboth_random_2x",
    *(f"seesaw_{model}_normboth_rfs_2x" for model in ("mask_rcnn_r50", "mask_rcnn_r101", "cascade_mask_rcnn_r101")),
    "eqlv2_mask_rcnn_r50_random_1x",
    *(f"ecm_mask_rcnn_{rest}" for rest in ("r50_normboth_rfs_1x", "r50_normboth_rfs_2x", "r101_normboth_rfs_2x")),
}
NAMES = sorted(ACTIVATION_NAMES | GOL_NAMES)

EXACT = [name for name, published in PUBLISHED.items() if published.figures and not published.figures.approximate]
SCHEDULES = {"1x": (12, (8, 11)), "2x": (24, (16, 22)), "3x": (36, (27, 33))}
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
STAGES = (
    CascadeStageConfig(positive_iou=0.6, target_stds=STDS[1], loss_weight=0.5),
    CascadeStageConfig(positive_iou=0.7, target_stds=STDS[2], loss_weight=0.25),
)


def test_both_folders_are_whole():
    assert {make().name for make in ACTIVATIONS} == ACTIVATION_NAMES
    assert {make().name for make in GOL} == GOL_NAMES
    assert (len(ACTIVATIONS), len(GOL)) == (29, 20)
    assert all(make.__name__ == make().name for make in RECIPES.values())


def test_every_published_recipe_names_another_file_of_its_folder():
    assert PUBLISHED.keys() == ACTIVATION_NAMES | GOL_NAMES | LATER_NAMES | RIVAL_NAMES
    assert all(PUBLISHED[name].file.startswith("activations/") for name in ACTIVATION_NAMES)
    assert all(PUBLISHED[name].file.startswith("gol/") for name in GOL_NAMES)
    assert len({published.file for published in PUBLISHED.values()}) == len(NAMES) + 4 + len(RIVAL_NAMES)


@pytest.mark.parametrize("name", sorted(LATER_NAMES))
def test_the_later_rows(name):
    """The settings of the authors' pages of 2024 and 2025, written down from them."""
    recipe = get_recipe(name)
    model = recipe.model
    depth, is_fracal = 101 if "r101" in name else 50, name.startswith("fracal")
    assert recipe.optim == SGDConfig(epochs=24, milestones=(16, 22))
    assert (recipe.data.train, recipe.data.repeat_threshold) == ("lvis_v1_train.json", 1e-3)
    assert (model.postprocess.nms_iou, model.postprocess.mask_threshold) == (0.3, 0.4)
    assert (model.postprocess.score_threshold, model.postprocess.max_detections) == (1e-4, 300)
    assert model.backbone.depth == depth
    assert (model.backbone.activation, model.backbone.se is None) == ("relu" if is_fracal else "aglu", is_fracal)
    assert model.mask.upsample == ("deconvolution" if name == "gol_mask_rcnn_se_r101_aglu_rfs_2x" else "carafe")
    learned = depth == 50
    assert model.mask.normalized == NormalizedConfig(temperature=20.25 if learned else 20.0, learned=learned)
    assert model.box.normalized == (NormalizedConfig(temperature=20.0) if is_fracal else None)
    assert recipe.loss == (SoftmaxCEConfig() if is_fracal else DropLossConfig(tail=0.0011))


@pytest.mark.parametrize("name", sorted(RIVAL_NAMES))
def test_the_rivals(name):
    """The settings of the other authors' files, written down from them."""
    recipe = get_recipe(name)
    model, optim = recipe.model, recipe.optim
    losses = {"seesaw": SeesawLossConfig(), "eqlv2": EQLv2Config(), "ecm": ECMLossConfig(init_bias=0.0)}
    start = name.split("_", 1)[0]
    assert recipe.loss == losses[start]
    sampled = 0.0 if "random" in name else 1e-3
    assert (recipe.data.train, recipe.data.repeat_threshold) == ("lvis_v1_train.json", sampled)
    assert recipe.data.batch_size == 16
    epochs = 12 if name.endswith("1x") else 24
    milestones = (8, 11) if epochs == 12 else (20, 22) if start == "ecm" else (16, 22)
    assert (optim.epochs, optim.milestones, optim.lr) == (epochs, milestones, 0.02)
    warmup = (10_000, 1e-4, 5.0) if start == "ecm" else (500, 0.001, None)
    assert (optim.warmup_iterations, optim.warmup_ratio, optim.clip_norm) == warmup
    assert model.backbone == ResNetConfig(depth=101 if "r101" in name else 50)
    normalized = None if start == "eqlv2" else NormalizedConfig(temperature=20.0)
    assert (model.box.normalized, model.mask.normalized) == (normalized, normalized)
    assert model.box.first_weights == "xavier"
    assert (model.box.class_agnostic, model.cascade is not None) == (("cascade" in name),) * 2
    assert (model.postprocess.nms_iou, model.postprocess.mask_threshold) == (0.5, 0.5)
    assert (model.postprocess.score_threshold, model.postprocess.max_detections) == (1e-4, 300)


@pytest.mark.parametrize("name", EXACT)
def test_the_docstring_says_what_was_published(name):
    figures = PUBLISHED[name].figures
    assert figures is not None
    rare = "" if figures.apr is None else f", APr {figures.apr}"
    assert f"Published AP {figures.ap}{rare}." in (RECIPES[name].__doc__ or "")


@pytest.mark.parametrize("name", NAMES)
def test_data_and_schedule(name):
    recipe = get_recipe(name)
    data, optim = recipe.data, recipe.optim
    version = "v0.5" if "lvis05" in name else "v1"
    assert (data.train, data.val) == (f"lvis_{version}_train.json", f"lvis_{version}_val.json")
    assert data.repeat_threshold == (1e-3 if "_rfs_" in name else 0.0)
    assert data.repeat_rounding == "ceil"
    assert (data.batch_size, data.max_long_side, data.test_short_side, data.flip) == (16, 1333, 800, 0.5)
    assert (optim.epochs, optim.milestones) == SCHEDULES[name.rsplit("_", 1)[1]]
    assert (optim.gamma, optim.warmup_ratio, optim.clip_norm, optim.accumulation_steps) == (0.1, 0.001, None, 1)
    assert recipe.run.precision == "float32"
    if "swin" in name:
        assert isinstance(optim, AdamWConfig)
        assert (optim.lr, optim.weight_decay, optim.warmup_iterations) == (1e-4, 0.05, 1000)
        assert data.short_sides == tuple(range(480, 801, 32))
        assert data.crop is not None
        crop = data.crop
        assert (crop.probability, crop.short_sides, crop.least, crop.most) == (0.5, (400, 500, 600), 384, 600)
    else:
        assert isinstance(optim, SGDConfig)
        assert (optim.lr, optim.momentum, optim.weight_decay, optim.warmup_iterations) == (0.02, 0.9, 1e-4, 500)
        assert data.short_sides == (640, 672, 704, 736, 768, 800)
        assert data.crop is None


@pytest.mark.parametrize("name", NAMES)
def test_loss(name):
    tail = 0.00177 if "lvis05" in name else 0.0011
    by_start = {
        "gumbel": GumbelCEConfig(),
        "sigmoid": SigmoidCEConfig(background=True),
        "softmax": SoftmaxCEConfig(),
        "class_relative": ClassRelativeLossConfig(),
        "gol": DropLossConfig(tail=tail, link="gumbel"),
        "droploss_gumbel": DropLossConfig(tail=tail, link="gumbel"),
        "droploss_sigmoid": DropLossConfig(tail=tail, link="sigmoid"),
        "eql_gumbel": EQLConfig(tail=tail, link="gumbel"),
        "eql_sigmoid": EQLConfig(tail=tail, link="sigmoid"),
    }
    (expected,) = [loss for start, loss in by_start.items() if name.startswith(f"{start}_")]
    assert get_recipe(name).loss == expected


@pytest.mark.parametrize("name", NAMES)
def test_backbone(name):
    backbone = get_recipe(name).model.backbone
    if "swin_t" in name:
        assert backbone == SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, drop_path=0.2)
    else:
        grouped = GroupedConfig(groups=64, width=4) if "x101_64x4d" in name else None
        assert backbone == ResNetConfig(depth=50 if "_r50_" in name else 101, grouped=grouped, frozen_stages=1)
    assert backbone.weights == "imagenet"


@pytest.mark.parametrize("name", NAMES)
def test_heads(name):
    model = get_recipe(name).model
    cascaded = "_cascade_" in name or "_htc_" in name
    proposals = {"train_post_nms": 2000, "border": 0.0, "smooth_l1_beta": 1 / 9} if cascaded else {}
    assert model.rpn == RPNConfig(**proposals)
    boxes = {"class_agnostic": True, "smooth_l1_beta": 1.0} if cascaded else {}
    assert model.box == BoxHeadConfig(
        allow_low_quality_matches="_cascade_" not in name,
        target_stds=STDS[0],
        classifier_weight=0.01 if name.startswith("droploss_sigmoid") else 0.001,
        normalized=NormalizedConfig(temperature=5.0) if "normboth" in name else None,
        **boxes,
    )
    normalized = name.startswith("gol_") or "norm" in name
    mask = MaskHeadConfig(normalized=NormalizedConfig(temperature=20.0) if normalized else None)
    assert model.mask == (None if "faster" in name else mask)
    if "_cascade_" in name:
        assert model.cascade == CascadeConfig(STAGES)
    else:
        assert model.cascade == (HTCConfig(STAGES, test_masks="mean") if "_htc_" in name else None)


@pytest.mark.parametrize("name", NAMES)
def test_detections(name):
    over_gumbel = name in GOL_NAMES and "sigmoid" not in name
    test = get_recipe(name).model.postprocess
    assert test.nms_iou == (0.3 if over_gumbel else 0.5)
    assert (test.score_threshold, test.max_detections, test.mask_threshold) == (1e-4, 300, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_at_full_size(name):
    """Without memory: the network on LVIS has as many logits, boxes and masks as its published checkpoint."""
    classes = 1230 if "lvis05" in name else 1203
    counts = torch.arange(1, classes + 1)
    recipe = get_recipe(name)
    loss = build_loss(recipe.loss, ClassFrequency.from_counts(counts, counts, 99_388))
    with torch.device("meta"):
        model = build_detector(recipe.model, loss, load_weights=False)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    logits = classes + (not isinstance(recipe.loss, DropLossConfig | EQLConfig))
    cascaded = recipe.model.cascade is not None
    found = [shape for key, shape in shapes.items() if key.endswith("classifier.weight")]
    assert found == [(logits, 1024)] * (3 if cascaded else 1)
    found = [shape for key, shape in shapes.items() if key.endswith("regressor.weight")]
    assert found == ([(4, 1024)] * 3 if cascaded else [(4 * classes, 1024)])
    masks = [shape for key, shape in shapes.items() if "mask" in key and key.endswith("predictor.weight")]
    assert [shape[:2] for shape in masks] == ([] if "faster" in name else [(classes, 256)] * (3 if cascaded else 1))
