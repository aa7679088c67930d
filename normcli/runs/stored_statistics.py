"""Statistics that GDAL has stored in rasters, in their tags or in an .aux.xml file, compared with their pixels."""

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from normcli import sources as containers
from normcli.images.tiff_blocks import stored_statistics
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs.count import WorkerOptions, count_batch
from normcli.sources import Item
from normcli.storage import is_remote
from normcli.storage.files import FileBytes
from normcli.summary.summary import white_level

_SUFFIXES = (".tif", ".tiff")
_MOST_NAMED = 3
_EXACT, _APPROXIMATE = 1e-6, 0.1  # of the spread of the pixels
_GDAL_NAMES = {"mean": "MEAN", "std": "STDDEV", "min": "MINIMUM", "max": "MAXIMUM"}
_STORED = DecodeOptions(color="native", scale_offset="none")


def stale_statistics(sources: Iterable[str], listing: InputOptions) -> list[str]:
    """Return a sentence for each raster with stored statistics other than those of its pixels, up to three.

    Every raster that has some is read once more. GDAL counts the samples that have data, as they are stored.

    Args:
        sources: folders and files; others are left out.
        listing: the selection of inputs.
    """
    remarks: list[str] = []
    for item in containers.read(list(sources), listing, ()):
        load = item.load if isinstance(item, Item) else None
        if isinstance(load, FileBytes) and load.path.lower().endswith(_SUFFIXES) and not is_remote(load.path):
            remarks += _differences(Item(item.key, load))
    more = len(remarks) - _MOST_NAMED
    named = remarks[:_MOST_NAMED]
    return [*named, f"and {more} more with stale GDAL statistics"] if more > 0 else named


def _differences(item: Item) -> Iterator[str]:
    """Yield a sentence on the first stored value of each origin that the pixels do not have."""
    path = os.fspath(item.load.path)  # type: ignore[attr-defined]
    origins = stored_statistics(path, _sidecar(path))
    if not origins:
        return
    records = count_batch(WorkerOptions(reading=_STORED, nan="skip", per_image=True), [item]).records
    if not records or records[0]["depth"] < 8 or records[0]["mode"].startswith("P"):
        return  # it failed, or its values are not those that GDAL counts
    counted = records[0]
    white = white_level(f"uint{counted['depth']}", None) if counted["depth"] in (8, 16) and _is_unsigned(counted) else 1
    for origin, tags in origins.items():
        for band, stored in enumerate(tags.statistics[: counted["channels"]], 1):
            actual = {key: (counted[key][band - 1] or 0.0) * (white or 1) for key in _GDAL_NAMES}
            tolerance = (_APPROXIMATE if tags.approximate else _EXACT) * max(actual["std"], abs(actual["mean"]) * 1e-3)
            off = next((key for key in stored if not _is_close(stored[key], actual[key], tolerance)), None)
            if off is not None and not (tags.approximate and off in ("min", "max")):
                yield (
                    f"{item.key}: STATISTICS_{_GDAL_NAMES[off]} of band {band} in {origin} is stale: "
                    f"{stored[off]:.6g}, and its pixels have {actual[off]:.6g} (gdal_edit -stats computes it anew)"
                )
                break


def _is_unsigned(record: dict[str, Any]) -> bool:
    return not any(kind in record["mode"] for kind in ("int16", "int8")) or "uint" in record["mode"]


def _is_close(stored: float, actual: float, tolerance: float) -> bool:
    return math.isfinite(stored) and abs(stored - actual) <= tolerance + 1e-12 * abs(actual)


def _sidecar(path: str) -> str | None:
    try:
        return Path(f"{path}.aux.xml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
