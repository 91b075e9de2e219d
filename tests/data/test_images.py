"""Finding and reading image files."""

import dataclasses
import struct
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.io import encode_jpeg, encode_png, write_file

from tailseg.annotations.image_files import ImageError, ImageFinder, SharedNameError, is_safe_name, list_candidate_names
from tailseg.annotations.pictures import MAX_PIXELS, open_picture, read_size
from tailseg.annotations.ragged import Ragged
from tailseg.data.images import load_image, read_image
from tailseg.structures import ImageInfo

URL = "http://images.cocodataset.org/train2017/000000000009.jpg"


@pytest.fixture
def picture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 36, 48), dtype=torch.uint8, generator=generator)


@pytest.fixture
def jpeg(tmp_path: Path, picture: torch.Tensor) -> ImageInfo:
    path = tmp_path / "a.jpg"
    write_file(str(path), encode_jpeg(picture))
    return ImageInfo(5, str(path), 36, 48)


@pytest.mark.parametrize(
    ("file_name", "coco_url", "expected"),
    [
        ("a.jpg", None, ["a.jpg"]),
        ("sub/a.jpg", None, ["sub/a.jpg", "a.jpg"]),
        (None, URL, ["train2017/000000000009.jpg", "000000000009.jpg"]),
        ("COCO_9.jpg", URL, ["COCO_9.jpg", "train2017/000000000009.jpg", "000000000009.jpg"]),
        ("a.jpg", "C:\\photos\\a.jpg", ["a.jpg"]),
        (None, "C:\\photos\\a.jpg", ["C:/photos/a.jpg", "a.jpg"]),  # the first of them to be refused
        (None, None, []),
    ],
)
def test_names_of_an_image(file_name: str | None, coco_url: str | None, expected: list[str]) -> None:
    assert list_candidate_names(file_name, coco_url) == expected


@pytest.mark.parametrize(
    "place", ["ann/a.jpg", "ann/images/a.jpg", "a.jpg", "images/a.jpg", "env/a.jpg", "env/coco/a.jpg", "d2/coco/a.jpg"]
)
def test_images_are_found_in_each_place(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILSEG_DATA", str(tmp_path / "env"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "d2"))
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    finder = ImageFinder(tmp_path / "ann" / "train.json")
    assert finder.find(["a.jpg"]) == path
    assert finder.find(["missing.jpg", "a.jpg"]) == path


def test_a_named_folder_is_the_only_place(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "elsewhere").mkdir()
    finder = ImageFinder(tmp_path / "train.json", tmp_path / "elsewhere")
    with pytest.raises(
        ImageError, match=r"image a\.jpg not found\. Searched for a\.jpg and b\.jpg in .*elsewhere\. Name"
    ):
        finder.find(["a.jpg", "b.jpg"])


def test_which_file_is_found_does_not_depend_on_those_before(tmp_path: Path) -> None:
    """An image that is found by the second of its names must not make another one's second name the first choice."""
    for name in ("images/1.jpg", "images/2.jpg", "images/sub/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    finder = ImageFinder(tmp_path / "train.json")
    assert finder.find(["sub/2.jpg", "2.jpg"]) == tmp_path / "images" / "2.jpg"
    assert finder.find(["sub/1.jpg", "1.jpg"]) == tmp_path / "images" / "sub" / "1.jpg"


def test_a_missing_image_tells_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILSEG_DATA", "/nowhere")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    with pytest.raises(ImageError) as caught:
        ImageFinder(tmp_path / "train.json").find(["a.jpg"])
    for place in (tmp_path, tmp_path / "images", tmp_path.parent, Path("/nowhere"), Path("/nowhere/coco")):
        assert str(place) in str(caught.value)


def test_a_path_that_is_too_long_is_not_found(tmp_path: Path) -> None:
    """The name fits, behind the folder it does not."""
    name = "a/" * 2040 + "a.jpg"
    assert is_safe_name(name)
    with pytest.raises(ImageError, match="not found"):
        ImageFinder(tmp_path / "train.json").find([name])


def test_png_is_read_exactly(tmp_path: Path, picture: torch.Tensor) -> None:
    path = tmp_path / "a.png"
    write_file(str(path), encode_png(picture))
    assert torch.equal(read_image(ImageInfo(1, str(path), 36, 48)), picture)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_every_kind_of_png_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (48, 36)).save(path)
    image = load_image(path)
    assert image.shape == (3, 36, 48)
    assert image.dtype == torch.uint8


def test_exif_orientation_is_not_applied(tmp_path: Path, picture: torch.Tensor) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at it
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path, exif=exif)
    assert read_image(ImageInfo(1, str(path), 36, 48)).shape == (3, 36, 48)


@pytest.mark.parametrize("kept", [0, 10, 300, -1])
def test_a_truncated_jpeg_names_the_file(kept: int, jpeg: ImageInfo) -> None:
    path = Path(jpeg.file)
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept >= 0 else len(content) // 2])
    with pytest.raises(ImageError, match=rf"image {path} cannot be read: .+Replace the file \(JPEG") as caught:
        read_image(jpeg)
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_no_image_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("<html>404</html>")
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read"):
        load_image(path)
    with pytest.raises(ImageError, match=r"b\.jpg cannot be read: .*No such file"):
        load_image(tmp_path / "b.jpg")


def test_a_size_that_disagrees_with_the_annotations(jpeg: ImageInfo) -> None:
    with pytest.raises(
        ImageError, match=r"\(id 5\) is 48 x 36 pixels .*says 96 x 36: use the original image, or correct"
    ):
        read_image(dataclasses.replace(jpeg, width=96))
    with pytest.raises(ImageError, match="says 36 x 48: it may have been annotated after an EXIF rotation"):
        read_image(dataclasses.replace(jpeg, width=36, height=48))
    with pytest.raises(ImageError, match="width and height are exchanged in the annotation file; correct them"):
        read_image(dataclasses.replace(jpeg, width=36, height=48))


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "a/../../b.jpg",
        "/etc/passwd",
        "\\\\host\\a.jpg",
        "..\\a.jpg",
        "C:\\a.jpg",
        "C:a.jpg",
        "a.jpg\n/etc/passwd",  # names are kept a line each
        "a\0.jpg",
        "\ud800.jpg",
        "x" * 256,
        "a/" * 3000 + "a.jpg",
        "",
    ],
)
def test_names_that_lead_out_or_that_no_file_has(name: str) -> None:
    assert not is_safe_name(name)


@pytest.mark.parametrize("name", ["a.jpg", "train2017/a.jpg", "..a/b..jpg", "naïve 日本語\u3000.jpg", "x" * 255])
def test_names_that_stay_in_the_folder(name: str) -> None:
    assert is_safe_name(name)


@given(st.text("aB_1-./\\: \n\0é", min_size=1, max_size=8))
def test_plain_names_are_judged_as_all_others(name: str) -> None:
    """They are told by one pattern, without a look at their parts."""
    folded = name.replace("\\", "/")
    stays = ".." not in folded.split("/") and folded[0] != "/" and name[1:2] != ":" and min(name) >= " "
    assert is_safe_name(name) == stays
    last = PurePosixPath(folded).name
    assert list_candidate_names(name, None) == list(dict.fromkeys(each for each in (name, folded, last) if each))


def png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel: a few kilobytes for any size."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj()
    row = bytes(1 + (width + 7) // 8)
    rows = b"".join(packer.compress(row * min(1000, height - done)) for done in range(0, height, 1000))
    return png_file([(b"IHDR", header), (b"IDAT", rows + packer.flush()), (b"IEND", b"")])


def png_file(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The chunks, each with its length and its check sum."""
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_png_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(30_000, 30_000))
    assert path.stat().st_size < 1_000_000 < MAX_PIXELS < 30_000**2
    with pytest.raises(
        ImageError, match=r"bomb\.png is too large: .*900000000 pixels.* at most 178,956,970 are allowed"
    ):
        load_image(path)
    path.write_bytes(png(300, 200))
    assert load_image(path).shape == (3, 200, 300)


def test_a_jpeg_that_would_take_hours_is_refused(tmp_path: Path) -> None:
    """Each scan of a few bytes goes over all pixels; those in a comment and behind the image do not count."""
    path = tmp_path / "bomb.jpg"
    Image.new("L", (480, 360)).save(path, progressive=True, comment=b"\xff\xda" * 200)
    right = path.read_bytes()
    assert right.count(b"\xff\xda") > 200
    path.write_bytes(right + b"\xff\xda" * 200)
    assert load_image(path).shape == (3, 360, 480)
    again = right[right.rindex(b"\xff\xda") : -2]
    path.write_bytes(right[:-2] + again * 95 + right[-2:])
    with pytest.raises(ImageError, match=r"bomb\.jpg cannot be read: it has 101 scans, and at most 100 are allowed"):
        load_image(path)
    path.write_bytes(right[:-2] + again * 94 + right[-2:])
    assert load_image(path).shape == (3, 360, 480)


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """A PNG's chunks, kind and data, read as its specification says."""
    found, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_damaged_png_is_refused_and_the_process_lives(mode: str, tmp_path: Path, picture: torch.Tensor) -> None:
    """Any bit of the compressed pixels, with the check sum as it was, or as a forger would set it."""
    path, image = tmp_path / "a.png", Image.fromarray(picture.permute(1, 2, 0).numpy())
    deep = Image.fromarray(picture[0].numpy().astype("uint16") * 257)
    (deep if mode == "I;16" else image.convert(mode)).save(path)
    right = path.read_bytes()
    assert load_image(path).shape == (3, 36, 48)
    parts = chunks(right)
    assert png_file(parts) == right
    start = right.index(b"IDAT") + 4
    size = len(dict(parts)[b"IDAT"])
    for at in range(0, size, size // 30):
        damaged = bytearray(right)
        damaged[start + at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"a\.png cannot be read: .+Replace the file"):
            load_image(path)
        path.write_bytes(png_file(chunks(bytes(damaged))))
        with suppress(ImageError):  # some bits only change pixels
            load_image(path)


def test_gray_of_16_bits_keeps_the_upper_byte(tmp_path: Path) -> None:
    values = torch.arange(36 * 48).reshape(36, 48) * 37
    Image.fromarray(values.numpy().astype("uint16")).save(tmp_path / "a.png")
    assert torch.equal(load_image(tmp_path / "a.png"), (values // 256).to(torch.uint8).expand(3, -1, -1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_transparency_is_dropped(mode: str, tmp_path: Path, picture: torch.Tensor) -> None:
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    opaque = image.quantize(64) if mode == "P" else image.convert(mode[:-1])
    seen = opaque.copy()
    if mode == "P":
        opaque.save(tmp_path / "a.png", transparency=bytes(range(64)))
    else:
        seen.putalpha(image.convert("L"))
        seen.save(tmp_path / "a.png")
    expected = torch.from_numpy(np.array(opaque.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(load_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_picture_is_read(suffix: str, tmp_path: Path, picture: torch.Tensor) -> None:
    path = tmp_path / f"a.{suffix}"
    first = Image.fromarray(picture.permute(1, 2, 0).numpy()).quantize(64)
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(path, save_all=True, append_images=[first.rotate(180), first], **lossless)
    with Image.open(path) as saved:
        assert saved.n_frames == 3
    expected = torch.from_numpy(np.array(first.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(load_image(path), expected)


def test_a_large_image_that_is_allowed_comes_without_a_warning(tmp_path):
    """Pillow warns of half as many pixels as are read; the tests make warnings errors."""
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 9_000)).save(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert read_size(path) == (9_000, 10_000)
        with open_picture(path) as picture:
            assert picture.size == (10_000, 9_000)
    assert told == []


def test_a_name_without_its_folder_is_the_last_resort(tmp_path):
    """Other folders hold other images of the same name: the listed one is looked for one folder lower as well."""
    for file in ("set/0001.png", "set/deep/valid/0001.png", "train/0002.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    finder = ImageFinder(tmp_path / "set" / "all.json")
    assert finder.find(["valid/0001.png", "0001.png"]) == tmp_path / "set" / "deep" / "valid" / "0001.png"
    assert finder.find(["train/0001.png", "0001.png"]) == tmp_path / "set" / "0001.png"
    assert finder.find(["0001.png", "train2017/0001.png"]) == tmp_path / "set" / "0001.png"
    finder = ImageFinder(tmp_path / "annotations" / "all.json")
    assert finder.find(["other/0002.png", "0002.png"]) == tmp_path / "train" / "0002.png"


@pytest.mark.parametrize("separator", ["/", "\\"])
def test_a_bare_name_of_images_in_several_folders_finds_none_of_them(tmp_path: Path, separator: str) -> None:
    """The cats' folder was flattened: a dog of the same name must not be read from a cat's picture."""
    names = [f"{kind}{separator}{number}.png" for kind in ("cats", "dogs") for number in (0, 1)] + ["cats/2.png"]
    rows = Ragged.pack_text("\n".join(list_candidate_names(name, None)) for name in names)
    finder = ImageFinder(tmp_path / "all.json", None, rows)
    for file in ("0.png", "1.png", "2.png", "dogs/1.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()

    found = {}
    for row, name in enumerate(names):
        with suppress(SharedNameError):
            found[name] = finder.find(rows.text(row).split("\n")).relative_to(tmp_path).as_posix()

    assert found == {names[3]: "dogs/1.png", "cats/2.png": "2.png"}
    with pytest.raises(
        SharedNameError, match=r"0\.png has the same last part, but so do other images: cats/0.png, dogs/0"
    ):
        finder.find(list_candidate_names(names[2], None))


def test_an_image_one_folder_lower_is_found_but_not_beside_the_file(tmp_path: Path) -> None:
    annotation_file = tmp_path / "set" / "labels" / "instances_default.json"
    lower = tmp_path / "set" / "images" / "default" / "a.jpg"
    for file in (annotation_file, lower, tmp_path / "set" / "other" / "b.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert ImageFinder(annotation_file).find(["a.jpg"]) == lower
    with pytest.raises(ImageError, match="image b.jpg not found"):
        ImageFinder(annotation_file).find(["b.jpg"])
