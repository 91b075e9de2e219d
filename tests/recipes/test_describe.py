"""A recipe in the words of `tailseg recipes`."""

from dataclasses import replace

import pytest

from tailseg.models import SwinConfig, TimmConfig
from tailseg.recipes import describe, get_recipe


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gol_mask_rcnn_r50_rfs_2x", ("Mask R-CNN R50, LVIS v1", "DropLoss Gumbel", "mask", "RFS")),
        (
            "eql_gumbel_mask_rcnn_r101_normboth_rfs_2x",
            ("Mask R-CNN R101, LVIS v1", "EQL Gumbel", "both", "RFS"),
        ),
        (
            "sigmoid_mask_rcnn_x101_64x4d_random_1x",
            ("Mask R-CNN X101-64x4d, LVIS v1", "sigmoid", "", "random"),
        ),
        ("gumbel_faster_rcnn_r50_lvis05_random_1x", ("Faster R-CNN R50, LVIS v0.5", "Gumbel", "", "random")),
        ("gol_mask_rcnn_swin_t_rfs_1x", ("Mask R-CNN Swin-T, LVIS v1", "DropLoss Gumbel", "mask", "RFS")),
        ("softmax_htc_r101_random_1x", ("HTC R101, LVIS v1", "softmax", "", "random")),
        ("tiny_cascade_gumbel", ("Cascade Mask R-CNN R18, tiny_tail", "Gumbel", "", "random")),
        ("tiny_balanced_softmax", ("Mask R-CNN R18, tiny_tail", "balanced softmax", "", "random")),
        ("custom_frozen", ("Mask R-CNN tf_efficientnet_lite0, your file", "Gumbel", "", "RFS")),
        ("custom_r50", ("Mask R-CNN R50, your file", "Gumbel", "", "RFS")),
    ],
)
def test_recipes_in_words(name, words):
    recipe = get_recipe(name)
    found = (
        describe.heading(recipe),
        describe.loss(recipe.loss),
        describe.normalized(recipe.model),
        describe.sampling(recipe.data),
    )
    assert found == words


def test_backbones_of_other_sizes():
    assert describe.backbone(TimmConfig(name="convnext_tiny")) == "convnext_tiny"
    assert describe.backbone(SwinConfig(depths=(2, 2, 18, 2))) == "Swin-S"
    assert describe.backbone(SwinConfig(embed_dim=8)) == "Swin"


def test_figures_say_when_they_were_read_off_a_plot():
    assert describe.average_precision(get_recipe("gol_mask_rcnn_r101_rfs_2x")) == (
        "29.0",
        "22.8",
        "29.0",
        "31.7",
        "29.2",
    )
    assert describe.average_precision(get_recipe("gumbel_htc_r101_random_1x")) == ("≈23.3", "≈6.1", "", "", "")
    assert describe.average_precision(get_recipe("tiny_gumbel")) == ("",) * 5


def test_recipes_of_one_detector_on_one_data_set_stand_together():
    first, other, third = map(get_recipe, ("tiny_gumbel", "tiny_htc_gumbel", "tiny_softmax"))
    groups = describe.group_by_heading([first, other, third])
    assert groups == {"Mask R-CNN R18, tiny_tail": [first, third], "HTC R18, tiny_tail": [other]}
    renamed = replace(first, data=replace(first.data, train="photos/my.json"))
    assert list(describe.group_by_heading([renamed])) == ["Mask R-CNN R18, my.json"]
