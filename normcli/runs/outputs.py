"""What an image becomes: the kinds of output, and the way back from each to an array."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from normcli import images, storage
from normcli.errors import InputError, UsageError, unknown
from normcli.images import Reading
from normcli.images.encode import png, tiff
from normcli.runs.transform import DTYPES, MappedImage
from normcli.sinks import files

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kind:
    """One value of `--to`.

    Attributes:
        help: one line.
        suffix: of the files; "" for the stack.
        dtypes: that it can hold, the default first.
        image: an image file: interleaved and RGB, whatever arrays are.
        shard: suffix of the shards that hold many images each; "" for everything else.
    """

    help: str
    suffix: str
    dtypes: tuple[str, ...] = DTYPES
    image: bool = False
    shard: str = ""


KINDS = {
    "npy": Kind("one .npy per image, in a tree that mirrors the source", ".npy"),
    "npz": Kind("one .npz per image: image, scale, shift", ".npz"),
    "stack": Kind("one memory-mappable stack.npy (N,C,H,W) and index.csv", ""),
    "safetensors": Kind("one .safetensors per image: image, scale and shift as metadata", ".safetensors"),
    "tar": Kind("WebDataset shards: shard-000000.tar, … of KEY.npy and KEY.cls", "", shard=".tar"),
    "parquet": Kind("shard-000000.parquet, … of name, label, array and shape", "", shard=".parquet"),
    "png": Kind("8-bit PNG files, the mapped range quantized", ".png", ("uint8",), True),
    "png16": Kind("16-bit PNG files, the mapped range quantized", ".png", ("uint16",), True),
    "tiff": Kind("TIFF files of float values as they are", ".tif", DTYPES, True),
}


def kind(name: str) -> Kind:
    """Find a kind of output.

    Raises:
        UsageError: no such kind.
    """
    if name not in KINDS:
        raise unknown("output", name, KINDS)
    return KINDS[name]


def settle(to: str, dtype: str | None, layout: str | None, order: str | None) -> tuple[str, str, str | None]:
    """Dtype, layout and order of an output, where the user leaves them open.

    Raises:
        UsageError: what this kind of output cannot hold.
    """
    found = kind(to)
    if dtype is not None and dtype not in found.dtypes:
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        raise UsageError(f"{to} holds {', '.join(found.dtypes)}, not {dtype}")
    if found.image and layout == "chw":
        raise UsageError(f"{to} files have no layout: leave --layout out")
    if found.image and order == "bgr":
        raise UsageError(f"{to} files hold RGB: leave --order out")
    return dtype or found.dtypes[0], layout or ("hwc" if found.image else "chw"), "rgb" if found.image else order


def encode(to: str, mapped: MappedImage, alpha: str) -> list[Any]:
    """Make the content of one file, as buffers to be written one after the other.

    Raises:
        InputError: a PNG cannot hold these channels.
    """
    if to == "parquet":
        return [mapped.array]
    if not KINDS[to].image:
        return files.write("npy" if to == "tar" else to, mapped.array, mapped.affine)
    wide = len(mapped.channels)
    if to != "tiff" and not holds(wide, alpha):
        raise InputError("channels", f"PNG cannot hold {wide} channels (--to tiff does)")
    write: Callable[[Array], bytes] = tiff if to == "tiff" else png
    return [write(mapped.array)]


def holds(channels: int, alpha: str) -> bool:
    """Whether a PNG holds so many channels: gray and RGB, and one more that is alpha."""
    return channels in (1, 3) or (alpha == "keep" and channels in (2, 4))


def decode(to: str, path: str | Path, alpha: str) -> Array:
    """Read one file back as the array that was written.

    Args:
        to: kind of output.
        path: of the file.
        alpha: what was done with alpha: "keep" made it a channel.

    Raises:
        InputError: missing, or not such a file.
    """
    if not KINDS[to].image:
        return files.read(to, path)
    return images.decode(
        storage.read(path), Reading(alpha="keep" if alpha == "keep" and to != "tiff" else "drop")
    ).pixels


def interleaved(array: Array, layout: str) -> Array:
    """Any written array as (H,W,C)."""
    return array.transpose(1, 2, 0) if layout == "chw" else array
