"""Where images come from: files, tar files in webdataset's layout, and videos.

`list_images` yields the images in an order that is always the same, without decoding them (frames of a video are
decoded on the way). `read` of an image may run in another thread or process.
"""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import Orientation
from tailseg.data.images import decode, load_image
from tailseg.inference.image_files import RASTERS, SHARDS, SUFFIXES, VIDEOS, has_ending
from tailseg.inference.raster import RasterImage
from tailseg.lazy import needs_extra

_CONTAINERS: Final = "mov,matroska,webm,avi"
"""FFmpeg's names of the formats of `VIDEOS`. Others can name further files, also in the network."""


@dataclass(frozen=True)
class FileImage:
    """An image file.

    Attributes:
        path: the file.
    """

    path: Path

    @property
    def name(self) -> str:
        """The name in results and messages."""
        return self.path.as_posix()

    @property
    def stem(self) -> str:
        """The name of its picture, without an ending."""
        return self.path.stem

    @property
    def extra(self) -> dict[str, Any]:
        """Further entries of its line in results.jsonl."""
        return {}

    def read(self, orientation: Orientation) -> UInt8[Tensor, "3 h w"]:
        """Returns the image in RGB, uint8 ``[3, h, w]``.

        Raises:
            ImageError: it cannot be read.
        """
        return load_image(self.path, orientation)


@dataclass(frozen=True)
class MemberImage:
    """An image in a tar file.

    Attributes:
        tar: the tar file.
        member: the name of the member.
        offset: where its content begins in the file, in bytes.
        size: the length of its content, in bytes.
        content: its content, if the tar file is compressed; no place in such a file can be read alone.
    """

    tar: Path
    member: str
    offset: int
    size: int
    content: bytes | None = None

    @property
    def name(self) -> str:
        """The name in results and messages."""
        return f"{self.tar.as_posix()}/{self.member}"

    @property
    def stem(self) -> str:
        """The name of its picture, without an ending."""
        return f"{self.tar.name.partition('.')[0]}_{PurePosixPath(self.member).stem}"

    @property
    def extra(self) -> dict[str, Any]:
        """Further entries of its line in results.jsonl."""
        return {}

    def read(self, orientation: Orientation) -> UInt8[Tensor, "3 h w"]:
        """Returns the image in RGB, uint8 ``[3, h, w]``.

        Raises:
            ImageError: it cannot be read.
        """
        content = self.content
        if content is None:
            try:
                with self.tar.open("rb") as file:
                    file.seek(self.offset)
                    content = file.read(self.size)
            except OSError as error:
                raise ImageError(f"image {self.name} cannot be read: {error}") from error
        return decode(content, self.name, orientation)


@dataclass(frozen=True)
class FrameImage:
    """A frame of a video.

    Attributes:
        video: the file.
        number: the frame's number, from 0.
        seconds: its time in the video; None if the video does not say.
        rotation: in degrees against the clock, by which viewers turn it.
        pixels: RGB, uint8 array ``[height, width, 3]``, as stored.
    """

    video: Path
    number: int
    seconds: float | None
    rotation: int
    pixels: UInt8[np.ndarray, "h w 3"]

    @property
    def name(self) -> str:
        """The name in results and messages."""
        return f"{self.video.as_posix()}#{self.number}"

    @property
    def stem(self) -> str:
        """The name of its picture, without an ending."""
        return f"{self.video.stem}_{self.number:06}"

    @property
    def extra(self) -> dict[str, Any]:
        """Further entries of its line in results.jsonl."""
        return {"frame": self.number, "seconds": self.seconds}

    def read(self, orientation: Orientation) -> UInt8[Tensor, "3 h w"]:
        """Returns the frame in RGB, uint8 ``[3, h, w]``."""
        turns = round(self.rotation / 90) % 4 if orientation == "shown" else 0
        return torch.from_numpy(np.ascontiguousarray(np.rot90(self.pixels, turns))).permute(2, 0, 1)


@dataclass(frozen=True)
class BrokenImage:
    """The place of images that cannot be listed, since their tar file or video is damaged.

    Attributes:
        name: in results and messages.
        reason: what is damaged.
    """

    name: str
    reason: str
    stem: str = "broken"

    @property
    def extra(self) -> dict[str, Any]:
        """Further entries of its line in results.jsonl."""
        return {}

    def read(self, orientation: Orientation) -> UInt8[Tensor, "3 h w"]:  # noqa: ARG002 - as the others
        """Raises the error.

        Raises:
            ImageError: always.
        """
        raise ImageError(f"{self.name}: {self.reason}")


SourceImage = FileImage | MemberImage | FrameImage | BrokenImage | RasterImage


def list_images(
    paths: Iterable[Path], *, frame_step: int = 1, raster: Callable[[Path], RasterImage] | None = None
) -> Iterator[SourceImage]:
    """Lists the images of files, one after the other.

    Args:
        paths: image files, tar files and videos.
        frame_step: of a video, every such frame is an image.
        raster: opens the files of rasters' formats; None reads them as photographs.

    Yields:
        The images. What is damaged yields an image whose `read` raises the error, and the listing goes on.

    Raises:
        MissingPartError: there is a video, and the extra `video` is not installed.
    """
    for path in paths:
        if has_ending(path, SHARDS):
            yield from _list_members(path)
        elif has_ending(path, VIDEOS):
            yield from _decode_frames(path, frame_step)
        elif raster is not None and has_ending(path, RASTERS):
            yield raster(path)
        else:
            yield FileImage(path)


def _list_members(path: Path) -> Iterator[SourceImage]:
    count = 0
    try:
        archive, is_plain = _open_tar(path)
        with archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isreg() or name.suffix.lower() not in SUFFIXES or name.name.startswith("."):
                    continue
                content = None
                if not is_plain or member.issparse():
                    file = archive.extractfile(member)
                    content = file.read() if file else b""
                yield MemberImage(path, member.name, member.offset_data, member.size, content)
                count += 1
    except (tarfile.TarError, EOFError, OSError) as error:
        yield BrokenImage(path.as_posix(), f"the tar file cannot be read after {count} images: {error}", path.stem)


def _open_tar(path: Path) -> tuple[tarfile.TarFile, bool]:
    """Opens a tar file; a compressed one (then False comes with it) as a stream, from its start to its end."""
    try:
        return tarfile.open(path, "r:"), True
    except tarfile.ReadError:
        return tarfile.open(path, "r|*"), False


def _decode_frames(path: Path, step: int) -> Iterator[SourceImage]:
    with needs_extra("video"):
        import av

    number = -1
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
        with av.open(str(path), container_options=options) as container:
            if not container.streams.video:
                yield BrokenImage(path.as_posix(), "the file has no video", path.stem)
                return
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number % step == 0:
                    pixels = frame.to_ndarray(format="rgb24")
                    yield FrameImage(path, number, frame.time, int(frame.rotation), pixels)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        yield BrokenImage(path.as_posix(), f"the video cannot be read after frame {number}: {error}", path.stem)
