"""A checkpoint in torch's zip format: its tensors by name, read in place, and copies of it with some tensors changed.

It needs no torch: storages are uncompressed members, and the pickle that names them is parsed, never executed.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normcli.errors import InputError, TensorError, UnsupportedTensorError
from normcli.storage import torch_pickle
from normcli.storage.npy import FileStamp, StoredTensor, UnreadableTensor, bytes_of, file_parts, stamp_of
from normcli.storage.safetensors_format import bfloat16
from normcli.storage.torch_pickle import Call, Global, Persistent, mapping_of
from normcli.storage.torch_zip import Member, patched, read_members, write_members
from normcli.tensor.safetensors import TensorContent

_LARGEST_VIEW = 64 << 20  # bytes of a tensor that repeats what is stored

# a type of storage -> the type of its elements
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_STORAGE_OF = {element: name for name, element in _STORAGES.items()}
_READABLE = frozenset([*_STORAGES.values(), "uint16", "uint32", "uint64"])
# keys of the usual wrappers of a state dict, in the order of preference
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "params", "weights")
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


class Place(NamedTuple):
    """The elements of a tensor in a storage.

    Attributes:
        key: of the storage.
        element: the type, as torch spells it.
        offset: of the first element, in elements.
        shape: lengths of the axes.
        strides: in elements.
    """

    key: str
    element: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        """Return True if the elements follow each other in C order."""
        step, is_empty = 1, not math.prod(self.shape)
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step and not is_empty:
                return False
            step *= length
        return True

    @property
    def extent(self) -> int:
        """Return the number of elements from the first to the last in memory."""
        if not math.prod(self.shape):
            return 0
        return 1 + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True))


class StridedTensor(StoredTensor):
    """A tensor in a file whose elements are not in C order, such as a kernel in channels-last format."""

    def __init__(
        self, path: Path, offset: int, place: Place, dtype: np.dtype[Any], stamp: FileStamp | None = None
    ) -> None:
        super().__init__(path, offset, place.shape, dtype, stamp)
        self._place = place

    def __getitem__(self, samples: slice, /) -> NDArray[Any]:
        start, stop, _ = samples.indices(self.shape[0])
        strides, size = self._place.strides, self.dtype.itemsize
        part = self._place._replace(shape=(max(stop - start, 0), *self.shape[1:]))
        offset = self.offset + start * strides[0] * size
        flat = StoredTensor(self.path, offset, (part.extent,), self.dtype, self.stamp)
        with flat:
            memory = flat[0 : part.extent]
        steps = tuple(stride * size for stride in strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(memory, part.shape, steps))

    def parts(self) -> Iterator[memoryview]:
        """Yield the bytes of the elements in C order."""
        yield bytes_of(self.read_all())


class _Location(NamedTuple):
    """A tensor's entry in the pickle, and its place; None for values of other kinds."""

    container: Any
    key: Any
    place: Place | None


class TorchFile:
    """The tensors of a checkpoint.

    Attributes:
        tensors: the state dict: the file's dictionary, or the one in it that its key or its tensors make known.
        others: the tensors outside of the state dict, under the keys of all dictionaries around them.
    """

    def __init__(self, path: Path) -> None:
        """Parse the pickle of a checkpoint.

        Raises:
            InputError: damaged, of another form ("unsupported"), or with other objects than weights ("objects").
        """
        self.path = path
        self._members = read_members(path)
        pickled = next((name for name in self._members if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise InputError("damaged", "a zip archive that is no checkpoint of torch")
        self._name = pickled.removesuffix("/data.pkl")
        with path.open("rb") as file:
            self._stamp = stamp_of(file.fileno())
            if self._read(file.fileno(), "byteorder", b"little") != b"little":
                raise InputError("unsupported", "big-endian storages")
            self._root = [torch_pickle.parse(self._read(file.fileno(), "data.pkl", b""))]
        self._locations: dict[str, _Location] = {}
        every = {names: self._open(location, names) for names, location in _walk(self._root, 0, ())}
        main = _state_dict(every)
        self.tensors = {".".join(n[len(main) :]): t for n, t in every.items() if n[: len(main)] == main}
        self.others = {".".join(n): t for n, t in every.items() if n[: len(main)] != main}
        self._main = main

    def _read(self, handle: int, name: str, default: bytes) -> bytes:
        member = self._members.get(f"{self._name}/{name}")
        return default if member is None else b"".join(bytes(p) for p in file_parts(handle, *member))

    def _open(self, location: _Location, names: tuple[str, ...]) -> StoredTensor | UnreadableTensor:
        full = ".".join(names)
        where = f"{self.path}{full and f':{full}'}"
        self._locations[full] = location
        node, place = location.container[location.key], location.place
        if place is None:
            kind = _kind_of(node)
            remedy = (
                ": save it dense, with .dequantize()" if kind == "quantized" else ": save it dense, with .to_dense()"
            )
            text = f"{where}: a {kind} tensor{remedy if kind != 'meta' else ' has no elements'}"
            return UnreadableTensor(_shape_of(node), UnsupportedTensorError(text), kind)
        member = self._members.get(f"{self._name}/data/{place.key}")
        if member is None:
            raise InputError("damaged", f"{full!r} has no storage")
        if place.element not in _READABLE:
            return UnreadableTensor(
                place.shape,
                UnsupportedTensorError(f"{where}: a tensor of torch.{place.element} has no equivalent in NumPy"),
                place.element,
            )
        dtype = bfloat16() if place.element == "bfloat16" else np.dtype(place.element)
        if (place.offset + place.extent) * dtype.itemsize > member.size:
            raise InputError("damaged", f"{full!r} ends beyond its storage")
        size = math.prod(place.shape) * dtype.itemsize
        if size > max(member.size, _LARGEST_VIEW):  # 1.5 KB can repeat as 6.4 GB
            text = f"{where}: a view that repeats {member.size} bytes as {size}: save it with .contiguous()"
            return UnreadableTensor(place.shape, UnsupportedTensorError(text), place.element)
        start = member.start + place.offset * dtype.itemsize
        if place.is_contiguous:
            return StoredTensor(self.path, start, place.shape, dtype, self._stamp)
        return StridedTensor(self.path, start, place, dtype, self._stamp)

    def write_copy(self, path: Path, changes: Mapping[str, TensorContent | None]) -> None:
        """Write the checkpoint with some tensors replaced, added or, where they are None, left out.

        Where no type, shape or name changes, only the bytes of these tensors differ from the original.

        Raises:
            TensorError: a tensor shares its storage with one that stays.
        """
        full = {".".join((*self._main, name)): value for name, value in changes.items()}
        self._require_own_storages(full)
        storages = _Storages(self._members, self._name)
        if all(self._is_alike(name, value) for name, value in full.items()):
            for name, value in full.items():
                assert value is not None
                self._patch(storages, self._locations[name].place, value)
            return self._write(path, storages)
        for name, value in full.items():
            self._change(storages, name, value)
        storages.keep_only({identity[2] for identity in _persistent(self._root[0])})
        return self._write(path, storages, torch_pickle.serialize(self._root[0]))

    def _require_own_storages(self, changes: Mapping[str, TensorContent | None]) -> None:
        spans: dict[str, list[tuple[int, int, str]]] = {}
        for name, (_, _, place) in self._locations.items():
            if place is not None and name not in changes:
                spans.setdefault(place.key, []).append((place.offset, place.offset + place.extent, name))
        for name, value in changes.items():
            place = self._locations[name].place if name in self._locations else None
            if place is None or value is None:
                continue
            for start, end, other in spans.get(place.key, ()):
                if start < place.offset + place.extent and place.offset < end:
                    raise TensorError(
                        f"{self.path}:{name}: shares its elements with {other}, which would change as well "
                        "(save one of them with .clone(), or select both)"
                    )

    def _is_alike(self, name: str, value: TensorContent | None) -> bool:
        place = self._locations[name].place if name in self._locations else None
        if place is None or value is None or isinstance(value, UnreadableTensor):
            return False
        return place.element == value.dtype.name and place.shape == value.shape

    def _patch(self, storages: "_Storages", place: Place | None, value: Any) -> None:
        assert place is not None
        size = value.dtype.itemsize
        if place.is_contiguous:
            storages.patch(place.key, place.offset * size, _parts(value))
            return
        member = self._members[f"{self._name}/data/{place.key}"]
        with StoredTensor(self.path, member.start + place.offset * size, (place.extent,), value.dtype) as span:
            memory = span.read_all()
        steps = tuple(stride * size for stride in place.strides)
        array = value if isinstance(value, np.ndarray) else _read(value)
        np.lib.stride_tricks.as_strided(memory, place.shape, steps)[...] = array
        storages.patch(place.key, place.offset * size, [bytes_of(memory)])

    def _change(self, storages: "_Storages", name: str, value: TensorContent | None) -> None:
        """Change the graph and the storages for one tensor."""
        location = self._locations.get(name)
        if value is None:
            if location is not None:
                del location.container[location.key]
            return
        if isinstance(value, UnreadableTensor):
            raise value.error
        node = storages.add(value, name)
        if location is not None:
            location.container[location.key] = node
            return
        entries = mapping_of(self._root[0])
        for part in self._main:
            entries = mapping_of((entries or {})[part])
        if entries is None:
            raise TensorError(f"{self.path}: one tensor without a name, to which {name} cannot be added")
        insert_after_module(entries, name.removeprefix("".join(f"{part}." for part in self._main)), node)

    def _write(self, path: Path, storages: "_Storages", pickled: bytes | None = None) -> None:
        with self.path.open("rb", buffering=0) as file:
            if stamp_of(file.fileno()) != self._stamp:
                raise TensorError(f"{self.path}: the file changed while it was read")
            write_members(path, storages.members(file.fileno(), pickled))


class _Storages:
    """The members of a copy: those of the original with their changes, and new ones."""

    def __init__(self, members: Mapping[str, Member], name: str) -> None:
        self._members, self._name = dict(members), name
        self._patches: dict[str, list[tuple[int, Iterable[Any]]]] = {}
        self._new: dict[str, Any] = {}

    def patch(self, key: str, offset: int, parts: Iterable[Any]) -> None:
        """Replace bytes of a storage."""
        self._patches.setdefault(f"{self._name}/data/{key}", []).append((offset, parts))

    def add(self, value: Any, name: str) -> Call:
        """Add a storage for a tensor; return the tensor's node."""
        storage = _STORAGE_OF.get(value.dtype.name)
        if storage is None:
            raise TensorError(f"{name}: torch has no storage of dtype {value.dtype}")
        number = len(self._members) + len(self._new)
        while f"{self._name}/data/{number}" in {**self._members, **self._new}:
            number += 1
        self._new[f"{self._name}/data/{number}"] = value
        return tensor_node(str(number), storage, value.shape)

    def keep_only(self, keys: set[Any]) -> None:
        """Leave out the storages that nothing refers to any more."""
        data = f"{self._name}/data/"
        self._members = {n: m for n, m in self._members.items() if not n.startswith(data) or n[len(data) :] in keys}

    def members(self, handle: int, pickled: bytes | None) -> Iterator[tuple[str, int, Iterable[Any]]]:
        """Yield name, size and content of every member."""
        for name, member in self._members.items():
            if pickled is not None and name == f"{self._name}/data.pkl":
                yield name, len(pickled), [pickled]
                continue
            changes = sorted(self._patches.get(name, ()), key=lambda change: change[0])
            yield name, member.size, patched(file_parts(handle, *member), _sequence(changes))
        for name, value in self._new.items():
            yield name, value.nbytes, _parts(value)


def write(path: Path, arrays: Mapping[str, TensorContent]) -> None:
    """Write a checkpoint of one tensor, under the key "", or of a dictionary of tensors.

    Raises:
        TensorError: a type that torch lacks.
    """
    storages = _Storages({}, "archive")
    nodes: dict[str, Call] = {}
    for name, value in arrays.items():
        if isinstance(value, UnreadableTensor):
            raise value.error
        nodes[name] = storages.add(value, name)
    pickled = torch_pickle.serialize(nodes[""] if list(nodes) == [""] else nodes)
    texts = {"data.pkl": pickled, "byteorder": b"little"}
    ends = {"version": b"3\n"}
    write_members(
        path,
        [
            *((f"archive/{name}", len(data), [data]) for name, data in texts.items()),
            *storages.members(-1, None),
            *((f"archive/{name}", len(data), [data]) for name, data in ends.items()),
        ],
    )


def tensor_node(key: str, storage: str, shape: tuple[int, ...]) -> Call:
    """Return the node of a contiguous tensor at the start of its storage."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    identity = ("storage", Global("torch", storage), key, "cpu", math.prod(shape))
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (Persistent(identity), 0, shape, strides, False, hooks))


def _walk(container: Any, key: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], _Location]]:
    """Yield the tensors below an entry, with the keys that lead to them."""
    stack = [(container, key, names)]
    while stack:
        container, key, names = stack.pop()
        node = container[key]
        if isinstance(node, tuple):
            node = container[key] = torch_pickle.OpenTuple(node)
        entries = mapping_of(node)
        if len(names) > 64:
            raise InputError("damaged", "dictionaries nested 64 deep")
        if entries is not None:
            stack += [(entries, k, (*names, str(k))) for k in reversed(entries)]
        elif isinstance(node, list):
            stack += [(node, i, (*names, str(i))) for i in reversed(range(len(node)))]
        elif isinstance(node, Call) and node.function.module in ("torch._utils", "torch._tensor"):
            yield names, _Location(container, key, _place(node))


def _place(node: Call) -> Place | None:
    """Return the place of a tensor's elements; None for one that is sparse, quantized or without elements."""
    name, arguments = node.function.name, node.arguments
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state") and arguments:
        return _place(arguments[0]) if isinstance(arguments[0], Call) else None
    if name == "_rebuild_from_type_v2" and len(arguments) > 2 and isinstance(arguments[0], Global):
        return _place(Call(arguments[0], arguments[2]))
    if name not in _REBUILD:
        return None
    try:
        (_, storage, key, *_), offset, size, strides = arguments[0].identity, *arguments[1:4]
        element = arguments[6].name if name == "_rebuild_tensor_v3" else _STORAGES.get(storage.name, storage.name)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise InputError("damaged", "a tensor without a storage") from None
    shape = size.arguments[0] if isinstance(size, Call) else size
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise InputError("damaged", f"a tensor of shape {shape} and strides {strides}")
    return Place(str(key), str(element), offset, tuple(shape), tuple(strides))


def _shape_of(node: Call) -> tuple[int, ...]:
    """Return the shape of a tensor that is sparse, quantized or without elements; () where its call has none."""
    place = {"_rebuild_meta_tensor_no_storage": 1, "_rebuild_qtensor": 2}.get(node.function.name)
    parts = node.arguments[1] if place is None and len(node.arguments) > 1 else ()
    sizes = [part for part in parts if isinstance(part, Call) and part.function.name == "Size"] if parts else []
    size = node.arguments[place] if place is not None and len(node.arguments) > place else next(iter(sizes), ())
    shape = next(iter(size.arguments), ()) if isinstance(size, Call) else size
    known = isinstance(shape, tuple | list) and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)
    return tuple(shape) if known else ()


def _kind_of(node: Call) -> str:
    name = node.function.name
    if "meta" in name:
        return "meta"
    if "qtensor" in name:
        return "quantized"
    layout = node.arguments[0] if node.arguments else None
    text = layout.arguments[0] if isinstance(layout, Call) and layout.arguments else ""
    return str(text).removeprefix("torch.") or name.removeprefix("_rebuild_").removesuffix("_tensor")


def _state_dict(every: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    """Return the keys that lead to the state dict: none if tensors are at the top, or in several dictionaries."""
    parents = dict.fromkeys(names[:-1] for names in every)
    if () in parents or not parents:
        return ()
    wrapper = next(((name,) for name in _WRAPPERS if (name,) in parents), None)
    return wrapper or (next(iter(parents)) if len(parents) == 1 else ())


def insert_after_module(entries: dict[Any, Any], name: str, value: Any) -> None:
    """Put a new entry after the last one of its module.

    >>> entries = {"conv.weight": 1, "fc.weight": 2}
    >>> insert_after_module(entries, "conv.bias", 3)
    >>> list(entries)
    ['conv.weight', 'conv.bias', 'fc.weight']
    """
    module = name.rpartition(".")[0]
    order = list(entries)
    last = max((i for i, key in enumerate(order) if str(key).rpartition(".")[0] == module), default=len(order) - 1)
    later = {key: entries.pop(key) for key in order[last + 1 :]}
    entries[name] = value
    entries.update(later)


def _persistent(root: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the identities of all storages that a graph refers to."""
    stack, visited = [root], set[int]()
    while stack:
        node = stack.pop()
        if isinstance(node, Persistent):
            yield node.identity
        elif isinstance(node, Call | dict | list | tuple) and id(node) not in visited:
            visited.add(id(node))
            if isinstance(node, Call):
                stack += [*node.arguments, *node.items, *node.entries.values(), node.state]
            else:
                stack += node.values() if isinstance(node, dict) else node


def _parts(value: Any) -> Iterable[Any]:
    return [bytes_of(np.ascontiguousarray(value))] if isinstance(value, np.ndarray) else value.parts()


def _read(value: Any) -> NDArray[Any]:
    memory = b"".join(bytes(part) for part in value.parts())
    return np.frombuffer(memory, value.dtype).reshape(value.shape)


def _sequence(changes: Iterable[tuple[int, Iterable[Any]]]) -> Iterator[tuple[int, Any]]:
    """Yield offset and bytes of every piece of several changes; of two at one place, the first."""
    end = 0
    for offset, parts in changes:
        if offset < end:
            continue  # the same elements under another name
        for part in parts:
            yield offset, part
            offset += len(part)
        end = offset
