"""5,000 images of 1,203 classes, 1.5 million detections: every number of lvis-api's precision and recall."""

import numpy as np
import pytest

from tailseg.evaluation.detections import read_detections, select_best_of_each_image
from tailseg.evaluation.engines import ENGINES
from tailseg.evaluation.ground_truth import read_ground_truth


@pytest.fixture(scope="module")
def files(synthetic, tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("large"), images=5000)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_lvis_api_on_5000_images(files, iou_type):
    """Three minutes and some gigabytes for each."""
    pytest.importorskip("lvis")
    truth = read_ground_truth(files.truth, masks=iou_type == "segm")
    found = read_detections(files.results, truth, (iou_type,))
    rows = select_best_of_each_image(found, truth, 300)
    ours, theirs = (ENGINES[name](truth, found, rows, iou_type) for name in ("tailseg", "lvis-api"))
    assert (ours[0] > 0).mean() > 0.05, "a test on hopeless results would show little"
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, reference)
