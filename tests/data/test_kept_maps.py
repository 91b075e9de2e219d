"""Maps of a frozen backbone on disk: what is read is what was written, and a folder is complete or not read."""

import json

import pytest
import torch

from tailseg.annotations.image_files import ImageError
from tailseg.data.kept_maps import KeptMaps, write_kept_maps
from tailseg.models.images import stack_maps
from tailseg.structures import Batch, ImageMaps

CHANNELS = (2, 3, 4, 5)
SIZES = ((33, 64), (20, 40))


def random_maps(size, seed):
    """The four maps [C, rows, columns] of an image, by the definition of the strides."""
    height, width = (-(-side // 32) * 32 for side in size)
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (count, height // stride, width // stride) for count, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]
    return [torch.randn(shape, generator=generator).half().float() for shape in shapes]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "maps"
    with write_kept_maps(folder, CHANNELS) as writer:
        for image, size in ((7, SIZES[0]), (3, SIZES[1])):
            for mirrored in (False, True):
                maps = random_maps(size, 2 * image + mirrored)
                writer.add(image, ImageMaps.from_maps(maps, size), mirrored=mirrored)
        writer.index.exif["3"] = 6
        writer.index.errors["5"] = "five.jpg is truncated"
    return folder


def test_the_maps_of_each_image_come_back(folder):
    kept = KeptMaps(folder)
    for image, size in ((3, SIZES[1]), (7, SIZES[0])):
        for mirrored in (True, False):
            read = kept.read(image, size, mirrored=mirrored)
            assert (read.size, read.channels) == (size, CHANNELS)
            for level, expected in zip(read.split(), random_maps(size, 2 * image + mirrored), strict=True):
                assert torch.equal(level.permute(2, 0, 1).float(), expected)
    assert kept.num_bytes == 2 * 2 * sum(ImageMaps.count_values(size, CHANNELS) for size in SIZES)


def test_the_origin_of_an_image_is_known_without_its_file(folder):
    kept = KeptMaps(folder)
    assert (kept.get_exif(7), kept.get_exif(3)) == (1, 6)
    with pytest.raises(ImageError, match=r"five\.jpg is truncated"):
        kept.get_exif(5)


def test_a_batch_has_zeros_where_only_a_larger_image_has_cells(folder):
    kept = KeptMaps(folder)
    images = tuple(kept.read(image, size, mirrored=False) for image, size in ((3, SIZES[1]), (7, SIZES[0])))
    features, sizes = stack_maps(Batch(images, (), ()).to("cpu").images)
    assert sizes == (SIZES[1], SIZES[0])
    small, large = random_maps(SIZES[1], 6), random_maps(SIZES[0], 14)
    for level, (first, second) in zip(features, zip(small, large, strict=True), strict=True):
        expected = torch.zeros_like(level)
        expected[0, :, : first.shape[1], : first.shape[2]] = first
        expected[1] = second
        assert torch.equal(level, expected)
        assert level.is_contiguous(memory_format=torch.channels_last)


def test_an_interrupted_folder_is_not_read(tmp_path):
    def fail():
        with write_kept_maps(tmp_path / "maps", CHANNELS) as writer:
            writer.add(0, ImageMaps.from_maps(random_maps(SIZES[0], 0), SIZES[0]), mirrored=False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(FileNotFoundError):
        KeptMaps(tmp_path / "maps")
    assert not list((tmp_path / "maps").iterdir())


@pytest.mark.parametrize("change", ["version", "length"])
def test_files_that_do_not_belong_together_are_refused(folder, change):
    index = folder / "index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, change: content[change] + 1}))
    with pytest.raises(ValueError, match="does not hold kept maps of this version: delete it"):
        KeptMaps(folder)


@pytest.mark.parametrize("value", [70_000.0, float("nan")])
def test_numbers_that_float16_cannot_hold_are_refused(tmp_path, value):
    maps = random_maps(SIZES[0], 0)
    maps[2][0, 0, 0] = value
    with (
        pytest.raises(ValueError, match=r"not finite or above 65,504.*without --data\.keep-maps"),
        write_kept_maps(tmp_path, CHANNELS) as writer,
    ):
        writer.add(0, ImageMaps.from_maps(maps, SIZES[0]), mirrored=False)
