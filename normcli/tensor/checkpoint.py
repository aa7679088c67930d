"""Complete files of tensors: found by prefix or pattern, and copied with some tensors changed."""

import difflib
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normcli import storage
from normcli.errors import TensorError, UsageError
from normcli.storage import npy
from normcli.storage.npy import StoredTensor, UnreadableTensor
from normcli.tensor import files, safetensors
from normcli.tensor.safetensors import TensorContent

if TYPE_CHECKING:
    from normcli.tensor.torch_file import TorchFile

Changes = Mapping[str, TensorContent | None]


class TensorFile:
    """The tensors of a file, in its order.

    Attributes:
        path: of the file, or of the index of several.
        format: as `files.file_format` returns it.
        tensors: the state dict.
        others: tensors outside of it, such as an optimizer's.
        metadata: texts of a .safetensors.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            TensorError: missing, damaged, or with other objects than tensors.
        """
        if not path.is_file():
            raise TensorError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
        self.path, self.format = path, files.file_format(str(path))
        self.metadata: dict[str, str] = {}
        self.others: Mapping[str, Any] = {}
        self._torch: TorchFile | None = None
        if self.format == ".pt":
            from normcli.tensor import torch

            self._torch = torch.open_file(path)
            self.tensors: Mapping[str, Any] = torch.read(path) if self._torch is None else self._torch.tensors
            self.others = {} if self._torch is None else self._torch.others
        elif self.format == ".safetensors":
            self.tensors, self.metadata = safetensors.read(path)
        elif self.format == files.INDEX:
            from normcli.tensor.sharded import read_index

            self.tensors = read_index(path)
        elif self.format == ".npz":
            self.tensors = npy.read_every_npz(path, None)
        else:
            self.tensors = {"": npy.read_npy(path)}

    def close(self) -> None:
        """Close the files of the tensors."""
        for tensor in (*self.tensors.values(), *self.others.values()):
            if isinstance(tensor, StoredTensor):
                tensor.close()

    def named(self, name: str) -> Any:
        """Return a tensor by its name, of the state dict or outside of it.

        Raises:
            TensorError: no such tensor; the nearest one is named.
        """
        tensor = self.tensors.get(name, self.others.get(name))
        if tensor is None:
            raise self._missing(f"no tensor {name!r}", name, [*self.tensors, *self.others])
        return tensor

    def below(self, prefix: str) -> dict[str, str]:
        """Return the names of the tensors that begin with a prefix: the rest of the name -> the name.

        Raises:
            TensorError: none; the nearest prefix is named.
        """
        for names in (self.tensors, self.others):
            members = {name.removeprefix(prefix): name for name in names if name.startswith(prefix) and name != prefix}
            if members:
                return members
        prefixes = {f"{'.'.join(parts[:i])}." for parts in self._parts() for i in range(1, len(parts))}
        raise self._missing(f"no tensor begins with {prefix!r}", prefix, prefixes)

    def select(self, pattern: str, min_rank: int = 0) -> list[str]:
        """Return the names in the state dict that match a pattern such as *.weight and have the axes required.

        Raises:
            TensorError: none match; the nearest name is named.
        """
        names = [name for name in self.tensors if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise self._missing(f"no tensor matches {pattern!r}", pattern.replace("*", ""), self.tensors)
        ranked = [name for name in names if len(self.tensors[name].shape) >= min_rank]
        if not ranked:
            raise TensorError(f"{self.path}: no tensor that matches {pattern!r} has {min_rank} or more axes")
        return ranked

    def _parts(self) -> Iterator[list[str]]:
        return (name.split(".") for name in (*self.tensors, *self.others))

    def _missing(self, problem: str, name: str, known: Iterable[str]) -> TensorError:
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.3)
        return TensorError(f"{self.path}: {problem}" + (f" (did you mean {near[0]!r}?)" if near else ""))

    def write_copy(self, path: Path, changes: Changes, suffix: str | None = None) -> None:
        """Write a copy with tensors replaced, added after those of their module or, where they are None, left out.

        A copy in another format has the state dict alone.

        Args:
            path: a new file.
            changes: tensors by name.
            suffix: the format, by default that of the path.

        Raises:
            TensorError: a tensor that the format cannot store, or that shares its elements with one that stays.
        """
        suffix = suffix or files.file_format(str(path))
        if suffix == ".pt" and self._torch is not None:
            self._torch.write_copy(path, changes)
            return
        merged = self.merged(changes)
        if suffix == ".safetensors":
            _require_bytes(merged)
            safetensors.write(path, merged, self.metadata)
        elif suffix == ".npz":
            npy.save_npz(path, {name: files.read_array(tensor) for name, tensor in merged.items()})
        elif suffix == ".pt":
            from normcli.tensor import torch

            torch.write(path, merged)
        else:
            raise UsageError(f"{path}: a copy of {self.path} must be one of .npz, .safetensors and .pt")

    def merged(self, changes: Changes) -> dict[str, Any]:
        """Return the state dict with the changes."""
        merged: dict[str, Any] = {}
        for name, tensor in self.tensors.items():
            merged[name] = changes.get(name, tensor)
        for name in changes:
            if name not in merged:
                from normcli.tensor.torch_file import insert_after_module

                insert_after_module(merged, name, changes[name])
        return {name: tensor for name, tensor in merged.items() if tensor is not None}

    def save_copy(self, path: str, changes: Changes) -> None:
        """Write a copy that appears under its name when it is complete; of an index, all of its files.

        Raises:
            OutputError: a file that cannot be written.
        """
        if files.file_format(path) == files.INDEX:
            self.write_shards(Path(path), changes)
            return
        with storage.atomic_write(path) as temporary:
            self.write_copy(temporary, changes, files.file_format(path))

    def write_shards(self, path: Path, changes: Changes) -> None:
        """Write a copy of an index and of its files into the folder of a new index.

        Raises:
            UsageError: the checkpoint has no index, or its own folder is to be written.
        """
        from normcli.tensor.sharded import weight_map

        if self.format != files.INDEX:
            raise UsageError(f"{path}: {self.path} is one file, and so is its copy: name it .safetensors or .pt")
        if path.resolve().parent == self.path.resolve().parent:
            raise UsageError(f"{path}: the copy has files of the same names: name an index in another folder")
        homes = weight_map(self.path)
        for name in changes:
            if name not in homes:
                module = name.rpartition(".")[0]
                homes[name] = next(file for key, file in homes.items() if key.rpartition(".")[0] == module)
        for file in dict.fromkeys(homes.values()):
            shard = TensorFile(file)
            try:
                own = {name: value for name, value in changes.items() if homes[name] == file}
                shard.save_copy(str(path.parent / file.name), own)
            finally:
                shard.close()
        index = json.loads(self.path.read_text("utf-8"))
        index["weight_map"] = {key: file.name for key, file in homes.items() if changes.get(key, file) is not None}
        merged = self.merged(changes)
        index.setdefault("metadata", {})["total_size"] = sum(_size(tensor) for tensor in merged.values())
        storage.write_file(path, (json.dumps(index, indent=2) + "\n").encode())


@contextmanager
def open_checkpoint(path: str | Path) -> Iterator[TensorFile]:
    """Open a file of tensors, and close it at the end.

    Raises:
        TensorError: missing, damaged, or with other objects than tensors.
    """
    try:
        checkpoint = TensorFile(Path(path))
    except OSError as error:
        if isinstance(error, TensorError | UsageError):
            raise
        raise TensorError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def _require_bytes(tensors: Mapping[str, Any]) -> None:
    for tensor in tensors.values():
        if isinstance(tensor, UnreadableTensor) and not isinstance(tensor, npy.UnreadableBytes):
            raise tensor.error


def _size(tensor: Any) -> int:
    return int(tensor.nbytes) if hasattr(tensor, "nbytes") else int(np.asarray(tensor).nbytes)
