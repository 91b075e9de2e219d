"""Images from files, lists, tar files and videos."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailseg.annotations.image_files import ImageError
from tailseg.inference.image_files import find_files, read_list
from tailseg.inference.sources import list_images


def encode(shade: int, kind: str = "PNG") -> bytes:
    """A small image of one shade of gray."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


SHARD = {
    "0001.jpg": encode(50, "JPEG"),
    "0001.json": b"{}",
    "sub/0002.png": encode(100),
    "._0003.png": b"of a Mac",
    "0004.cls": b"7",
    "0005.jpg": encode(50, "JPEG")[:100],
    "0006.webp": encode(200, "WEBP"),
}
"""What webdataset's shards hold: the files of a sample have one key; one image is cut off."""


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_a_tar_file_has_its_images_in_its_order(name: str, mode: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / name, SHARD, mode)
    images = list(list_images([path]))
    assert [image.name for image in images] == [
        f"{path.as_posix()}/{member}" for member in ("0001.jpg", "sub/0002.png", "0005.jpg", "0006.webp")
    ]
    assert [image.stem for image in images] == ["a_0001", "a_0002", "a_0005", "a_0006"]
    for image, shade in ((images[0], 50), (images[1], 100), (images[3], 200)):
        assert image.read("shown").shape == (3, 6, 8)
        assert int(image.read("shown").float().mean().round()) == shade
    with pytest.raises(ImageError, match=r"a\.t.*/0005\.jpg cannot be read"):
        images[2].read("shown")


@pytest.mark.parametrize(("mode", "length", "least"), [("w", 3000, 2), ("w:gz", 400, 1), ("w", 0, 0)])
def test_a_cut_tar_file_gives_what_it_has(mode: str, length: int, least: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "cut.tar", {f"{i}.png": encode(i) for i in range(20)}, mode)
    path.write_bytes(path.read_bytes()[:length])
    *whole, broken = list(list_images([path, write_tar(tmp_path / "next.tar", {"a.png": encode(1)})]))[:-1]
    assert least <= len(whole) < 20
    for image in whole[:-1]:
        image.read("shown")
    with pytest.raises(ImageError, match=rf"cut\.tar: the tar file cannot be read after {len(whole)} images"):
        broken.read("shown")


def test_links_and_folders_in_a_tar_file_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list(list_images([tmp_path / "links.tar"])) == []


def test_a_list_names_files_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeff# mine\n\nphotos/a.jpg\n/absolute/b.png \n")
    assert find_files(tmp_path / "list.txt") == [tmp_path / "photos/a.jpg", Path("/absolute/b.png")]
    (tmp_path / "two.txt").write_text("list.txt")
    with pytest.raises(ValueError, match="names another list, list.txt"):
        read_list(tmp_path / "two.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="expected UTF-8 text with a path in each line"):
        read_list(tmp_path / "bytes.txt")


def test_a_folder_holds_images_and_tar_files(tmp_path: Path) -> None:
    for name in ("b.tar", "a.jpg", "c.tgz", "notes.txt", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_files(tmp_path)] == ["a.jpg", "b.tar", "c.tgz"]


def write_video(path: Path, *, rotation: int = 0) -> Path:
    """Ten frames of 64 x 32 pixels, each brighter than the one before; the left quarter is black."""
    av = pytest.importorskip("av", reason="needs the extra video")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(10):
            pixels = np.full((32, 64, 3), 40 + 20 * number, np.uint8)
            pixels[:, :16] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    if rotation:  # the matrix of the track, which phones write: 16.16 fixed point
        content = path.read_bytes()
        place = content.index(b"tkhd") + 4 + 40
        matrix = {90: (0, 1, -1, 0)}[rotation]
        a, b, c, d = (int(value * 65536).to_bytes(4, "big", signed=True) for value in matrix)
        zero, one = bytes(4), (1 << 30).to_bytes(4, "big")
        path.write_bytes(content[:place] + a + b + zero + c + d + zero + bytes(8) + one + content[place + 36 :])
    return path


def test_a_video_has_its_frames(tmp_path: Path) -> None:
    images = list(list_images([write_video(tmp_path / "clip.mp4")], frame_step=4))
    assert [image.name.rpartition("#")[2] for image in images] == ["0", "4", "8"]
    assert [image.extra for image in images] == [{"frame": n, "seconds": pytest.approx(n / 5)} for n in (0, 4, 8)]
    assert images[1].stem == "clip_000004"
    pixels = images[1].read("shown")
    assert pixels.shape == (3, 32, 64)
    assert abs(float(pixels[:, :, 32:].float().mean()) - 120) < 5


def test_a_video_of_a_phone_is_turned_as_viewers_show_it(tmp_path: Path) -> None:
    """The matrix turns the left edge up."""
    image = next(list_images([write_video(tmp_path / "phone.mp4", rotation=90)]))
    stored, shown = image.read("stored"), image.read("shown")
    assert (stored.shape, shown.shape) == ((3, 32, 64), (3, 64, 32))
    assert float(stored[:, :, :12].float().mean()) < 10 < 35 < float(stored[:, :, 20:].float().mean())
    assert float(shown[:, :12].float().mean()) < 10 < 35 < float(shown[:, 20:].float().mean())


@pytest.mark.parametrize("content", [b"", b"no video", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n"])
def test_a_file_that_is_no_video_is_one_broken_image(content: bytes, tmp_path: Path) -> None:
    """A playlist would name other files, also in the network: its format is not accepted."""
    pytest.importorskip("av", reason="needs the extra video")
    write_video(tmp_path / "other.mp4")
    (tmp_path / "bad.mp4").write_bytes(content)
    (image,) = list_images([tmp_path / "bad.mp4"])
    with pytest.raises(ImageError, match=r"bad\.mp4: the video cannot be read"):
        image.read("shown")
