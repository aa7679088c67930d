"""Rasters written by rasterio, whose wheel ships GDAL, and the masked arrays that it reads."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def raster(
    path: Path,
    array: Array,
    *,
    mask: Array | None = None,
    scales: Sequence[tuple[float, float]] | None = None,
    names: Sequence[str] | None = None,
    driver: str = "GTiff",
    **options: Any,
) -> Path:
    """Write an array (C,H,W); `mask` becomes an internal mask, True where a pixel is valid."""
    import rasterio
    from rasterio.shutil import copy

    bands, height, width = array.shape
    first = path.with_suffix(".source.tif") if driver == "COG" else path
    of_source = {key: options.pop(key) for key in ("photometric", "nodata") if key in options}
    creation = {} if driver == "COG" else options
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        size = {"width": width, "height": height, "count": bands, "dtype": array.dtype}
        with rasterio.open(first, "w", driver="GTiff", **size, **of_source, **creation) as file:
            file.write(array)
            if mask is not None:
                file.write_mask(mask)
            if scales is not None:
                file.scales, file.offsets = zip(*scales, strict=True)
            if names is not None:
                file.descriptions = names
        if driver == "COG":
            copy(first, path, driver="COG", **options)
            first.unlink()
    return path


def reference(path: Path) -> Any:
    """Read all bands as a masked array of float64 (C,H,W), with scale and offset."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no place on earth in them
        file = rasterio.open(path)
    with file:
        values = file.read(masked=True).astype(np.float64)
        rows = (np.array(row)[:, None, None] for row in (file.scales, file.offsets))
        scale, offset = rows
        return values * scale + offset


def write_tags(path: Path, bands: Sequence[dict[str, str]]) -> None:
    """Set tags of each band of a raster."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "r+") as file:
            for band, tags in enumerate(bands, 1):
                file.update_tags(band, **tags)
