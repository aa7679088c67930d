"""PyTorch's .pt: tensors only, never pickled objects. The zip format needs no torch, its older ones do."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from normcli import late_imports
from normcli.errors import InputError, TensorError, UnsupportedTensorError
from normcli.storage.npy import StoredTensor, UnreadableTensor
from normcli.storage.safetensors_format import bfloat16

if TYPE_CHECKING:
    from normcli.tensor.safetensors import TensorContent
    from normcli.tensor.torch_file import TorchFile

_LARGEST_VIEW = 64 << 20  # bytes of a tensor that repeats what is stored


def _library() -> Any:
    torch = late_imports.required("torch", ".pt in the format of torch 1.5 and earlier", "torch")
    release = torch.__version__.split(".")
    if (int(release[0]), int(release[1])) < (2, 6):
        raise TensorError(
            f".pt needs torch 2.6 or later, this is {torch.__version__}: before it, weights_only=True could "
            "still run code from the file (CVE-2025-32434)"
        )
    return torch


def open_file(path: Path) -> "TorchFile | None":
    """Open a checkpoint in the zip format; return None for another format, which torch itself has to read.

    Raises:
        TensorError: a damaged file, or one with anything but tensors and plain data.
    """
    from normcli.storage.torch_zip import is_zip
    from normcli.tensor.torch_file import TorchFile

    if not is_zip(path):
        return None
    try:
        return TorchFile(path)
    except InputError as error:
        if error.reason == "unsupported":
            return None
        if error.reason == "objects":
            raise TensorError(
                f"{path}: other objects than tensors in it ({error.message}); only weights are read, never objects"
            ) from None
        raise TensorError(f"{path}: not a valid .pt file ({error.message})") from None


def read(
    path: Path, limit: int | None = None, *, every: bool = False
) -> Mapping[str, StoredTensor | NDArray[Any] | UnreadableTensor]:
    """Read a tensor, under the key "", or a dictionary of tensors: the state dict of a checkpoint.

    Args:
        path: of the file.
        limit: most bytes of a file in an old format, which is read at once.
        every: return the tensors outside of the state dict as well.

    Raises:
        MissingExtraError: an old format, and torch is not installed.
        TensorError: a damaged file, one with anything but tensors, or an old format larger than the limit.
    """
    file = open_file(path)
    if file is not None:
        return {**file.others, **file.tensors} if every else file.tensors or file.others
    if limit is not None and path.stat().st_size > limit:
        raise TensorError(f"{path}: {path.stat().st_size} bytes exceed the memory limit of {limit}")
    torch = _library()
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise TensorError(f"{path}: other objects than tensors in it; only weights are read, never objects") from None
    except Exception:  # the unpickler and the zip reader raise many types on damaged files
        raise TensorError(f"{path}: not a valid .pt file") from None
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


def write(path: Path, arrays: "Mapping[str, TensorContent]") -> None:
    """Write one tensor, under the key "", or a dictionary of tensors, as torch.save does."""
    from normcli.tensor import torch_file

    torch_file.write(path, arrays)
