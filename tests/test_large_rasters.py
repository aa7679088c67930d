"""Memory over rasters that are decoded in blocks, and files beyond 4 GB."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import normcli
from tests.support import needs
from tests.support.memory import peak
from tests.support.rasters import raster

needs.module("rasterio")
tifffile = needs.module("tifffile")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason=needs.LINUX)


def write_tiles(path: Path, side: int, bands: int, tiles: int) -> None:
    """Write a BigTIFF (side,side,bands) of 16 bits, of which the first and last `tiles` rows of tiles are stored."""
    import warnings

    import rasterio
    from rasterio.windows import Window

    tile = np.random.default_rng(0).integers(1, 4000, (bands, 512, 512)).astype(np.uint16)
    shape = {"width": side, "height": side, "count": bands, "dtype": "uint16", "nodata": 0}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "BIGTIFF": "YES", "sparse_ok": True}
    rows = range(0, side, 512)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", photometric="minisblack", **shape, **layout) as file:
            for top in {*rows[:tiles], *rows[len(rows) - tiles :]}:
                for left in rows:
                    height, width = min(512, side - top), min(512, side - left)
                    file.write(tile[:, :height, :width], window=Window(left, top, width, height))


def counted(folder: Path, name: str, limit: int) -> tuple[int, normcli.Summary]:
    """Return the peak memory in MB of counting a file in a fresh process, and the statistics."""
    megabytes, done = peak(folder, "stats", name, "--max-pixels", 10**10, "-o", "s.json", "-q", timeout=1200)
    assert done.returncode == 0, done.stderr
    assert megabytes <= limit
    return megabytes, normcli.load(folder / "s.json")


def test_a_large_raster_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    write_tiles(tmp_path / "a.tif", 6000, 4, 1)  # 288 MB of samples, most of them missing tiles
    _, summary = counted(tmp_path, "a.tif", 130)
    assert summary.pixels_of == [6000 * (512 + 6000 % 512)] * 4
    assert summary.invalid == [6000 * (6000 - 512 - 6000 % 512)] * 4


def test_limits_hold_for_files_read_in_parts(tmp_path: Path) -> None:
    write_tiles(tmp_path / "a.tif", 6000, 4, 3)
    assert (tmp_path / "a.tif").stat().st_size > 64 << 20
    for options, reason in (({"max_pixels": 1000}, "bomb"), ({"max_file_size": "70MB"}, "too-large")):
        with pytest.raises(normcli.NoInputError, match=f"1 {reason}"):
            normcli.stats(tmp_path / "a.tif", **options)


def test_a_large_file_that_ends_early_fails(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.ones((4, 3000, 3000), np.uint16), tiled=True, blockxsize=512, blockysize=512)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 1000])
    with pytest.raises(normcli.NoInputError, match="1 truncated"):
        normcli.stats(path)


def test_a_repeated_run_of_a_large_file_is_complete(tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", np.ones((4, 3000, 3000), np.uint16), tiled=True, blockxsize=512, blockysize=512)
    first = normcli.stats(path, output=tmp_path / "s.json", resume=True)
    resumed: list[int] = []
    again = normcli.stats(path, output=tmp_path / "s.json", resume=True, on_resume=resumed.append)
    assert (again.to_json(), resumed) == (first.to_json(), [1])


@pytest.mark.campaign
def test_20000_by_20000_by_4(tmp_path: Path) -> None:
    write_tiles(tmp_path / "a.tif", 20_000, 4, 20)  # 3.2 GB of samples
    counted(tmp_path, "a.tif", 240)


@pytest.mark.campaign
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_file_of_5_gb(tmp_path: Path, planar: str) -> None:
    shape: Any = (30_000, 42_000, 2) if planar == "contig" else (2, 30_000, 42_000)
    array = tifffile.memmap(
        tmp_path / "a.tif", shape=shape, dtype="uint16", bigtiff=True, photometric="minisblack", planarconfig=planar
    )
    last = (-1, -1, slice(None)) if planar == "contig" else (slice(None), -1, -1)
    array[last] = 40_000
    del array
    assert (tmp_path / "a.tif").stat().st_size > 5 * 10**9
    _, summary = counted(tmp_path, "a.tif", 240)
    assert summary.mean == [float(Fraction(40_000, 65535 * 30_000 * 42_000))] * 2
    assert summary.max == [40_000 / 65535] * 2
