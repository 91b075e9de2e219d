import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailseg.ops.matching import IGNORED, NEGATIVE, match, sample

RPN = {"positive": 0.7, "negative": 0.3, "minimum_positive": 0.3, "allow_low_quality_matches": True}
ROI = {"positive": 0.5, "negative": 0.5, "minimum_positive": 0.5, "allow_low_quality_matches": True}


def reference_match(iou, *, positive, negative, minimum_positive, allow_low_quality_matches):
    """The published rule, region by region and object by object."""
    matches = []
    for column in zip(*iou, strict=True):
        best = max(column)
        if best >= positive:
            matches.append(column.index(best))
        else:
            matches.append(NEGATIVE if best < negative else IGNORED)
    if allow_low_quality_matches:
        for i, row in enumerate(iou):
            if max(row) >= minimum_positive:
                for j, value in enumerate(row):
                    if value == max(row):
                        matches[j] = i
    return matches


# Few different values, so that ties and values at a threshold are common.
ious = st.integers(1, 8).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([0, 0.125, 0.25, 0.5, 0.75, 1]), min_size=width, max_size=width),
        min_size=1,
        max_size=5,
    )
)


@given(ious, st.sampled_from([0.25, 0.5, 0.75]), st.sampled_from([0.0, 0.25, 0.5]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_equals_the_rule_written_out(iou, positive, other, allow_low_quality_matches):
    rule = {
        "positive": positive,
        "negative": other,
        "minimum_positive": other,
        "allow_low_quality_matches": allow_low_quality_matches,
    }
    assert match(torch.tensor(iou, dtype=torch.float32), **rule).tolist() == reference_match(iou, **rule)


def test_thresholds():
    iou = torch.tensor([[0.9, 0.7, 0.69, 0.3, 0.29, 0.0]])
    matches = match(iou, **{**RPN, "allow_low_quality_matches": False})
    assert matches.tolist() == [0, 0, IGNORED, IGNORED, NEGATIVE, NEGATIVE]


def test_low_quality_takes_every_tied_region():
    iou = torch.tensor([[0.4, 0.1, 0.4, 0.35]])
    assert match(iou, **RPN).tolist() == [0, NEGATIVE, 0, IGNORED]


def test_low_quality_takes_a_region_from_a_better_object_and_the_last_object_wins():
    iou = torch.tensor([[0.8, 0.0], [0.5, 0.1], [0.5, 0.2]])
    assert match(iou, **ROI).tolist() == [2, NEGATIVE]


def test_low_quality_needs_the_minimum():
    assert match(torch.tensor([[0.29, 0.1]]), **RPN).tolist() == [NEGATIVE, NEGATIVE]


def test_no_objects_or_no_regions():
    assert match(torch.zeros(0, 3), **RPN).tolist() == [NEGATIVE] * 3
    assert match(torch.zeros(2, 0), **RPN).tolist() == []
    assert match(torch.zeros(0, 0), **RPN).tolist() == []


@given(
    st.lists(st.sampled_from([IGNORED, NEGATIVE, 0, 1, 2]), max_size=40),
    st.integers(0, 30),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_sample_draws_what_is_promised(matches, num, fraction):
    tensor = torch.tensor(matches, dtype=torch.int64)
    positives, negatives = sample(tensor, num=num, positive_fraction=fraction)
    available = sum(m >= 0 for m in matches), sum(m == NEGATIVE for m in matches)
    assert len(positives) == min(int(num * fraction), available[0])
    assert len(negatives) == min(num - len(positives), available[1])  # they fill the places of missing positives
    assert (tensor[positives] >= 0).all()
    assert (tensor[negatives] == NEGATIVE).all()
    for drawn in (positives.tolist(), negatives.tolist()):
        assert drawn == sorted(set(drawn))


def test_sample_follows_its_generator():
    matches = torch.arange(100) % 2 - 1

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(matches, num=20, positive_fraction=0.5, generator=generator)

    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(draw(1), draw(2), strict=True))


@pytest.mark.parametrize("kind", [0, NEGATIVE])
def test_every_region_is_drawn_equally_often(kind):
    torch.manual_seed(0)
    matches = torch.full((10,), kind)
    counts = torch.zeros(10)
    for _ in range(2000):
        positives, negatives = sample(matches, num=3, positive_fraction=1.0 if kind == 0 else 0.0)
        counts[positives if kind == 0 else negatives] += 1
    # expected 600, standard deviation 20: five of them leave a chance of about 1e-5
    assert ((counts - 600).abs() < 100).all()
