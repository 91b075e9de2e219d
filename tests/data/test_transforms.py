"""Resizing, flipping, and where the masks are afterwards."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from tailseg.data.settings import ColorConfig, CropConfig, JitterConfig
from tailseg.data.transforms import (
    LargeScaleJitter,
    RandomSizeCrop,
    ResizeShortSide,
    choose_jitter_size,
    color_transform,
    compute_frame,
    evaluation_transform,
    make_sample,
    train_transform,
)
from tailseg.structures import Frame


def sample(height: int, width: int, boxes: list[list[float]] | None = None) -> dict[str, tv_tensors.TVTensor]:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return make_sample(image, torch.tensor(boxes or []).reshape(-1, 4), torch.zeros(0, 4))


def map_boxes(boxes: torch.Tensor, frame: Frame) -> torch.Tensor:
    x = frame.scale_x * boxes[:, [0, 2]] + frame.shift_x
    y = frame.scale_y * boxes[:, [1, 3]] + frame.shift_y
    x, y = x.sort(dim=1).values, y.sort(dim=1).values
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),  # 800 / 480 * 640 = 1066.67
        (640, 480, (1067, 800)),
        (427, 640, (800, 1199)),  # 1199.06
        (375, 1000, (500, 1333)),  # 1333 / 1000 * 375 = 499.875
        (1000, 1000, (800, 800)),
        (1, 5000, (1, 1333)),
    ],
)
def test_sizes_are_those_of_mmdetection(height: int, width: int, expected: tuple[int, int]) -> None:
    assert evaluation_transform(800, 1333)(sample(height, width))["image"].shape[-2:] == expected


def test_short_sides_are_all_drawn() -> None:
    transform = ResizeShortSide([20, 24, 28], max_long_side=100)
    torch.manual_seed(0)
    assert {transform(sample(30, 40))["image"].shape[-2] for _ in range(40)} == {20, 24, 28}


def test_the_original_size_is_left_alone() -> None:
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moved = evaluation_transform(30, 100)(make_sample(image, torch.zeros(0, 4), torch.zeros(0, 4)))
    assert torch.equal(moved["image"], image)


def test_flips_are_as_frequent_as_asked() -> None:
    torch.manual_seed(0)
    transform = train_transform([20], 100, 0.5)
    flipped = [
        compute_frame(transform(sample(30, 40))["frame"].as_subclass(torch.Tensor), 30, 40).scale_x < 0
        for _ in range(200)
    ]
    assert 70 < sum(flipped) < 130  # four standard deviations


PIPELINES = {
    "nothing": v2.Identity(),
    "resize": v2.Resize((77, 91)),
    "flip": v2.RandomHorizontalFlip(1.0),
    "vertical flip": v2.RandomVerticalFlip(1.0),
    "published": train_transform([50, 60, 70], 100, 0.5),
    "multi-scale crops": train_transform(
        [50, 60, 70], 100, 0.5, crop=CropConfig(probability=1.0, short_sides=(40, 50), least=20, most=40)
    ),
    "large-scale jitter": train_transform([50], 100, 0.5, jitter=JitterConfig(size=64)),
    "crop": v2.RandomCrop((30, 50)),
    "flip, resize, crop": v2.Compose(
        [v2.RandomHorizontalFlip(1.0), ResizeShortSide([70], max_long_side=200), v2.RandomCrop((40, 50))]
    ),
    "zoom out": v2.RandomZoomOut(p=1.0),
    "colors, pad, flip": v2.Compose([v2.ColorJitter(0.5), v2.Pad([3, 5, 7, 11]), v2.RandomHorizontalFlip(1.0)]),
    "random resized crop": v2.RandomResizedCrop((64, 64)),
}


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("seed", range(4))
def test_the_frame_says_where_boxes_went(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    boxes = [[10.0, 5.0, 30.0, 25.0], [0.0, 0.0, 80.0, 60.0], [33.3, 44.4, 55.5, 59.9]]
    moved = PIPELINES[name](sample(60, 80, boxes))
    frame = compute_frame(moved["frame"].as_subclass(torch.Tensor), 60, 80)
    expected = moved["boxes"].as_subclass(torch.Tensor)
    # float32 coordinates of some hundreds of pixels are exact to 3e-5, a chain of steps to a few of these
    torch.testing.assert_close(map_boxes(torch.tensor(boxes), frame), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_frame_says_where_pixels_went(name: str) -> None:
    """A bitmap that goes through the transform covers the box that its corners are mapped to."""
    torch.manual_seed(1)
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:40, 24:56] = 255
    data = make_sample(image, torch.tensor([[24.0, 20.0, 56.0, 40.0]]), torch.zeros(0, 4))
    moved = PIPELINES[name](data)
    frame = compute_frame(moved["frame"].as_subclass(torch.Tensor), 60, 80)
    height, width = moved["image"].shape[-2:]
    x1, y1, x2, y2 = map_boxes(torch.tensor([[24.0, 20.0, 56.0, 40.0]]), frame)[0].clamp(min=0).tolist()
    x2, y2 = min(x2, width), min(y2, height)
    lit = (moved["image"][0] / moved["image"].max().clamp(min=1)).as_subclass(torch.Tensor)
    expected = max(0.0, x2 - x1) * max(0.0, y2 - y1)
    # Area within the blur of the border (half a pixel around the box); jittered colors keep black at most gray, which
    # is the color of padding, too.
    border = x2 - x1 + y2 - y1 + 1
    lit = lit - 0.05
    assert float((lit > 0.5).sum()) == pytest.approx(expected, abs=border)
    if expected > 0:
        rows, columns = np.nonzero((lit > 0.5).numpy())
        assert columns.min() == pytest.approx(x1, abs=1)
        assert columns.max() + 1 == pytest.approx(x2, abs=1)
        assert rows.min() == pytest.approx(y1, abs=1)
        assert rows.max() + 1 == pytest.approx(y2, abs=1)


@pytest.mark.parametrize(
    "transform",
    [v2.RandomRotation((30, 31)), v2.RandomRotation((90, 90), expand=True), v2.RandomAffine(0, shear=(20, 21))],
)
def test_rotation_and_shear_are_refused(transform: v2.Transform) -> None:
    torch.manual_seed(0)
    moved = transform(sample(60, 80))
    with pytest.raises(ValueError, match="must be a chain of resizing, flipping, cropping and padding"):
        compute_frame(moved["frame"].as_subclass(torch.Tensor), 60, 80)


def test_crops_have_every_size_and_place_in_range() -> None:
    """Rows 0 .. 29 of an image of 30 x 12 are its values: a crop says where it lies."""
    image = torch.arange(30, dtype=torch.uint8)[None, :, None].expand(3, 30, 12)
    torch.manual_seed(0)
    heights, tops = set(), set()
    for _ in range(300):
        crop = RandomSizeCrop(20, 25)(make_sample(image, torch.zeros(0, 4), torch.zeros(0, 4)))["image"]
        assert crop.shape[-1] == 12  # a side shorter than the least stays
        heights.add(crop.shape[-2])
        tops.add(int(crop[0, 0, 0]))
    assert heights == {20, 21, 22, 23, 24, 25}
    assert tops == set(range(11))  # 0 .. 30 - 20


def test_crops_are_as_frequent_as_asked_and_resized_like_the_others() -> None:
    crop = CropConfig(probability=0.5, short_sides=(30,), least=10, most=15)
    transform = train_transform([20], 100, 0.0, crop=crop)
    torch.manual_seed(0)
    moved = [transform(sample(30, 40)) for _ in range(200)]
    assert {min(data["image"].shape[-2:]) for data in moved} == {20}
    frames = [compute_frame(data["frame"].as_subclass(torch.Tensor), 30, 40) for data in moved]
    cropped = sum(frame.scale_x > 1 for frame in frames)  # a crop of at most 15 pixels is enlarged to 20
    assert 70 < cropped < 130  # four standard deviations


def test_crops_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"data\.crop\.probability is in \[0, 1\], got 2"):
        CropConfig(probability=2)
    with pytest.raises(ValueError, match="1 <= least <= most, got least 600 and most 384"):
        CropConfig(least=600, most=384)


def test_jitter_has_every_scale_and_place() -> None:
    """Of 30 x 40 into 64: the factor is 0.16 to 3.2; sizes are those of the scale, cropped at the square."""
    transform = LargeScaleJitter((0.1, 2.0), 64)
    torch.manual_seed(0)
    scales, corners, sides = [], [], set()
    for _ in range(400):
        moved = transform(sample(30, 40))
        sides.add(tuple(moved["image"].shape[-2:]))
        frame = compute_frame(moved["frame"].as_subclass(torch.Tensor), 30, 40)
        assert frame.scale_x == pytest.approx(frame.scale_y, rel=0.15)  # sides are whole pixels
        shown = (moved["image"][0] == 0).as_subclass(torch.Tensor)  # the padding is gray
        rows, columns = int(shown.any(dim=1).sum()), int(shown.any(dim=0).sum())
        assert shown.sum() == rows * columns
        assert shown[0, 0]  # padded on the right and at the bottom
        assert rows == pytest.approx(min(64, 30 * frame.scale_y), abs=1)
        assert columns == pytest.approx(min(64, 40 * frame.scale_x), abs=1)
        scales.append(frame.scale_x * 40 / 64)
        corners.append((frame.shift_x / frame.scale_x, frame.shift_y / frame.scale_y))
    assert sides == {(64, 64)}
    assert 0.08 < min(scales) < 0.15
    assert 1.9 < max(scales) < 2.1
    assert abs(np.mean(scales) - 1.05) < 4 * 1.9 / np.sqrt(12 * 400)
    left, top = np.abs(corners).T
    assert left.max() == pytest.approx(20, abs=1.5)  # with a factor of 2 a half of the image is shown
    assert top.max() == pytest.approx(10, abs=1.5)
    assert left.min() == top.min() == 0


def test_jitter_takes_any_image() -> None:
    """A strip of one pixel keeps a pixel, however small it becomes."""
    torch.manual_seed(0)
    for height, width in ((1, 500), (500, 1), (1, 1), (3000, 7)):
        for _ in range(5):
            moved = LargeScaleJitter((0.1, 2.0), 32)(sample(height, width))
            assert moved["image"].shape[-2:] == (32, 32)
            compute_frame(moved["frame"].as_subclass(torch.Tensor), height, width)


def test_jitter_is_that_of_torchvision() -> None:
    """ScaleJitter and a crop of the whole image give the same pixels where nothing is cropped."""
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = make_sample(image, torch.zeros(0, 4), torch.zeros(0, 4))
    expected = v2.ScaleJitter((64, 64), scale_range=(1.0, 1.0))(data)["image"]
    moved = LargeScaleJitter((1.0, 1.0), 64)(data)["image"]
    assert torch.equal(moved[:, :48, :64], expected)
    assert (moved[:, 48:] == 128).all()


def test_the_square_of_jitter_has_the_area_of_the_images() -> None:
    assert choose_jitter_size((640, 672, 704, 736, 768, 800), 1333) == 1024  # as published
    assert choose_jitter_size((1,), 2) == 32
    transform = train_transform([640, 800], 1333, 0.5, jitter=JitterConfig())
    assert transform(sample(30, 40))["image"].shape[-2:] == (1024, 1024)


def test_colors_change_as_often_as_asked() -> None:
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    change = color_transform(ColorConfig(probability=0.5, hue=0.1))
    torch.manual_seed(0)
    results = [change(image) for _ in range(200)]
    assert all(result.dtype == torch.uint8 and result.shape == image.shape for result in results)
    assert 70 < sum(torch.equal(result, image) for result in results) < 130  # four standard deviations
    nothing = color_transform(ColorConfig(probability=1, brightness=0, contrast=0, saturation=0))
    assert torch.equal(nothing(image), image)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="a range of positive factors and a positive number of pixels"):
        LargeScaleJitter((0.0, 2.0), 64)
    with pytest.raises(
        ValueError, match=r"data\.jitter\.scale is numbers, each above 0, in ascending order, got \(2, 1\)"
    ):
        JitterConfig(scale=(2, 1))
    with pytest.raises(ValueError, match=r"probability of a flip must lie in 0 \.\. 1, got 1\.5"):
        train_transform([20], 100, 1.5)
    with pytest.raises(ValueError, match="positive numbers of pixels, got short sides"):
        train_transform([], 100, 0.5)
    with pytest.raises(ValueError, match="longest side of 0"):
        evaluation_transform(20, 0)
