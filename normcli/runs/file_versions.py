"""Versions of files and containers, which an incremental run compares to find changes."""

import json
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from normcli import sources as containers
from normcli import storage
from normcli.errors import UsageError
from normcli.options.shared import InputOptions
from normcli.runs.masks import PixelMask
from normcli.sources import Item
from normcli.storage.files import FileBytes


def version_of_item(item: Item, mask: PixelMask | None) -> str | None:
    """Return the version of a file, its mask and its label as JSON; None if it has none.

    Raises:
        UsageError: a server that sends no versions.
    """
    if not isinstance(item.load, FileBytes):  # unusable, as the listing found
        return None
    version = _version(item.load.path, item.load.version)
    version_of_mask = "none" if mask is None else mask.version(item.key)
    if not version or not version_of_mask:
        return None
    return f"[{json.dumps(version)}, {_json(version_of_mask)}, {_json(item.label)}]"


@lru_cache(maxsize=256)  # the files of a folder have the same label
def _json(value: str | None) -> str:
    return json.dumps(value)


def version_of_container(source: str, listing: InputOptions, mask: PixelMask | None) -> str | None:
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


def version_of_library(name: str) -> str | None:
    """Return the version of a library; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
