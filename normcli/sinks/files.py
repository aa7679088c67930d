"""A tree of files, one per image, that mirrors the source: .npy, .npz, .safetensors.

Each is made as a list of buffers: an array goes to the file without being copied.
"""

import io
import json
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from normcli.errors import InputError, MissingExtraError
from normcli.kernels.affine import Affine

Array = np.ndarray[Any, Any]
Parts = list[Any]

SUFFIXES = {"npy": ".npy", "npz": ".npz", "safetensors": ".safetensors"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip must hold a time; np.savez takes now, and no two runs give the same bytes


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
            found = _safetensors_module().load_file(path)["image"]
        else:
            found = np.load(path, allow_pickle=False)
            if kind == "npz":
                with found:
                    found = found["image"]
    except FileNotFoundError:
        raise InputError("missing", "no such file") from None
    except MissingExtraError:
        raise
    except Exception as error:  # zipfile, json, struct and NumPy raise what they like on damaged files
        raise InputError("damaged", f"not the {kind} file it was: {' '.join(str(error).split())}") from None
    return np.asarray(found)


@lru_cache(maxsize=256)
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The bytes before the values of a .npy file."""
    buffer = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": description, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _npy(array: Array, affine: Affine) -> Parts:
    return [npy_header(array.shape, array.dtype.str), array]


def _npz(array: Array, affine: Affine) -> Parts:
    buffer = io.BytesIO()
    members = {"image": array, "scale": np.array(affine[0]), "shift": np.array(affine[1])}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in members.items():
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                for part in _npy(value, affine):
                    member.write(memoryview(part).cast("B"))
    return [buffer.getbuffer()]


def _safetensors(array: Array, affine: Affine) -> Parts:
    metadata = {"scale": json.dumps(affine[0]), "shift": json.dumps(affine[1])}
    return [_safetensors_module().save({"image": array}, metadata)]


def _safetensors_module() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise MissingExtraError(".safetensors", "safetensors", "safetensors") from None
    return safetensors.numpy
