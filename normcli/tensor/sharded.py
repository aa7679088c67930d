"""Checkpoints in several files: an index names the file of each tensor."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normcli.errors import TensorError
from normcli.storage.npy import StoredTensor, UnreadableTensor

_LARGEST_INDEX = 100_000_000


def weight_map(path: Path) -> dict[str, Path]:
    """Return the file of every tensor that an index names.

    Raises:
        TensorError: not an index, or one that names files outside of its folder.
    """
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError
        names = json.loads(path.read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TensorError(f"{path}: not an index of a checkpoint: it has no weight_map") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise TensorError(f"{path}: the weight_map of an index must name one file for each tensor")
    for name in names.values():
        if name != os.path.basename(name) or name in ("", ".", "..") or "\\" in name:  # noqa: PTH119 - as text
            raise TensorError(f"{path}: names a file outside of its folder: {name!r}")
    return {key: path.parent / name for key, name in names.items()}


def read_index(path: Path) -> dict[str, Any]:
    """Open the tensors of all files of an index, in the order of the index.

    Raises:
        TensorError: a file is missing or damaged, or lacks a tensor that the index names in it.
    """
    files = weight_map(path)
    stored = {file: _read_shard(file, path) for file in dict.fromkeys(files.values())}
    tensors: dict[str, Any] = {}
    for key, file in files.items():
        if key not in stored[file]:
            raise TensorError(f"{path}: {key} is not in {file.name}")
        tensors[key] = stored[file][key]
    return tensors


def _read_shard(file: Path, index: Path) -> Mapping[str, StoredTensor | UnreadableTensor | Any]:
    from normcli.tensor import safetensors, torch
    from normcli.tensor.files import file_format

    if not file.is_file():
        raise TensorError(f"{index}: {file.name} is missing: no such file")
    return safetensors.read(file)[0] if file_format(str(file)) == ".safetensors" else torch.read(file)
