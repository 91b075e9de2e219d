"""EXIF orientations, TIFF and BMP, 16 bits: what is read of pictures that the test draws."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, TiffImagePlugin

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.pictures import FORMATS, open_picture, read_header, read_size
from tailseg.annotations.problems import Problem
from tailseg.annotations.read import open_file
from tailseg.data.check import find_image_problems
from tailseg.data.images import apply_orientation, load_image, read_image
from tailseg.report.server import RequestError, read_upload
from tailseg.structures import ImageInfo

ORIENTATIONS = range(1, 9)
WIDE = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7
SQUARE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def as_tensor(picture: Image.Image | np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def write_turned(path: Path, pixels: np.ndarray, orientation: int) -> torch.Tensor:
    """Stores the pixels with the orientation; returns what Pillow shows of them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(pixels)
    options = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {"lossless": True}
    picture.save(path, exif=exif, **(options if path.suffix in (".jpg", ".webp") else {}))
    picture.getexif()[0x0112] = orientation
    return as_tensor(ImageOps.exif_transpose(picture))


def info(path: Path, height: int, width: int, orientation: str = "shown") -> ImageInfo:
    return ImageInfo(1, str(path), height, width, orientation)


@pytest.mark.parametrize("pixels", [WIDE, SQUARE], ids=["wide", "square"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_pictures_are_read_as_viewers_show_them_or_as_stored(tmp_path, suffix, orientation, pixels):
    path = tmp_path / f"a{suffix}"
    shown, stored = write_turned(path, pixels, orientation), as_tensor(pixels)
    height, width = shown.shape[-2:]
    tolerance = {"atol": 6, "rtol": 0} if suffix == ".jpg" else {"atol": 0, "rtol": 0}

    def agree(image, expected):
        return image.shape == expected.shape and torch.allclose(image.float(), expected.float(), **tolerance)

    assert agree(load_image(path), shown)
    assert agree(read_image(info(path, height, width)), shown)
    assert agree(load_image(path, "stored"), stored)
    assert agree(read_image(info(path, *pixels.shape[:2], "stored")), stored)
    assert read_size(path) == (height, width)
    assert read_size(path, "stored") == pixels.shape[:2]
    if pixels is WIDE and orientation >= 5:  # the size tells which pixels were annotated
        assert agree(read_image(info(path, 3, 4)), stored)
        with pytest.raises(ImageError, match=rf"EXIF \(orientation {orientation}\) rotates it; --data.orientation"):
            read_image(info(path, 4, 3, "stored"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_is_what_pillow_does(orientation):
    picture = Image.fromarray(WIDE)
    picture.getexif()[0x0112] = orientation
    assert torch.equal(apply_orientation(as_tensor(WIDE), orientation), as_tensor(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\x7f" * 60])
def test_broken_exif_says_nothing(tmp_path, exif):
    Image.fromarray(WIDE).save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (3, 3, 4)


@pytest.mark.parametrize("value", [0, 9, 65_000])
def test_orientations_that_exif_does_not_know_say_nothing(tmp_path, value):
    write_turned(tmp_path / "a.png", WIDE, 1)
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(WIDE).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "a.png"), as_tensor(WIDE))


GRAY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
SAVED = {
    "gray": (Image.fromarray(GRAY), GRAY),
    "one bit": (Image.fromarray(GRAY > 100), (GRAY > 100) * np.uint8(255)),
    "palette": (Image.fromarray(WIDE).quantize(12), np.array(Image.fromarray(WIDE).quantize(12).convert("RGB"))),
    "alpha": (Image.fromarray(np.dstack([WIDE, np.full((3, 4), 9, np.uint8)])), WIDE),
    "CMYK": (Image.fromarray(WIDE).convert("CMYK"), WIDE),
    "16 bits": (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY),
}


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("kind", SAVED)
def test_every_kind_of_tiff_becomes_rgb(tmp_path, kind, compression):
    picture, expected = SAVED[kind]
    picture.save(tmp_path / "a.tif", compression=compression)
    expected = np.stack([expected] * 3, axis=-1) if expected.ndim == 2 else expected
    assert torch.equal(load_image(tmp_path / "a.tif"), as_tensor(expected))


def test_tiff_that_counts_white_as_0(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0106] = 0
    Image.fromarray(GRAY).save(tmp_path / "8.tif", tiffinfo=tags)  # Pillow inverts the values
    Image.fromarray((255 - GRAY).astype(np.uint16) * 257).save(tmp_path / "16.tif", tiffinfo=tags)  # but not these
    expected = as_tensor(np.stack([GRAY] * 3, axis=-1))
    for name in ("8.tif", "16.tif"):
        with open_picture(tmp_path / name) as picture:
            assert picture.tag_v2[0x0106] == 0
        assert torch.equal(load_image(tmp_path / name), expected)


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "floating point"), (np.int32, "32-bit or signed whole")])
def test_numbers_without_a_range_are_refused(tmp_path, dtype, words):
    Image.fromarray(GRAY.astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=rf"a\.tif cannot be read: its pixels are {words} numbers of an unknown range"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["gray", "one bit", "palette"])
def test_every_kind_of_bmp_becomes_rgb(tmp_path, kind):
    picture, expected = SAVED[kind]
    picture.save(tmp_path / "a.bmp")
    expected = np.stack([expected] * 3, axis=-1) if expected.ndim == 2 else expected
    assert torch.equal(load_image(tmp_path / "a.bmp"), as_tensor(expected))


@pytest.mark.parametrize(
    "options", [{"format": "BMP"}, {"format": "TIFF"}, {"format": "TIFF", "compression": "tiff_lzw"}]
)
def test_a_tiff_or_bmp_that_is_cut_short_is_refused(tmp_path, options):
    path = tmp_path / "a.img"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(path, **options)
    content = path.read_bytes()
    for kept in (1, 10, 60, 200, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:kept])
        with pytest.raises(ImageError, match="cannot be read: "):
            load_image(path)


def test_other_formats_that_pillow_knows_are_not_opened(tmp_path):
    Image.fromarray(WIDE).save(tmp_path / "a.ppm")
    Image.fromarray(WIDE).save(tmp_path / "a.tga")
    for name in ("a.ppm", "a.tga"):
        with pytest.raises(ImageError, match=r"cannot identify.*JPEG, PNG, WebP, GIF, TIFF or BMP"):
            load_image(tmp_path / name)
    assert FORMATS == ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


def check(folder: Path, sizes: dict[str, tuple[int, int]]) -> dict[str, Problem]:
    """What `data check --decode` finds in the folder's files, of annotated heights and widths."""
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, (height, width)) in enumerate(sizes.items(), start=1)
    ]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (folder / "all.json").write_text(json.dumps(content))
    return {found.kind.name: found for found in find_image_problems(open_file(folder / "all.json"), decode=True)}


def test_check_counts_turned_dark_and_several_pictures(tmp_path):
    for orientation in ORIENTATIONS:
        write_turned(tmp_path / f"{orientation}.jpg", WIDE, orientation)
    sizes = {f"{orientation}.jpg": (3, 4) if orientation < 7 else (4, 3) for orientation in ORIENTATIONS}
    for bits in (8, 10, 12, 14, 16):
        ramp = np.linspace(0, 2**bits - 1, 12).reshape(3, 4)
        for suffix in ("png", "tif"):
            Image.fromarray(ramp.astype(np.uint16 if bits > 8 else np.uint8)).save(tmp_path / f"{bits}.{suffix}")
            sizes[f"{bits}.{suffix}"] = (3, 4)
    pages = [Image.fromarray(WIDE), Image.fromarray(WIDE // 2)]
    for name in ("pages.tif", "film.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        sizes[name] = (3, 4)

    found = check(tmp_path, sizes)

    assert found.keys() == {"images_turned", "images_dark", "images_of_pages"}
    turned = found["images_turned"]
    assert turned.counted == (
        "7 images have an EXIF orientation other than 1, 2 of them with the annotated size of their stored pixels"
    )
    assert turned.examples[0].endswith("2.jpg (2)")
    assert found["images_dark"].count == 4
    assert found["images_dark"].examples[0].endswith("10.png (up to 3 of 255)")
    assert found["images_of_pages"].count == 2
    assert "film.gif" in found["images_of_pages"].records


def test_check_says_nothing_of_usual_pictures(tmp_path):
    Image.fromarray(WIDE).save(tmp_path / "a.jpg")
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(tmp_path / "b.png")
    Image.fromarray(GRAY // 20).save(tmp_path / "c.png")  # 8 bits may be dark
    assert check(tmp_path, {"a.jpg": (3, 4), "b.png": (3, 4), "c.png": (3, 4)}) == {}


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 16)])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_bits_of_color_are_known_too(tmp_path, name, dtype, bits):
    cv2.imwrite(str(tmp_path / name), WIDE.astype(dtype) * (257 if bits == 16 else 1))
    with open_picture(tmp_path / name) as picture:
        assert read_header(picture).bits == bits
    assert torch.equal(load_image(tmp_path / name), as_tensor(WIDE[..., ::-1].copy()))


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_what_browsers_do_not_show_is_not_decoded_for_anybody(kind):
    """`serve` takes files from whoever reaches it."""
    file = io.BytesIO()
    Image.fromarray(WIDE).save(file, kind)
    with pytest.raises(RequestError, match="expected a JPEG, PNG, WebP or GIF file"):
        read_upload(file.getvalue(), "shown")
