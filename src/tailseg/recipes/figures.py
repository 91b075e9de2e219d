"""What was published for the published configurations: AP of masks on the validation set, in percent."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """Published figures of one configuration; None where none was published.

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


PUBLISHED = {
    "sigmoid_mask_rcnn_r50_random_1x": Figures(16.4, 0.8, 12.7, 27.3, 17.2),
    "softmax_mask_rcnn_r50_random_1x": Figures(15.2, 0.0, 10.6, 26.9, 16.1),
    "gumbel_mask_rcnn_r50_random_1x": Figures(19.0, 4.9, 16.8, 27.6, 19.1),
    "softmax_mask_rcnn_r101_random_1x": Figures(16.7, 0.5, approximate=True),
    "gumbel_mask_rcnn_r101_random_1x": Figures(20.6, 6.4, approximate=True),
    "softmax_mask_rcnn_x101_64x4d_random_1x": Figures(18.6, 0.6, approximate=True),
    "gumbel_mask_rcnn_x101_64x4d_random_1x": Figures(22.6, 5.9, approximate=True),
    "softmax_cascade_mask_rcnn_r101_random_1x": Figures(18.8, 0.6, approximate=True),
    "gumbel_cascade_mask_rcnn_r101_random_1x": Figures(22.9, 6.6, approximate=True),
    "softmax_htc_r101_random_1x": Figures(19.9, 0.6, approximate=True),
    "gumbel_htc_r101_random_1x": Figures(23.3, 6.1, approximate=True),
    "gol_mask_rcnn_r50_rfs_2x": Figures(27.7, 21.4, 27.7, 30.4, 27.5),
    "gol_mask_rcnn_r101_rfs_2x": Figures(29.0, 22.8, 29.0, 31.7, 29.2),
    "gol_mask_rcnn_r50_lvis05_rfs_2x": Figures(29.5, 22.5, 31.3, 30.1, 28.2),
}
"""By recipe; the other configurations came without figures."""
