"""GeoTIFF files of any bands and bits, read with rasterio."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tailseg.annotations.image_files import ImageError
from tailseg.inference.raster import RasterImage
from tailseg.inference.sources import list_images

rasterio = pytest.importorskip("rasterio", reason="needs the extra geo")


def write(path: Path, pixels: np.ndarray, **profile) -> Path:
    """A GeoTIFF with a place on Earth; pixels ``[bands, height, width]``."""
    bands, height, width = pixels.shape
    transform = rasterio.transform.from_origin(500_000, 5_000_000, 10, 10)
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype, **profile}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **profile) as raster:
        raster.write(pixels)
    return path


def ramp(bands: int, dtype: str, factor: int) -> np.ndarray:
    """Band b of pixel (y, x) is factor * (100 b + 10 y + x)."""
    y, x = np.mgrid[:6, :9]
    return np.stack([factor * (100 * band + 10 * y + x) for band in range(bands)]).astype(dtype)


def test_bands_and_values_are_chosen(tmp_path: Path) -> None:
    pixels = ramp(5, "uint16", 5)
    path = write(tmp_path / "scene.tif", pixels, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    found = RasterImage(path, bands=(4, 2, 1), values=(100, 2100)).read("shown")
    expected = ((pixels[[3, 1, 0]].astype(np.float32) - 100) * np.float32(255 / 2000)).clip(0, 255).astype(np.uint8)
    assert found.dtype == torch.uint8
    assert np.abs(found.numpy().astype(int) - expected).max() <= 1
    assert found.max() > 200
    assert found.min() == 0


def test_without_options_the_first_bands_and_all_values_of_the_type_are_taken(tmp_path: Path) -> None:
    wide = ramp(4, "uint16", 100)
    found = RasterImage(write(tmp_path / "wide.tif", wide)).read("shown").numpy().astype(int)
    assert np.abs(found - (wide[:3] / 257).astype(int)).max() <= 1
    gray = ramp(2, "uint8", 1)
    found = RasterImage(write(tmp_path / "gray.tif", gray)).read("shown").numpy()
    assert found.shape == (3, 6, 9)
    assert (found == gray[0]).all()


def test_pixels_without_a_value_are_black(tmp_path: Path) -> None:
    pixels = ramp(1, "float32", 1)
    pixels[0, 0, 0], pixels[0, 1, 1] = -9999, np.nan
    found = RasterImage(write(tmp_path / "holes.tif", pixels, nodata=-9999), values=(-50, 100)).read("shown")
    assert found[0, 0, 0] == found[0, 1, 1] == 0
    assert found[0, 2, 2] > 100


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "float.tif", ramp(1, "float32", 1))
    with pytest.raises(
        ImageError, match=r"float.tif has numbers of the type float32, whose range is unknown: .*--values"
    ):
        RasterImage(path).read("shown")
    with pytest.raises(ImageError, match="has 1 bands, and --bands names band 3"):
        RasterImage(path, bands=(3, 2, 1), values=(0, 1)).read("shown")
    (tmp_path / "bad.tif").write_bytes(path.read_bytes()[:60])
    (tmp_path / "other.tif").write_text(f'<VRTDataset rasterXSize="9" rasterYSize="6"><SRS/></VRTDataset>{path}')
    for name in ("bad.tif", "other.tif", "missing.tif"):
        with pytest.raises(ImageError, match=rf"{name} cannot be read"):
            RasterImage(tmp_path / name).read("shown")


def test_rasters_are_opened_as_rasters_where_asked(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.tif", "b.jpg", "c.TIFF")]
    kinds = [type(image).__name__ for image in list_images(paths, raster=RasterImage)]
    assert kinds == ["RasterImage", "FileImage", "RasterImage"]
    assert {type(image).__name__ for image in list_images(paths)} == {"FileImage"}
