"""Versions of files and containers, which an incremental run compares to find changes."""

import json
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from normcli import sources as containers
from normcli import storage
from normcli.errors import UsageError
from normcli.options.shared import InputOptions
from normcli.sources import Item
from normcli.storage.files import FileBytes

if TYPE_CHECKING:
    from normcli.runs.masks import PixelMask


def version_of_item(item: Item, mask: "PixelMask | None") -> str | None:
    """Return the version of a file, its mask and its label as JSON; None if it has none.

    Raises:
        UsageError: a server that sends no versions.
    """
    load = item.load
    if not isinstance(load, FileBytes):  # unusable, as the listing found
        return None
    if storage.is_remote(load.path):
        quoted = json.dumps(_version(load.path, load.version))
    else:
        quoted = f'"{storage.version(load.path)}"'  # digits, which JSON has as they are
    version_of_mask = "none" if mask is None else mask.version(item.key)
    if quoted == '""' or not version_of_mask:
        return None
    return f"[{quoted}, {_json_of(version_of_mask, item.label)}]"


@lru_cache(maxsize=256)  # the files of a folder have the same label
def _json_of(version_of_mask: str, label: str | None) -> str:
    return f"{json.dumps(version_of_mask)}, {json.dumps(label)}"


def version_of_container(source: str, listing: InputOptions, mask: "PixelMask | None") -> str | None:
    """Return the version of a container and the options of its listing as JSON; None if it has none.

    Raises:
        UsageError: a server that sends no versions.
    """
    if mask is not None and mask.folder is not None:
        return None  # its masks are known only from its members
    if containers.kind_of(source) == "zarr" and not source.lower().endswith((".zip", ".ozx")):
        return None  # its chunks are files of their own, as many as a dataset has images
    paths = [source]
    if containers.kind_of(source) == "idx":
        from normcli.sources import idx

        paths.append(idx.labels_beside(source) or source)
    if containers.kind_of(source) == "nifti":
        from normcli.sources import nifti

        paths = sorted({*nifti.pair_of(source)})
    if containers.kind_of(source) == "huggingface":
        from normcli.sources import huggingface

        paths = huggingface.tables(source)  # in the order of their names
    if containers.kind_of(source) == "lerobot":
        from normcli.sources import lerobot

        paths = [str(Path(source, "meta", "info.json")), *lerobot.tables(source), *lerobot.videos(source)]
    versions = [_version(path, None) for path in paths]
    if not all(versions):
        return None
    options = sorted(map(list, containers.effective_options(source, listing.open_options).items()))
    return json.dumps([*versions, list(listing.include), list(listing.exclude), options])


def _version(path: str, listed: str | None) -> str:
    """Return the version of a file; "" if it has none or is missing."""
    if not storage.is_remote(path):
        return storage.version(path)
    version = listed if listed and not listed.endswith(":") else storage.fingerprint(path)
    if version.endswith(":"):
        raise UsageError(f"{path}: its server sends no version (ETag, Last-Modified), which --incremental requires")
    return version


def versions_of_libraries(names: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of libraries by name; None for those that are not installed.

    The names of the folders of their metadata have them: to import `importlib.metadata` and to parse what is in the
    folders takes 30 ms, this takes 1.
    """
    versions: dict[str, str] = {}
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")  # noqa: PTH208
        except NotADirectoryError:  # a zip may have libraries in it
            return {name: _version_in_metadata(name) for name in names}
        except OSError:
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")):
                name, _, version = entry.rpartition(".")[0].partition("-")
                versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    return {name: versions[name] or _version_in_metadata(name) if name in versions else None for name in names}


def _version_in_metadata(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
