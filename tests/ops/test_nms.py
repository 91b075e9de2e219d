import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.ops import nms as module
from tailseg.ops.nms import class_nms, level_nms

SETTINGS = {"score_threshold": 0.125, "iou_threshold": 0.5, "max_detections": 300}


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union else 0.0


def brute_force(boxes, scores, *, score_threshold, iou_threshold, max_detections):
    """Greedy suppression in Python's float64, one class at a time: (row, class) of each detection."""
    kept = []
    for label in range(scores.shape[1]):
        of_class = boxes.tolist() if boxes.ndim == 2 else boxes[:, label].tolist()
        column = scores[:, label].tolist()
        alive = []
        for row in sorted((r for r in range(len(column)) if column[r] > score_threshold), key=lambda r: -column[r]):
            if all(iou(of_class[row], of_class[other]) <= iou_threshold for other in alive):
                alive.append(row)
        kept += [(-column[row], row, label) for row in alive]
    return [(row, label) for _, row, label in sorted(kept)[:max_detections]]


def found(result):
    return list(zip(result.rois.tolist(), result.labels.tolist(), strict=True))


def random_problem(rows, classes, *, specific, seed, grid=None):
    """Clustered boxes, so that much is suppressed; on a grid, IoUs at the threshold and tied scores are common."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(rows // 6 + 1, 2, generator=generator).repeat(6, 1)[:rows] * 1000
    shape = (rows, classes, 4) if specific else (rows, 4)
    corner = torch.cat([center, center + 80], dim=1).view(rows, *[1] * specific, 4)
    boxes = corner + 12 * torch.randn(shape, generator=generator)
    scores = torch.rand(rows, classes, generator=generator)
    if grid:
        boxes, scores = (boxes / 20).round() * 20, (scores * grid).round() / grid
    return boxes, scores


@pytest.mark.parametrize("specific", [True, False])
@pytest.mark.parametrize("grid", [None, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_brute_force(specific, grid, seed):
    boxes, scores = random_problem(70, 9, specific=specific, seed=seed, grid=grid)
    result = class_nms(boxes, scores, **SETTINGS)
    assert found(result) == brute_force(boxes, scores, **SETTINGS)
    torch.testing.assert_close(result.scores, scores[result.rois, result.labels], rtol=0, atol=0)
    wanted = boxes[result.rois, result.labels] if specific else boxes[result.rois]
    torch.testing.assert_close(result.boxes, wanted, rtol=0, atol=0)


coordinates = st.integers(0, 6).map(float)
"""Of a small grid: boxes without area, inside out, equal, and IoUs at the threshold are common."""


@st.composite
def problems(draw):
    rows, classes = draw(st.integers(0, 9)), draw(st.integers(1, 4))
    specific = draw(st.booleans())
    number = rows * (classes if specific else 1)
    values = draw(st.lists(st.tuples(*[coordinates] * 4), min_size=number, max_size=number))
    boxes = torch.tensor(values).view(rows, *[classes] * specific, 4)
    ordered = torch.cat(
        [torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])], -1
    )
    few = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75])  # ties; 0 and 0.125 are below the threshold
    scores = draw(st.lists(few, min_size=rows * classes, max_size=rows * classes))
    return ordered, torch.tensor(scores).view(rows, classes)


@given(problems(), st.integers(1, 12), st.sampled_from([(40,), (3, 40), (1,), (2, 5)]))
@settings(max_examples=300, deadline=None)
def test_any_problem_equals_brute_force(problem, most, prefixes):
    """Ties, duplicates, nothing, one class, all below the threshold; in a prefix, past it and side by side."""
    boxes, scores = problem
    wanted = {**SETTINGS, "max_detections": most}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PREFIXES", prefixes)
        assert found(class_nms(boxes, scores, **wanted)) == brute_force(boxes, scores, **wanted)


def test_only_boxes_of_the_prefix_are_asked_for():
    boxes, scores = random_problem(500, 9, specific=True, seed=0)
    asked = []

    def boxes_of(rois, labels):
        asked.append(len(rois))
        return boxes[rois, labels]

    wanted = {**SETTINGS, "max_detections": 50}
    assert found(class_nms(boxes_of, scores, **wanted)) == found(class_nms(boxes, scores, **wanted))
    assert asked == [module.PREFIXES[0]]


@pytest.mark.parametrize("prefixes", [(1,), (5, 20), (50, 100), ()])
@pytest.mark.parametrize("max_detections", [1, 30, 300])
@pytest.mark.parametrize("grid", [None, 4])
def test_any_prefix_gives_the_same_answer(monkeypatch, prefixes, max_detections, grid):
    boxes, scores = random_problem(60, 5, specific=True, seed=3, grid=grid)
    wanted = brute_force(boxes, scores, **{**SETTINGS, "max_detections": max_detections})
    monkeypatch.setattr(
        module, "PREFIXES", (*prefixes, 10) if prefixes else (10,)
    )  # the last pass takes groups side by side
    assert found(class_nms(boxes, scores, **{**SETTINGS, "max_detections": max_detections})) == wanted


def test_1203_classes_where_float32_offsets_would_err():
    # The published trick adds label * (largest coordinate + 1) in float32: at label 1202 that rounds to 0.125 pixel.
    classes = 1203
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([1200.0, 700.0, 1210.0, 710.0]).repeat(40, 1)
    boxes = boxes + torch.rand(40, 4, generator=generator).mul(4)
    scores = torch.zeros(40, classes)
    scores[:, -3:] = torch.rand(40, 3, generator=generator)
    result = class_nms(boxes, scores, score_threshold=1e-4, iou_threshold=0.5, max_detections=300)
    expected = brute_force(boxes, scores[:, -3:], score_threshold=1e-4, iou_threshold=0.5, max_detections=300)
    assert found(result) == [(row, label + classes - 3) for row, label in expected]


def test_past_the_prefixes():
    # 1 object, 120 classes, 150 boxes each: 18,000 candidates of which one a class survives, fewer than the 300 wanted
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([10.0, 10.0, 110.0, 110.0]) + torch.rand(150, 120, 4, generator=generator)
    scores = torch.rand(150, 120, generator=generator) * 0.9 + 0.05
    scores[:, :80] += 1  # the prefixes hold these classes only
    result = class_nms(boxes, scores, score_threshold=1e-4, iou_threshold=0.5, max_detections=300)
    best = scores.max(dim=0)
    order = best.values.argsort(descending=True)
    assert scores.numel() > module.PREFIXES[-1]
    assert found(result) == list(zip(best.indices[order].tolist(), order.tolist(), strict=True))


def test_ties_at_the_end_of_a_prefix_go_by_region_then_class(monkeypatch):
    monkeypatch.setattr(module, "PREFIXES", (3,))
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0], [200.0, 0.0, 210.0, 10.0]])
    scores = torch.full((3, 4), 0.5)
    result = class_nms(boxes, scores, **{**SETTINGS, "max_detections": 5})
    assert found(result) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]


def test_thresholds_are_strict():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 5.5]])
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    # IoU 0.5 with the first stays, 0.55 goes; a score at the threshold is no candidate
    assert found(class_nms(boxes, scores, **SETTINGS)) == [(0, 0), (1, 0)]
    assert found(class_nms(boxes, scores, **{**SETTINGS, "score_threshold": float(scores[1, 0])})) == [(0, 0)]


@pytest.mark.parametrize("shape", [(0, 3), (4, 3)])
def test_no_candidates(shape):
    result = class_nms(torch.zeros(shape[0], 4), torch.zeros(shape), **SETTINGS)
    assert [tuple(part.shape) for part in result] == [(0, 4), (0,), (0,), (0,)]
    assert level_nms(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), iou_threshold=0.7, max_proposals=5
    ).shape == (0,)


def test_boxes_and_scores_that_are_not_finite_are_dropped_alone():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [float("nan"), 0.0, 9.0, 9.0], [0.0, 0.0, float("inf"), 9.0]])
    boxes = torch.cat([boxes, boxes[:1] + 0.5, boxes[:1] + 50])
    scores = torch.tensor([[0.5], [0.9], [0.9], [0.4], [float("nan")]])
    assert found(class_nms(boxes, scores, **SETTINGS)) == [(0, 0)]


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_levels_suppress_among_themselves(seed, rows, most):
    boxes, scores = random_problem(rows, 1, specific=False, seed=seed)
    levels = torch.arange(rows) % 3
    kept = level_nms(boxes, scores[:, 0].logit(), levels, iou_threshold=0.7, max_proposals=most)
    by_level = torch.where(levels[:, None] == torch.arange(3), scores, -1.0)
    expected = brute_force(boxes, by_level, score_threshold=-1.0, iou_threshold=0.7, max_detections=most)
    assert kept.tolist() == [row for row, _ in expected]


def test_a_prefix_of_which_all_would_have_to_survive_is_left_out(monkeypatch):
    """1,000 proposals of 3,000 anchors: a pass over the best 1,000 would be one in vain."""
    boxes, scores = random_problem(3000, 1, specific=False, seed=0)
    boxes += 10_000 * torch.rand(3000, 1, generator=torch.Generator().manual_seed(1))  # enough of them survive
    problem = boxes, scores[:, 0], torch.zeros(3000, dtype=torch.int64)
    monkeypatch.setattr(module, "PREFIXES", (3000,))
    wanted = level_nms(*problem, iou_threshold=0.7, max_proposals=1000)
    assert len(wanted) == 1000
    passes, suppress = [], module._suppress
    monkeypatch.setattr(module, "_suppress", lambda *given: passes.append(len(given[0])) or suppress(*given))
    monkeypatch.setattr(module, "PREFIXES", (1000, 2000))
    assert torch.equal(level_nms(*problem, iou_threshold=0.7, max_proposals=1000), wanted)
    assert passes == [2000]
