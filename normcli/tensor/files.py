"""Tensors by name: `FILE`, `FILE:key`, or `-`; and the files of results."""

import glob
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normcli import storage
from normcli.errors import TensorError, UsageError, listed
from normcli.storage import npy
from normcli.storage.atomic import temporary_name
from normcli.storage.npy import ReservedTensor, StoredTensor, UnreadableTensor
from normcli.tensor import safetensors, torch

if TYPE_CHECKING:
    from normcli.tensor.checkpoint import TensorFile

Array = NDArray[Any]

SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")
INDEX = ".index.json"  # of a checkpoint in several files

# other names of checkpoints that torch writes
_ALIASES = {".pth": ".pt", ".bin": ".pt", ".ckpt": ".pt"}

_SMALL = 1 << 20  # bytes of a result that may wait in memory

# the key in a container for a tensor without a name
UNNAMED = "y"


def file_format(path: str) -> str:
    """Return the format of a tensor file as a suffix, such as ".npy".

    Raises:
        UsageError: an unknown suffix.
    """
    if path.lower().endswith(INDEX):
        return INDEX
    suffix = Path(path).suffix.lower()
    suffix = _ALIASES.get(suffix, suffix)
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: tensors are {', '.join(SUFFIXES)} files, got {suffix or 'no suffix'}")
    return suffix


def split_key(name: str) -> tuple[str, str | None]:
    """Split `FILE:key`; a file whose own name has a colon takes precedence.

    >>> split_key("weights.npz:layer1"), split_key("x.npy")
    (('weights.npz', 'layer1'), ('x.npy', None))
    """
    path, colon, key = name.rpartition(":")
    is_file = Path(path).suffix.lower() in (*SUFFIXES, *_ALIASES) or path.lower().endswith(INDEX)
    if not colon or not is_file or Path(name).exists():
        return name, None
    return path, key


def is_pattern(key: str | None) -> bool:
    """Return True for a key that selects tensors of a complete file, such as *.weight."""
    return key is not None and glob.has_magic(key)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return the key of natural order: runs of digits compare as numbers.

    >>> sorted(["b10", "b2", "b1"], key=natural_key)
    ['b1', 'b2', 'b10']
    """
    parts = re.split("([0-9]+)", name)  # text and digits in turn
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def expand_patterns(names: Sequence[str]) -> list[str]:
    """Replace each quoted pattern and folder by the files in it, in natural order; other names stay.

    Raises:
        UsageError: a pattern that matches nothing, or a folder without tensors.
    """
    expanded: list[str] = []
    for name in names:
        file, key = split_key(name)
        if Path(name).is_dir():
            expanded += _files_in(Path(name))
            continue
        if not glob.has_magic(file) or Path(file).exists():
            expanded.append(name)
            continue
        matches = sorted(glob.glob(file, recursive=True), key=natural_key)  # noqa: PTH207 - names as typed
        if not matches:
            raise UsageError(f"{name}: no file matches")
        expanded += matches if key is None else [f"{match}:{key}" for match in matches]
    return expanded


def _files_in(folder: Path) -> list[str]:
    names = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in (*SUFFIXES, *_ALIASES)]
    if not names:
        raise UsageError(f"{folder}: no tensor files in this folder ({', '.join(SUFFIXES)})")
    return sorted(map(str, names), key=natural_key)


@contextmanager
def open_tensors(name: str, *, stdin: IO[bytes] | None = None, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Open the tensors of a name, one under its key, or all of a container; close their files at the end.

    An .npy and a .safetensors are read when a slice asks for samples, the others at once.

    Raises:
        TensorError: missing, unreadable, damaged, empty, or without such a key.
    """
    tensors = _read_stdin(stdin, limit) if name == "-" else _find_tensors(name, limit)
    try:
        if not tensors:
            raise TensorError(f"{name}: no tensors in it")
        yield tensors
    finally:
        for tensor in tensors.values():
            if isinstance(tensor, StoredTensor):
                tensor.close()


def _read_stdin(stdin: IO[bytes] | None, limit: int | None) -> dict[str, Any]:
    if stdin is None:
        raise UsageError("- (stdin) cannot be read here")
    return {"": npy.read_npy_stream(stdin, "stdin", limit)}


def _find_tensors(name: str, limit: int | None) -> dict[str, Any]:
    file, key = split_key(name)
    path = Path(file)
    try:
        if not path.exists():
            raise TensorError(f"{file}: no such file")
        suffix = file_format(file)
        if not path.is_file():
            raise TensorError(f"{file}: {storage.file_kind(path.stat().st_mode)}")
        if suffix == ".npz":
            if key is not None:
                return {key: npy.read_npz(path, key, limit)}
            members = npy.read_every_npz(path, limit)
            return {k: members[k] for k in sorted(members, key=natural_key)}
        if suffix == ".npy":
            tensors: Mapping[str, Any] = {"": npy.read_npy(path, limit)}
        elif suffix == ".safetensors":
            tensors = safetensors.read(path)[0]
        elif suffix == INDEX:
            from normcli.tensor.sharded import read_index

            tensors = read_index(path)
        else:
            tensors = torch.read(path, limit, every=key is not None)
    except OSError as error:
        if isinstance(error, TensorError | UsageError):
            raise
        raise TensorError(f"{file}: {(error.strerror or str(error)).lower()}") from None
    # a single number has no samples to slice
    tensors = {k: read_array(t) if isinstance(t, StoredTensor) and not t.shape else t for k, t in tensors.items()}
    if key is None:
        return {k: tensors[k] for k in sorted(tensors, key=natural_key)}
    if key not in tensors:
        if any(name.startswith(f"{key}.") for name in tensors):
            raise TensorError(f"{file}: {key} is a layer, not a tensor: a prefix ends with a dot, {file}:{key}.")
        keys = listed(k for k in tensors if k) or "a tensor without a key"
        raise TensorError(f"{file}: no key {key!r}; it has {keys}")
    if isinstance(tensors[key], UnreadableTensor):
        raise tensors[key].error
    return {key: tensors[key]}


def read_array(tensor: StoredTensor | UnreadableTensor | Array) -> Array:
    """Read a complete tensor.

    Raises:
        UnsupportedTensorError: elements of a type that cannot be read.
    """
    if isinstance(tensor, UnreadableTensor):
        raise tensor.error
    return tensor.read_all() if isinstance(tensor, StoredTensor) else np.asarray(tensor)


@contextmanager
def open_one(name: str, *, stdin: IO[bytes] | None = None, limit: int | None = None) -> Iterator[Any]:
    """Open a file of one tensor.

    Raises:
        TensorError: several tensors and no key.
    """
    with open_tensors(name, stdin=stdin, limit=limit) as tensors:
        if len(tensors) != 1:
            raise TensorError(f"{name}: {len(tensors)} tensors ({listed(tensors)}): name one, {name}:KEY")
        tensor = next(iter(tensors.values()))
        if isinstance(tensor, UnreadableTensor):
            raise tensor.error
        yield tensor


def read_one(name: str, limit: int | None = None) -> Array:
    """Read a file of one tensor: a weight, a bias."""
    with open_one(name, limit=limit) as tensor:
        return read_array(tensor)


def read_state(name: str) -> dict[str, Array]:
    """Read running statistics: a container whose keys are their names."""
    with open_tensors(name) as tensors:
        state = {key: read_array(tensor) for key, tensor in tensors.items()}
    file, _ = split_key(name)
    if file_format(file) == ".safetensors":
        labels = safetensors.read(Path(file))[1]
        state |= {key: np.array(labels[key]) for key in ("normalizer", "preset", "elements") if key in labels}
    return state


def write_state(path: Path, state: Mapping[str, Array], labels: Mapping[str, str]) -> None:
    """Write running statistics; .npz and .safetensors also name their normalizer, .pt is a plain state dict."""
    check_state_path(str(path))
    suffix = file_format(str(path))
    with storage.atomic_write(path) as temporary:
        if suffix == ".npz":
            npy.save_npz(temporary, {**state, **{k: np.array(v) for k, v in labels.items()}})
        elif suffix == ".safetensors":
            safetensors.write(temporary, dict(state), labels)
        else:
            torch.write(temporary, state)


def check_state_path(path: str) -> None:
    """Reject a file that cannot store several tensors.

    Raises:
        UsageError: an .npy.
    """
    if file_format(path) == ".npy":
        raise UsageError(f"{path}: a state has several tensors (use .npz, .safetensors or .pt)")


class TensorOutput(Protocol):
    """The destination of the results of one input."""

    @property
    def name(self) -> str | None:
        """Return its name in messages; None where results are dropped."""

    def expect(self, keys: Collection[str], source: "TensorFile | None" = None) -> None:
        """Record the keys of the results, before they are computed, and the file that they are merged into."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the array, or the file, that takes a result."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the results."""


class DiscardedTensor:
    """A result that is not kept."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype

    def __setitem__(self, samples: slice, block: Array) -> None:
        """Drop the samples."""


class NoOutput:
    """Results that are not written: only the state is of interest."""

    name = None

    def expect(self, keys: Collection[str], source: "TensorFile | None" = None) -> None:
        """Accept any results."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make room for nothing."""
        return DiscardedTensor(shape, dtype)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Drop the results."""


class StdoutOutput:
    """Results for stdout: one tensor as .npy, in memory until it is complete."""

    name = "stdout"

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def expect(self, keys: Collection[str], source: "TensorFile | None" = None) -> None:
        """Record the keys of the results, before they are computed.

        Raises:
            UsageError: several tensors.
        """
        if len(keys) > 1 or source is not None:
            raise UsageError(f"stdout takes one tensor, got {listed(keys)}: use -o FILE.npz")

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the array that takes the result."""
        return np.empty(shape, dtype)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the one result."""
        npy.write_npy(self._stream, next(iter(results.values())))
        self._stream.flush()


class FileOutput:
    """Results for a file; `allocate` makes room in the file itself where it is for one tensor.

    Several tensors are kept in memory or, under a limit, in temporary files until all are complete.
    """

    def __init__(self, path: Path, temporary: Path, limit: int | None = None) -> None:
        self.path, self.name, self._temporary, self._limit = path, str(path), temporary, limit
        self._format = file_format(str(path))
        self._waiting: list[tuple[ReservedTensor, Path]] = []
        self._key: str | None = None  # of the only result
        self._source: TensorFile | None = None
        self._reserved: ReservedTensor | None = None

    def expect(self, keys: Collection[str], source: "TensorFile | None" = None) -> None:
        """Record the keys of the results, before they are computed, and the file that they are merged into.

        Raises:
            UsageError: several tensors for a file that takes one.
        """
        self._source = source
        if self._format == ".npy" and (len(keys) > 1 or source is not None):
            raise UsageError(f"{self.path} takes one tensor, got {listed(keys)}: use .npz, .safetensors or .pt")
        self._key = next(iter(keys)) if len(keys) == 1 and source is None else None

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Make the array, or the file, that takes a result."""
        size = math.prod(shape) * dtype.itemsize
        several = self._key is None or self._reserved is not None
        copied = self._format in (".npz", ".pt") or several
        if copied and self._limit is not None and size > _SMALL:
            path = self._temporary.with_name(temporary_name(self.path).name)
            tensor = ReservedTensor(path, b"", shape, dtype)
            self._waiting.append((tensor, path))
            return tensor
        if several or not shape:
            return np.empty(shape, dtype)
        if self._format == ".npy":
            self._reserved = npy.create_npy(self._temporary, shape, dtype)
        elif self._format == ".safetensors":
            self._reserved = safetensors.create(self._temporary, self._key or UNNAMED, shape, dtype)
        return np.empty(shape, dtype) if self._reserved is None else self._reserved

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write the tensors that are not in the file yet."""
        if self._reserved is not None:
            self._reserved.close()
            if any(result is self._reserved for result in results.values()):
                return
            self._temporary.unlink()
        if self._source is not None:
            self._source.write_copy(self._temporary, results, self._format)
            return
        named = {key or UNNAMED: result for key, result in results.items()}
        if self._format == ".npy":
            with self._temporary.open("xb") as file:
                npy.write_npy(file, next(iter(results.values())))
        elif self._format == ".npz":
            npy.save_npz(self._temporary, named)
        elif self._format == ".safetensors":
            safetensors.write(self._temporary, named)
        else:
            torch.write(self._temporary, results if list(results) == [""] else named)

    def close(self) -> None:
        """Close the file, and remove those that were temporary."""
        if self._reserved is not None:
            self._reserved.close()
        for tensor, path in self._waiting:
            tensor.close()
            path.unlink(missing_ok=True)


@contextmanager
def open_output(path: Path, limit: int | None = None) -> Iterator[FileOutput]:
    """Open an output that appears under its name when the block ends, or not at all."""
    with storage.atomic_write(path) as temporary:
        output = FileOutput(path, temporary, limit)
        try:
            yield output
        finally:
            output.close()


def output_paths(inputs: list[str], out: str, force: bool) -> list[str]:
    """Return the output of each input: one file for one input, files in a folder for several.

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
    names = [_output_name(name) for name in inputs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if folder and twice:
        raise UsageError(f"two inputs would both be written as {Path(out) / twice[0]}")
    paths = [str(Path(out) / name) for name in names] if folder else [out]
    for path in paths:
        file_format(path)
        if Path(path).exists() and not force:
            raise UsageError(f"{path}: exists (--force overwrites it)")
        parent = Path(path).parent if not folder else Path(out).resolve().parent
        if not parent.is_dir():
            raise UsageError(f"{path}: folder {parent} does not exist")
    return paths


def _output_name(name: str) -> str:
    if name == "-":
        return "stdin.npy"
    file, key = split_key(name)
    path = Path(file)
    if key is None or is_pattern(key):
        return path.name
    return f"{path.stem}-{key.replace('/', '_')}{path.suffix}"
