"""The levels of an image in OME-Zarr."""

import os
from typing import Any

from normcli.sources.volume import read_json


def levels_of(source: str, path: str) -> list[str]:
    """Return the paths of the smaller levels of an image, of which `path` is level 0; [] for any other array."""
    group, _, name = path.rpartition("/")
    folder = os.path.join(source, group)  # noqa: PTH118
    attributes: Any = read_json(os.path.join(folder, "zarr.json")).get("attributes")  # noqa: PTH118
    attributes = attributes or read_json(os.path.join(folder, ".zattrs"))  # noqa: PTH118
    try:
        scales = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
        names = [str(level["path"]) for level in scales]
    except (KeyError, IndexError, TypeError, AttributeError):
        return []
    if not names or names[0] != name:
        return []
    return [f"{group}/{one}".strip("/") for one in names[1:] if ".." not in one.split("/") and one[:1] != "/"]
