"""A tree of files, one per image, that mirrors the source: .npy, .npz, .safetensors.

Each is made as a list of buffers: an array goes to the file without being copied.
"""

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from normcli.errors import InputError
from normcli.kernels.affine import Affine
from normcli.storage.npy_format import npy_header, write_npz
from normcli.storage.safetensors_format import read_safetensors_header, safetensors_header

Array = np.ndarray[Any, Any]
Parts = list[Any]

SUFFIXES = {"npy": ".npy", "npz": ".npz", "safetensors": ".safetensors"}


def write(kind: str, array: Array, affine: Affine) -> Parts:
    """Make the content of one file.

    Args:
        kind: "npy", "npz" or "safetensors".
        array: the image, C-contiguous.
        affine: scale and shift per channel; npz and safetensors hold them beside the image.
    """
    return {"npy": _npy, "npz": _npz, "safetensors": _safetensors}[kind](array, affine)


def read(kind: str, path: str | Path) -> Array:
    """Read the image that `write` packed.

    Raises:
        InputError: missing, or not such a file.
    """
    try:
        if kind == "safetensors":
            found = _read_safetensors(path)
        else:
            found = np.load(path, allow_pickle=False)
            if kind == "npz":
                with found:
                    found = found["image"]
    except FileNotFoundError:
        raise InputError("missing", "no such file") from None
    except Exception as error:  # zipfile, json, struct and NumPy raise what they like on damaged files
        raise InputError("damaged", f"not the {kind} file it was: {' '.join(str(error).split())}") from None
    return np.asarray(found)


def _npy(array: Array, affine: Affine) -> Parts:
    return [npy_header(array.shape, array.dtype.str), array]


def _npz(array: Array, affine: Affine) -> Parts:
    buffer = io.BytesIO()
    write_npz(buffer, {"image": array, "scale": np.array(affine[0]), "shift": np.array(affine[1])}, mode=0o644)
    return [buffer.getbuffer()]


def _safetensors(array: Array, affine: Affine) -> Parts:
    metadata = {"scale": json.dumps(affine[0]), "shift": json.dumps(affine[1])}
    return [safetensors_header({"image": (array.shape, array.dtype)}, metadata), array]


def _read_safetensors(path: str | Path) -> Array:
    with Path(path).open("rb") as file:
        tensors, _ = read_safetensors_header(file, os.fstat(file.fileno()).st_size)
        image = tensors["image"]
        file.seek(image.start)
        return np.fromfile(file, image.dtype, math.prod(image.shape)).reshape(image.shape)
