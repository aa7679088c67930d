"""Tensors by the name that a user gives them: `FILE`, `FILE:key`, or `-`; and the files that results go to."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from normcli import storage
from normcli.errors import TensorError, UsageError
from normcli.tensor import npy, safetensors, torch
from normcli.tensor.raw import StoredTensor

Array = NDArray[Any]

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")

# what a tensor without a name is called in a container
UNNAMED = "y"


def suffix(path: str) -> str:
    """Give the kind of a tensor file by its name.

    Raises:
        UsageError: no kind that is known.
    """
    found = Path(path).suffix.lower()
    if found == ".pth":
        return ".pt"
    if found not in SUFFIXES:
        raise UsageError(f"{path}: tensors are {', '.join(SUFFIXES)} files, got {found or 'no suffix'}")
    return found


def split_key(given: str) -> tuple[str, str | None]:
    """Take `FILE:key` apart; a file whose own name has a colon goes first.

    >>> split("weights.npz:layer1"), split("x.npy")
    (('weights.npz', 'layer1'), ('x.npy', None))
    """
    path, colon, key = given.rpartition(":")
    if not colon or Path(given).exists() or Path(path).suffix.lower() not in (*SUFFIXES, ".pth"):
        return given, None
    return path, key


def open_tensors(given: str, *, stdin: IO[bytes] | None = None, limit: int | None = None) -> dict[str, Any]:
    """Open what a name stands for: one tensor under its key, or all of a container.

    An .npy and a .safetensors are read when samples are asked for, the others now.

    Raises:
        TensorError: missing, unreadable, damaged, or without such a key.
    """
    if given == "-":
        if stdin is None:
            raise UsageError("- stands for stdin, which is not to be read here")
        return {"": npy.read_npy_stream(stdin, "stdin", limit)}
    name, key = split_key(given)
    path, kind = Path(name), suffix(name)
    try:
        if not path.is_file():
            what = storage.file_kind(path.stat().st_mode) if path.exists() else "no such file"
            raise TensorError(f"{name}: {what}")
        if kind == ".npy":
            return _one({"": npy.read_npy(path)}, name, key)
        if kind == ".npz":
            keys = npy.npz_keys(path) if key is None else [key]
            return {k: npy.read_npz(path, k, limit) for k in keys}
        if kind == ".safetensors":
            return _one(safetensors.read(path)[0], name, key)
        if limit is not None and path.stat().st_size > limit:
            raise TensorError(f"{name}: {path.stat().st_size} bytes do not fit into the memory limit of {limit}")
        return _one(torch.read(path), name, key)
    except OSError as error:
        if isinstance(error, TensorError | UsageError):
            raise
        raise TensorError(f"{name}: {(error.strerror or str(error)).lower()}") from None


def _one(found: Mapping[str, Any], name: str, key: str | None) -> dict[str, Any]:
    if key is None:
        return dict(found)
    if key not in found:
        raise TensorError(
            f"{name}: no key {key!r}; it has {', '.join(k for k in found if k) or 'a tensor without a key'}"
        )
    return {key: found[key]}


def load(tensor: Any) -> Array:
    """Read a tensor whole."""
    if isinstance(tensor, StoredTensor):
        with tensor:
            return tensor.read_all()
    return np.asarray(tensor)


def read_one(given: str) -> Array:
    """Read a file that holds one tensor: a weight, a bias, a cotangent.

    Raises:
        TensorError: several tensors and no key.
    """
    found = open_tensors(given)
    if len(found) != 1:
        raise TensorError(f"{given}: holds {len(found)} tensors ({', '.join(found)}): name one, {given}:KEY")
    return load(next(iter(found.values())))


def read_state(given: str) -> dict[str, Array]:
    """Read running statistics: a container whose keys are their names."""
    found = {key: load(value) for key, value in open_tensors(given).items()}
    name, _ = split_key(given)
    if suffix(name) == ".safetensors":
        labels = safetensors.read(Path(name))[1]
        found |= {key: np.array(labels[key]) for key in ("normalizer", "preset") if key in labels}
    return found


def write_state(path: Path, state: Mapping[str, Array], labels: Mapping[str, str]) -> None:
    """Write running statistics; .npz and .safetensors also say whose they are, .pt is a plain state dict."""
    kind = suffix(str(path))
    if kind == ".npy":
        raise UsageError(f"{path}: a state has several tensors: give .npz, .safetensors or .pt")
    with storage.atomic_write(path) as temporary:
        if kind == ".npz":
            npy.write_npz(temporary, {**state, **{k: np.array(v) for k, v in labels.items()}})
        elif kind == ".safetensors":
            safetensors.write(temporary, dict(state), labels)
        else:
            torch.write(temporary, state)


class FileOutput:
    """Where the results of one input go; `allocate` makes room in the file itself where that can be."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self.path, self._temporary = path, temporary
        self._kind = suffix(str(path))
        self._single: str | None = None
        self._reserved: Any = None

    def expect(self, keys: Collection[str]) -> None:
        """Learn what will come, before it is computed.

        Raises:
            UsageError: several tensors for a file that takes one.
        """
        if self._kind == ".npy" and len(keys) > 1:
            raise UsageError(
                f"{self.path} takes one tensor, here are {', '.join(keys)}: give .npz, .safetensors or .pt"
            )
        self._single = next(iter(keys)) if len(keys) == 1 else None

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the array, or the file, that takes a result."""
        if self._single is not None and self._reserved is None and shape:
            if self._kind == ".npy":
                self._reserved = npy.create_npy(self._temporary, shape, dtype)
            elif self._kind == ".safetensors":
                self._reserved = safetensors.create(self._temporary, self._single or UNNAMED, shape, dtype)
            if self._reserved is not None:
                return self._reserved
        return np.empty(shape, dtype)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write what is not in the file yet."""
        if self._reserved is not None:
            self._reserved.close()
            if any(result is self._reserved for result in results.values()):
                return
            self._temporary.unlink()
        named = {key or UNNAMED: result for key, result in results.items()}
        if self._kind == ".npy":
            with self._temporary.open("xb") as file:
                npy.write_npy(file, next(iter(results.values())))
        elif self._kind == ".npz":
            npy.write_npz(self._temporary, named)
        elif self._kind == ".safetensors":
            safetensors.write(self._temporary, named)
        else:
            torch.write(self._temporary, results if list(results) == [""] else named)

    def abandon(self) -> None:
        """Let go of the file."""
        if self._reserved is not None:
            self._reserved.close()


class StdoutOutput:
    """Results for stdout: one tensor as .npy, held in memory until it is whole."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the array that takes a result."""
        return np.empty(shape, dtype)

    def expect(self, keys: Collection[str]) -> None:
        """Learn what will come, before it is computed.

        Raises:
            UsageError: several tensors.
        """
        if len(keys) > 1:
            raise UsageError(f"stdout takes one tensor, here are {', '.join(keys)}: give -o FILE.npz")

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the one result."""
        npy.write_npy(self._stream, next(iter(results.values())))
        self._stream.flush()

    def abandon(self) -> None:
        """Nothing is held open."""


@contextmanager
def open_output(path: Path) -> Iterator[FileOutput]:
    """Open an output that appears under its name when the block ends, or not at all."""
    with storage.atomic_write(path) as temporary:
        target = FileOutput(path, temporary)
        try:
            yield target
        finally:
            target.abandon()


def output_paths(inputs: list[str], out: str, force: bool) -> list[str]:
    """Name the output of each input: one file for one input, files in a folder for several.

    Raises:
        UsageError: an output that exists already, or two inputs that would share one.
    """
    folder = len(inputs) > 1 or out.endswith(os.sep) or Path(out).is_dir()
    if out == "-":
        if len(inputs) > 1:
            raise UsageError(f"{len(inputs)} inputs need a folder as output, not stdout")
        return [out]
    if folder and not (Path(out).is_dir() or out.endswith(os.sep)) and Path(out).suffix:
        raise UsageError(f"{len(inputs)} inputs need a folder as output: -o {out} is a file name; end it with /")
    names = [_target_name(given) for given in inputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if folder and twice:
        raise UsageError(f"two inputs would both be written as {Path(out) / twice[0]}")
    found = [str(Path(out) / name) for name in names] if folder else [out]
    for path in found:
        suffix(path)
        if Path(path).exists() and not force:
            raise UsageError(f"{path} exists (--force overwrites it)")
        parent = Path(path).parent if not folder else Path(out).resolve().parent
        if not parent.is_dir():
            raise UsageError(f"{path}: no folder {parent}")
    return found


def _target_name(given: str) -> str:
    if given == "-":
        return "stdin.npy"
    name, key = split_key(given)
    path = Path(name)
    return path.name if key is None else f"{path.stem}-{key.replace('/', '_')}{path.suffix}"
