"""The levels of an image in OME-Zarr."""

import os
from typing import Any

from normcli.sources.volume import read_json


def levels_of(source: str, path: str) -> list[str]:
    """Return the paths of the smaller levels of an image, of which `path` is level 0; [] for any other array."""
    parts = path.split("/")
    for count in reversed(range(len(parts))):  # the path of a level in its image may have several parts
        group, name = "/".join(parts[:count]), "/".join(parts[count:])
        names = _paths(os.path.join(source, group))  # noqa: PTH118
        if names:
            others = names[1:] if names[0] == name else []
            return [f"{group}/{one}".strip("/") for one in others if ".." not in one.split("/") and one[:1] != "/"]
    return []


def _paths(folder: str) -> list[str]:
    """Return the paths of the levels of an image in its folder; [] for another folder."""
    attributes: Any = read_json(os.path.join(folder, "zarr.json")).get("attributes")  # noqa: PTH118
    attributes = attributes or read_json(os.path.join(folder, ".zattrs"))  # noqa: PTH118
    try:
        return [str(level["path"]) for level in attributes.get("ome", attributes)["multiscales"][0]["datasets"]]
    except (KeyError, IndexError, TypeError, AttributeError):
        return []
