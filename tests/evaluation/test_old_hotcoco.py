"""hotcoco 1.0 and 1.1, which `.ci/versions.py lowest` installs; here with the version that is installed."""

import numpy as np
import pytest
from hotcoco import mask as run_lengths

from tailseg.evaluation import evaluate, old_hotcoco

SHORT = {"size": [4, 5], "counts": [3, 6]}
WHOLE = {"size": [4, 5], "counts": [3, 6, 11]}


def test_short_run_lengths_are_filled() -> None:
    filled = old_hotcoco.fill(SHORT)
    assert (run_lengths.decode(filled) == run_lengths.decode(WHOLE)).all()
    assert old_hotcoco.fill(WHOLE) is WHOLE
    assert old_hotcoco.fill(filled) is filled  # compressed
    other = run_lengths.encode(np.asfortranarray(np.eye(4, 5, dtype=np.uint8)))
    assert run_lengths.iou([filled], [other], [False]) == run_lengths.iou([WHOLE], [other], [False])


@pytest.mark.parametrize("counts", [[3, 18], "3b0"])
def test_run_lengths_beyond_the_image_are_refused(counts: str | list[int]) -> None:
    with pytest.raises(ValueError, match="total counts 21 exceed h\\*w=20"):
        old_hotcoco.check_length({"size": [4, 5], "counts": counts})


def test_the_engine_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_hotcoco, "IS_OLD", True)
    truth = {
        "images": [{"id": 1, "height": 4, "width": 5}],
        "categories": [{"id": 1, "name": "ant"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 2, 2],
                "area": 4,
                "segmentation": WHOLE,
                "iscrowd": 0,
            }
        ],
    }
    results = [{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 2, 2], "segmentation": SHORT}]
    assert evaluate(truth, results)["segm"]["AP"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="needs hotcoco 1.2 or later"):
        evaluate(truth, results, engine="hotcoco")
