"""What was published for each configuration: its file, and what it reached."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """AP on the validation set, in percent; None where none was published.

    Attributes:
        ap, apr, apc, apf: masks, over all classes and over the rare, common and frequent ones.
        apb: boxes.
        approximate: read off a plot, to within 0.1.
    """

    ap: float
    apr: float
    apc: float | None = None
    apf: float | None = None
    apb: float | None = None
    approximate: bool = False


@dataclass(frozen=True)
class Published:
    """A published configuration.

    Attributes:
        file: in the authors' public code, within its folder of configurations.
        figures: None where none were published.
    """

    file: str
    figures: Figures | None = None


PUBLISHED = {
    "gumbel_mask_rcnn_r50_random_1x": Published(
        "activations/gumbel/gumbel_r50_4x4_1x.py", Figures(19.0, 4.9, 16.8, 27.6, 19.1)
    ),
    "sigmoid_mask_rcnn_r50_random_1x": Published("activations/r50_4x4_1x.py", Figures(16.4, 0.8, 12.7, 27.3, 17.2)),
    "softmax_mask_rcnn_r50_random_1x": Published(
        "activations/r50_4x4_1x_softmax.py", Figures(15.2, 0.0, 10.6, 26.9, 16.1)
    ),
    "gumbel_mask_rcnn_r50_random_2x": Published("activations/gumbel/gumbel_r50_4x4_2x.py"),
    "sigmoid_mask_rcnn_r50_random_2x": Published("activations/r50_4x4_2x.py"),
    "softmax_mask_rcnn_r50_random_2x": Published("activations/r50_4x4_2x_softmax.py"),
    "gumbel_mask_rcnn_r50_rfs_1x": Published("activations/gumbel/gumbel_r50_rfs_4x4_1x.py"),
    "sigmoid_mask_rcnn_r50_rfs_1x": Published("activations/r50_rfs_4x4_1x.py"),
    "softmax_mask_rcnn_r50_rfs_1x": Published("activations/r50_rfs_4x4_1x_softmax.py"),
    "gumbel_mask_rcnn_r50_rfs_2x": Published("activations/gumbel/gumbel_r50_rfs_4x4_2x.py"),
    "sigmoid_mask_rcnn_r50_rfs_2x": Published("activations/r50_rfs_4x4_2x.py"),
    "softmax_mask_rcnn_r50_rfs_2x": Published("activations/r50_rfs_4x4_2x_softmax.py"),
    "gumbel_mask_rcnn_r50_lvis05_random_1x": Published("activations/gumbel/gumbel_r50_4x4_1x_lvis_v05.py"),
    "gumbel_mask_rcnn_r50_lvis05_random_2x": Published("activations/gumbel/gumbel_r50_4x4_2x_lvis_v05.py"),
    "softmax_mask_rcnn_r50_lvis05_rfs_2x": Published("activations/r50_rfs_4x4_2x_softmax_lvisv0.5.py"),
    "gumbel_mask_rcnn_r101_random_1x": Published(
        "activations/gumbel/gumbel_r101_4x4_1x.py", Figures(20.6, 6.4, approximate=True)
    ),
    "sigmoid_mask_rcnn_r101_random_1x": Published("activations/r101_4x4_1x.py"),
    "softmax_mask_rcnn_r101_random_1x": Published(
        "activations/r101_4x4_1x_softmax.py", Figures(16.7, 0.5, approximate=True)
    ),
    "softmax_mask_rcnn_r101_rfs_2x": Published("activations/r101_rfs_4x4_2x_softmax.py"),
    "gumbel_mask_rcnn_x101_64x4d_random_1x": Published(
        "activations/gumbel/gumbel_x101_4x4_1x.py", Figures(22.6, 5.9, approximate=True)
    ),
    "sigmoid_mask_rcnn_x101_64x4d_random_1x": Published("activations/x101_4x4_1x.py"),
    "softmax_mask_rcnn_x101_64x4d_random_1x": Published(
        "activations/x101_4x4_1x_softmax.py", Figures(18.6, 0.6, approximate=True)
    ),
    "class_relative_mask_rcnn_r50_random_1x": Published("activations/cra/cra_r50_4x4_1x.py"),
    "gumbel_faster_rcnn_r50_lvis05_random_1x": Published("activations/gumbel/gumbel_fr50_4x4_1x_lvis05.py"),
    "gumbel_cascade_mask_rcnn_r101_random_1x": Published(
        "activations/gumbel/gumbel_cascade_r50_4x4_1x.py", Figures(22.9, 6.6, approximate=True)
    ),
    "sigmoid_cascade_mask_rcnn_r101_random_1x": Published("activations/cascade_r50_4x4_1x.py"),
    "softmax_cascade_mask_rcnn_r101_random_1x": Published(
        "activations/cascade_r50_4x4_1x_softmax.py", Figures(18.8, 0.6, approximate=True)
    ),
    "gumbel_htc_r101_random_1x": Published(
        "activations/gumbel/gumbel_htc_r101_4x4_1x.py", Figures(23.3, 6.1, approximate=True)
    ),
    "softmax_htc_r101_random_1x": Published(
        "activations/htc_r101_4x4_1x_softmax.py", Figures(19.9, 0.6, approximate=True)
    ),
    "gol_mask_rcnn_r50_random_2x": Published("gol/droploss_normed_mask_r50_4x4_2x_gumbel.py"),
    "gol_mask_rcnn_r50_rfs_2x": Published(
        "gol/droploss_normed_mask_r50_rfs_4x4_2x_gumbel.py", Figures(27.7, 21.4, 27.7, 30.4, 27.5)
    ),
    "gol_mask_rcnn_r101_random_2x": Published("gol/droploss_normed_mask_r101_4x4_2x_gumbel.py"),
    "gol_mask_rcnn_r101_rfs_2x": Published(
        "gol/droploss_normed_mask_r101_rfs_4x4_2x_gumbel.py", Figures(29.0, 22.8, 29.0, 31.7, 29.2)
    ),
    "gol_mask_rcnn_r50_lvis05_rfs_2x": Published(
        "gol/droploss_normed_mask_r50_lvis05_rfs_4x4_2x_gumbel.py", Figures(29.5, 22.5, 31.3, 30.1, 28.2)
    ),
    "gol_mask_rcnn_swin_t_rfs_1x": Published("gol/droploss_swin_1x_rfs.py"),
    "gol_mask_rcnn_swin_t_rfs_3x": Published("gol/droploss_swin_3x_rfs.py"),
    "droploss_sigmoid_mask_rcnn_r50_random_1x": Published("gol/droploss_r50_4x4_1x.py"),
    "droploss_gumbel_mask_rcnn_r50_random_1x": Published("gol/droploss_r50_4x4_1x_gumbel.py"),
    "droploss_gumbel_mask_rcnn_r50_random_2x": Published("gol/droploss_r50_4x4_2x_gumbel.py"),
    "eql_sigmoid_mask_rcnn_r50_random_1x": Published("gol/eql_r50_4x4_1x.py"),
    "eql_sigmoid_mask_rcnn_r50_random_2x": Published("gol/eql_r50_4x4_2x.py"),
    "eql_sigmoid_mask_rcnn_r50_rfs_2x": Published("gol/eql_r50_rfs_4x4_2x.py"),
    "eql_gumbel_mask_rcnn_r50_random_2x": Published("gol/eql_r50_4x4_2x_gumbel.py"),
    "eql_gumbel_mask_rcnn_r50_rfs_2x": Published("gol/eql_r50_rfs_4x4_2x_gumbel.py"),
    "eql_gumbel_mask_rcnn_r50_normmask_random_2x": Published("gol/eql_normed_mask_r50_4x4_2x_gumbel.py"),
    "eql_gumbel_mask_rcnn_r50_normmask_rfs_2x": Published("gol/eql_normed_mask_r50_rfs_4x4_2x_gumbel.py"),
    "eql_gumbel_mask_rcnn_r50_normboth_random_1x": Published("gol/eql_normed_mask_classifier_r50_4x4_1x_gumbel.py"),
    "eql_gumbel_mask_rcnn_r50_normboth_rfs_2x": Published("gol/eql_normed_mask_classifier_r50_rfs_4x4_2x_gumbel.py"),
    "eql_gumbel_mask_rcnn_r101_normboth_rfs_2x": Published("gol/eql_normed_mask_classifier_r101_rfs_4x4_2x_gumbel.py"),
}
"""By recipe. One published file has no recipe: ``activations/gumbel_htc_r101_4x4_1x.py`` is the softmax one again."""
