"""Files that GDAL writes next to rasters: their masks, nodata values and scales are not read, but reported."""

import re
from pathlib import Path
from typing import Any

from normcli.images import Decoded
from normcli.options.shared import DecodeOptions
from normcli.storage import is_remote
from normcli.storage.files import FileBytes

_LARGEST = 1 << 20
_NO_DATA = re.compile(rb"<NoDataValue\b")
_SCALE = re.compile(rb"<(?:Scale|Offset)>\s*(?!(?:0|1)(?:\.0*)?\s*<)[^<\s]")


def note_sidecars(load: Any, image: Decoded, reading: DecodeOptions) -> None:
    """Add notes to a local image for a mask file, a nodata value or a scale in other files, which are not read."""
    load = getattr(load, "loader", load)
    if not isinstance(load, FileBytes) or is_remote(load.path):
        return
    if Path(f"{load.path}.msk").is_file():
        image.notes.append("unread-mask")
    try:
        with Path(f"{load.path}.aux.xml").open("rb") as file:
            text = file.read(_LARGEST)
    except OSError:
        return
    if reading.nodata == "tag" and image.no_data is None and _NO_DATA.search(text):
        image.notes.append("unread-nodata")
    if reading.scale_offset != "none" and not image.scales and _SCALE.search(text):
        image.notes.append("unread-scale")
