"""GeoTIFF and other rasters of any number of bands and bits, read with rasterio (extra `geo`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.types import Orientation
from tailseg.lazy import needs_extra

DRIVERS: Final = {".jp2": "JP2OpenJPEG", ".png": "PNG"}
"""GDAL's names of formats by the ending of a file; all others are GeoTIFF. GDAL would look at the content, and a
file in a format such as VRT can name further files, also in the network."""
MAX_PIXELS: Final = 1_000_000_000
"""Pixels of the largest raster: 3 GB as RGB."""
_ROWS: Final = 512
"""Rows that are read at a time, as other numbers than bytes take more memory."""


@dataclass(frozen=True)
class RasterImage:
    """A raster file.

    Attributes:
        path: the file.
        bands: the numbers of three bands, from 1, for red, green and blue; or of one, for gray. None takes the first
            three, or the first one of fewer.
        values: the values that become 0 and 255, those outside are clipped; None takes all values of the file's type,
            as 0 .. 65535.
    """

    path: Path
    bands: tuple[int, ...] | None = None
    values: tuple[float, float] | None = None

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

    def read(self, orientation: Orientation) -> UInt8[Tensor, "3 h w"]:  # noqa: ARG002 - rasters have no EXIF
        """Reads the raster as RGB with 8 bits, some rows at a time. Pixels without a value are black.

        Raises:
            ImageError: it cannot be read, lacks a band, is too large, or its range of values is unknown.
            MissingPartError: the extra `geo` is not installed.
        """
        with needs_extra("geo"):
            import rasterio
            import rasterio.errors

        environment = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_DEBUG": False}  # no files next to this one
        try:
            driver = DRIVERS.get(self.path.suffix.lower(), "GTiff")
            with rasterio.Env(**environment), rasterio.open(self.path, driver=driver) as raster:
                return self._read(raster)
        except (rasterio.errors.RasterioError, OSError) as error:
            raise ImageError(f"image {self.path} cannot be read: {error}") from error

    def _read(self, raster: Any) -> Tensor:  # noqa: ANN401 - rasterio.DatasetReader
        bands = self.bands or ((1, 2, 3) if raster.count >= 3 else (1,))
        if max(bands) > raster.count:
            raise ImageError(f"image {self.path} has {raster.count} bands, and --bands names band {max(bands)}")
        height, width = raster.height, raster.width
        if height * width > MAX_PIXELS:
            raise ImageError(
                f"image {self.path} is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed"
            )
        low, high = self._choose_values({raster.dtypes[band - 1] for band in bands})
        pixels = np.empty((len(bands), height, width), np.uint8)
        for top in range(0, height, _ROWS):
            rows = slice(top, min(top + _ROWS, height))
            part = raster.read(bands, window=((rows.start, rows.stop), (0, width)), masked=True)
            scaled = (np.ma.filled(part.astype(np.float32), low) - low) * (255 / (high - low))
            pixels[:, rows] = np.nan_to_num(scaled).clip(0, 255).astype(np.uint8)
        return torch.from_numpy(pixels).expand(3, -1, -1)

    def _choose_values(self, types: set[str]) -> tuple[float, float]:
        if self.values is not None:
            return self.values
        if types <= {"uint8", "uint16"}:
            return (0, 255) if types == {"uint8"} else (0, 65_535)
        raise ImageError(
            f"image {self.path} has numbers of the type {', '.join(sorted(types))}, whose range is unknown: state the "
            "values that become black and white with --values"
        )
