"""PyTorch's .pt: tensors only, never pickled objects."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normcli.errors import MissingExtraError, TensorError, UnsupportedTensorError
from normcli.storage.npy import UnreadableTensor
from normcli.storage.safetensors_format import bfloat16

_LARGEST_VIEW = 64 << 20  # bytes of a tensor that repeats what is stored


def _library() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError(".pt", "torch", "torch") from None
    release = torch.__version__.split(".")
    if (int(release[0]), int(release[1])) < (2, 6):
        raise TensorError(
            f".pt needs torch 2.6 or later, this is {torch.__version__}: before it, weights_only=True could "
            "still run code from the file (CVE-2025-32434)"
        )
    return torch


def read(path: Path) -> dict[str, NDArray[Any] | UnreadableTensor]:
    """Read a tensor, under the key "", or a flat dictionary of tensors.

    Raises:
        MissingExtraError: torch is not installed.
        TensorError: a damaged file, or one with anything but tensors.
    """
    torch = _library()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise TensorError(f"{path}: other objects than tensors in it; only weights are read, never objects") from None
    except Exception as error:  # the unpickler and the zip reader raise many types on damaged files
        raise TensorError(f"{path}: not a valid .pt file ({type(error).__name__})") from None
    tensors = {"": loaded} if isinstance(loaded, torch.Tensor) else loaded
    if not isinstance(tensors, Mapping):
        raise TensorError(f"{path}: a {type(loaded).__name__}, not a tensor or a dictionary of tensors")
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise TensorError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor")
    arrays: dict[str, NDArray[Any] | UnreadableTensor] = {}
    for key, value in tensors.items():
        try:
            arrays[key] = _array(torch, value)
        except UnsupportedTensorError as error:
            error.args = (f"{path}{key and f':{key}'}: {error}",)
            arrays[key] = UnreadableTensor(tuple(value.shape), error)
    return arrays


def _array(torch: Any, tensor: Any) -> NDArray[Any]:
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise UnsupportedTensorError(
            f"a {kind} tensor: save it dense, with .{'dequantize' if tensor.is_quantized else 'to_dense'}()"
        )
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > max(stored, _LARGEST_VIEW):  # 1.5 KB can stand for 6.4 GB
        raise UnsupportedTensorError(f"a view that repeats {stored} bytes as {size}: save it with .contiguous()")
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:
        return np.asarray(plain.view(torch.int16).numpy().view(bfloat16()))
    try:
        return np.asarray(plain.numpy())
    except (TypeError, RuntimeError) as error:
        raise UnsupportedTensorError(f"a tensor of {tensor.dtype} has no equivalent in NumPy: {error}") from None


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one tensor, under the key "", or a dictionary of tensors.

    Raises:
        MissingExtraError: torch is not installed.
    """
    torch = _library()
    tensors = {key: _tensor(torch, value) for key, value in arrays.items()}
    torch.save(tensors[""] if list(tensors) == [""] else tensors, path)


def _tensor(torch: Any, array: NDArray[Any]) -> Any:
    plain = np.array(array, copy=True, order="C")
    if plain.dtype.name == "bfloat16":
        return torch.from_numpy(plain.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(plain.astype(plain.dtype.newbyteorder("="), copy=False))
