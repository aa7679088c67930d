"""A folder as the Hugging Face datasets library lays it out: shards of splits, `save_to_disk`, or an image folder.

The folder is a source by its name; of several splits one is chosen, and none is mixed with another.
"""

import importlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from normcli.errors import InputError, UsageError
from normcli.options.field import Options, option
from normcli.options.shared import InputOptions
from normcli.sources.item import Items

_SHARD = re.compile(r"(?P<split>[\w.-]+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?\.(parquet|arrow)")
_METADATA = ("metadata.csv", "metadata.jsonl")
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_MOST_ENTRIES = 512  # looked at in a folder that holds no such dataset
_LONGEST_STATE, _LONGEST_ROW = 1 << 24, 1 << 16


class HuggingFaceOptions(Options):
    """Open options of folders of the Hugging Face datasets library."""

    split: str | None = option("Split to read, such as train; all reads every split (default: the only one).")
    column: str | None = option("Column that holds the images (default: the only one of bytes).")
    columns: str | None = option("Columns of numbers, or of lists of numbers, to count as vectors: action,state.")


OPEN_OPTIONS = HuggingFaceOptions


class _Part(NamedTuple):
    """One file of a dataset: its split, its path, and the module that reads it."""

    split: str
    path: str
    kind: str


def is_dataset(folder: str) -> bool:
    """Return True if a local folder is laid out as such a dataset.

    >>> is_dataset("/dev")
    False
    """
    names = _names(folder)
    if _SPLITS in names or (_STATE in names and any(name.endswith(".arrow") for name in names)):
        return True
    if any(_SHARD.fullmatch(name) for name in names):
        return True
    if any(name in names for name in _METADATA) and _has_metadata(folder):
        return True
    if "data" in names and any(_SHARD.fullmatch(name) for name in _names(os.path.join(folder, "data"))):  # noqa: PTH118
        return True
    return any(_has_metadata(os.path.join(folder, name)) for name in names if name in _USUAL_SPLITS)  # noqa: PTH118


_USUAL_SPLITS = ("train", "test", "validation", "val", "valid")


def _names(folder: str) -> list[str]:
    """Return the first names in a folder; none if it cannot be listed."""
    out: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                out.append(entry.name)
                if len(out) >= _MOST_ENTRIES:
                    # the few files that decide, in a folder of many images
                    known = (_SPLITS, _STATE, "data", *_METADATA, *_USUAL_SPLITS)
                    return [*out, *(name for name in known if Path(folder, name).exists())]
    except OSError:
        return []
    return sorted(out)


def _has_metadata(folder: str) -> bool:
    """Return True if a folder has a table of its images: one whose first row has a file_name."""
    return any(_names_files(Path(folder, name)) for name in _METADATA)


def _names_files(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"file_name" in file.readline(_LONGEST_ROW)
    except OSError:
        return False


def read(
    source: str,
    listing: InputOptions,
    options: HuggingFaceOptions,
    *,
    names_only: bool = False,
    group_by: str | None = None,
) -> Items:
    """Yield the images of a dataset, or the rows of its columns of numbers, shard after shard.

    Raises:
        InputError: the dataset's own description is damaged.
        UsageError: several splits, or no such split.
    """
    parts = list(_parts(source))
    splits = sorted({part.split for part in parts})
    if options.split is not None and options.split not in (*splits, "all"):
        raise UsageError(f"{source}: no split {options.split!r}; its splits are {', '.join(splits)} (-O split=NAME)")
    if options.split is None and len(splits) > 1:
        choices = " or ".join(f"-O split={split}" for split in splits)
        raise UsageError(f"{source}: splits {', '.join(splits)}: choose one ({choices}; all reads every one)")
    for part in parts:
        if options.split in (None, "all", part.split):
            yield from _read_part(part, listing, options, names_only, group_by)


def tables(source: str) -> list[str]:
    """Return the paths of the tables of a dataset; none for an image folder, or if its description is damaged."""
    try:
        return [part.path for part in _parts(source) if part.kind != "file_list"]
    except InputError:
        return []


def _read_part(
    part: _Part, listing: InputOptions, options: HuggingFaceOptions, names_only: bool, group_by: str | None
) -> Items:
    if part.kind == "file_list":
        from normcli.sources import file_list

        own_options = file_list.FileListOptions(column=options.column, columns=options.columns)
        yield from file_list.read(part.path, listing, own_options, group_by=group_by)
        return
    module = importlib.import_module(f"normcli.sources.{part.kind}")
    extra = {"names_only": True} if names_only and part.kind == "parquet" else {}
    own = module.OPEN_OPTIONS(column=options.column, columns=options.columns)
    yield from module.read(part.path, listing, own, group_by=group_by, **extra)


def _parts(source: str) -> Iterator[_Part]:
    folder = Path(source)
    if (folder / _SPLITS).is_file():
        splits = _json(folder / _SPLITS).get("splits")
        if not (isinstance(splits, list) and all(isinstance(split, str) and _is_name(split) for split in splits)):
            raise InputError("damaged", f"{_SPLITS} names no splits")
        for split in splits:
            yield from _saved(folder / split, split)
    elif (folder / _STATE).is_file():
        yield from _saved(folder, "")
    elif shards := [*_shards(folder), *_shards(folder / "data")]:
        yield from shards
    elif _has_metadata(source):
        yield _metadata(folder, "")
    else:
        for split in _USUAL_SPLITS:
            if _has_metadata(os.path.join(source, split)):  # noqa: PTH118
                yield _metadata(folder / split, split)


def _metadata(folder: Path, split: str) -> _Part:
    name = next(name for name in _METADATA if _names_files(folder / name))
    return _Part(split, str(folder / name), "file_list")


def _saved(folder: Path, split: str) -> Iterator[_Part]:
    """Yield the tables that `save_to_disk` wrote for one split, in their order."""
    files = _json(folder / _STATE).get("_data_files")
    if not isinstance(files, list):
        raise InputError("damaged", f"{_STATE} names no files")
    for entry in files:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not (isinstance(name, str) and _is_name(name)):
            raise InputError("unsafe-name", f"{_STATE} names a file outside its folder")
        yield _Part(split, str(folder / name), "arrow")


def _shards(folder: Path) -> Iterator[_Part]:
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return
    for name in names:
        if match := _SHARD.fullmatch(name):
            yield _Part(match["split"], str(folder / name), match[3])


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\\" not in name and "\0" not in name


def _json(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LONGEST_STATE))
    except (OSError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InputError("damaged", f"{path.name} is damaged or missing")
    return document
