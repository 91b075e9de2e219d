"""The same picture in every form gives the same pixels; what could be read in two ways is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailseg.annotations.image_files import ImageError
from tailseg.data.images import load_image
from tailseg.inference import to_rgb_tensor

GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0]
ALPHA = GENERATOR.integers(0, 256, (20, 30, 1), dtype=np.uint8)
CHANNELS_FIRST = torch.from_numpy(RGB).permute(2, 0, 1)

IN_COLOR = {
    "PIL": Image.fromarray(RGB),
    "PIL RGBA": Image.fromarray(np.concatenate([RGB, ALPHA], 2)),
    "array": RGB,
    "array RGBA": np.concatenate([RGB, ALPHA], 2),
    "array that views another one backwards": np.ascontiguousarray(RGB[:, :, ::-1])[:, :, ::-1],
    "array, 16 bits": RGB.astype(np.uint16) * 257,
    "array, 16 bits, of another machine": (RGB.astype(np.uint16) * 257).astype(">u2"),
    "array, 0 .. 1": RGB / 255,
    "array, 0 .. 1, float32": (RGB / 255).astype(np.float32),
    "array, 0 .. 1, float16": (RGB / 255).astype(np.float16),
    "array, 0 .. 1, long double": (RGB / 255).astype(np.longdouble),
    "array, 0 .. 255": RGB.astype(np.float32),
    "array, 0 .. 1 with transparency": np.concatenate([RGB, ALPHA], 2) / 255,
    "tensor": CHANNELS_FIRST,
    "tensor RGBA": torch.from_numpy(np.concatenate([RGB, ALPHA], 2)).permute(2, 0, 1),
    "tensor, 16 bits": torch.from_numpy(RGB.astype(np.uint16) * 257).permute(2, 0, 1),
    "tensor, 0 .. 1": CHANNELS_FIRST / 255,
    "tensor, 0 .. 1, half": (CHANNELS_FIRST / 255).half(),
    "tensor, 0 .. 255": CHANNELS_FIRST.float(),
}
IN_GRAY = {
    "PIL": Image.fromarray(GRAY),
    "PIL, 16 bits": Image.fromarray(GRAY.astype(np.uint16) * 257),
    "PIL with transparency": Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(ALPHA[:, :, 0])]),
    "array": GRAY,
    "array with one channel": GRAY[:, :, None],
    "array, 0 .. 1": GRAY / 255,
    "tensor": torch.from_numpy(GRAY.copy()),
    "tensor with one channel": torch.from_numpy(GRAY.copy())[None],
}


@pytest.mark.parametrize("image", IN_COLOR.values(), ids=IN_COLOR)
def test_color_in_every_form(image, tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "image.png")
    expected = to_rgb_tensor(tmp_path / "image.png")
    assert torch.equal(expected, CHANNELS_FIRST)
    assert torch.equal(to_rgb_tensor(image), expected)


@pytest.mark.parametrize("image", IN_GRAY.values(), ids=IN_GRAY)
def test_gray_in_every_form(image, tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    expected = to_rgb_tensor(tmp_path / "image.png")
    assert torch.equal(expected, torch.from_numpy(GRAY.copy()).expand(3, -1, -1))
    assert torch.equal(to_rgb_tensor(image), expected)


@pytest.mark.parametrize("orientation", ["shown", "stored"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_exif_of_an_opened_picture_is_that_of_its_file(suffix: str, value: int, orientation, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(RGB).save(file, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(file) as picture:
        assert torch.equal(to_rgb_tensor(picture, orientation=orientation), load_image(file, orientation))


def test_a_palette_with_transparency_stays_as_it_was() -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).quantize(8).save(file, "png", transparency=bytes(range(8)))
    with Image.open(file) as picture:
        picture.load()
        expected = picture.convert("RGBA").convert("RGB")
        pixels = to_rgb_tensor(picture)
        assert "transparency" in picture.info
    assert torch.equal(pixels.permute(1, 2, 0), torch.from_numpy(np.array(expected)))


def test_the_image_is_not_changed() -> None:
    image = RGB / 255
    before = image.copy()
    to_rgb_tensor(image)
    assert (image == before).all()


DARK = RGB / 255 * 0.9


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 127.5 - 1, "values from -1 to 1: expected 0 .. 1 or 0 .. 255"),
        (np.where(RGB == 0, np.nan, RGB), "values from nan"),
        (RGB * 257.0, "expected 0 .. 1 or 0 .. 255"),
        (DARK * 1.5, "fractions, and 1.35 as its largest value: its range may be 0 .. 1 or 0 .. 255"),
        (np.round(RGB / 255), "only the values 0 and 1: its range"),
        (np.full((5, 6, 3), 200, np.uint16), "uint16 and has no value above 200.*would become black"),
        (RGB.astype(np.int64), "numbers of type int64: expected uint8, uint16 or floating point numbers"),
        (RGB > 9, "numbers of type bool"),
        (CHANNELS_FIRST.int(), "numbers of type int32.*image.to\\(torch.uint8\\)"),
        (CHANNELS_FIRST.numpy(), r"an array of the shape \[3, 20, 30\].*transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), r"a tensor of the shape \[20, 30, 3\].*permute\(2, 0, 1\)"),
        (RGB[:3], r"the shape \[3, 30, 3\], whose channels may come first or last"),
        (CHANNELS_FIRST[:, :, :3].numpy(), r"the shape \[3, 20, 3\], whose channels may come first or last"),
        (RGB[None], r"shape \[1, 20, 30, 3\] of several images: use a list"),
        (RGB[:, :, :2], r"the shape \[20, 30, 2\]: expected \[height, width, 3\]"),
        (RGB[:, :0], r"the shape \[20, 0, 3\]"),
        (np.zeros(3, np.uint8), r"the shape \[3\]"),
        (np.array("text"), r"the shape \[\]"),
    ],
)
def test_what_is_not_certain_is_refused(image, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        to_rgb_tensor(image)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_file_of_few_columns_is_one_of_channels_first(tmp_path: Path, width: int) -> None:
    Image.fromarray(RGB[:, :width]).save(tmp_path / "narrow.png")
    assert torch.equal(to_rgb_tensor(load_image(tmp_path / "narrow.png", "shown")), CHANNELS_FIRST[:, :, :width])


def test_black_is_black_in_any_range() -> None:
    assert to_rgb_tensor(np.zeros((20, 30, 3))).max() == 0


def test_an_almost_black_picture_with_fractions_is_taken_for_one_in_0_to_1() -> None:
    """As documented: nothing tells these apart, and pictures in 0 .. 1 are many."""
    assert to_rgb_tensor(DARK).max() == round(255 * 0.9)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "image.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "image.png").read_bytes()[:-400])
    with Image.open(tmp_path / "cut.png") as picture, pytest.raises(ImageError, match="image 3 cannot be converted"):
        to_rgb_tensor(picture, name="image 3")
    with pytest.raises(ImageError, match="its pixels are floating point numbers"):
        to_rgb_tensor(Image.fromarray(GRAY.astype(np.float32)))


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="the image has no pixels: it is 0 x 5"):
        to_rgb_tensor(Image.new("RGB", (0, 5)))
