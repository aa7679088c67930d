"""The pickle in a checkpoint of torch as a graph of records: parsed and written here, never executed.

An unpickler calls functions that the file names. This parser only records the calls, and rejects a file that names
anything but tensors, their storages and plain data.
"""

import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from normcli.errors import InputError

_MAX_SIZE = 100_000_000  # a million tensors take 60 MB
# functions and types that a checkpoint of tensors and plain data names
_KNOWN = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter)"
    r"|(builtins|__builtin__)\.(set|frozenset|complex|bytearray|dict|list|tuple|int|float|bool|str)"
    r"|_codecs\.encode"
    r"|numpy(\._?core\.multiarray)?\.(scalar|_reconstruct|dtype|ndarray)|numpy\.dtypes\.\w+"
    r"|torch(\.cuda|\.sparse)?\.\w+(Storage|Tensor)|torch\.Tensor"
    r"|torch\.(Size|device|(b?float|complex|u?int|bool|q?u?int|bits|per_)\w*)"
    r"|torch\.(_utils|_tensor)\._rebuild_\w+"
    r"|torch\.storage\.(Untyped|Typed)Storage|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ]
)
_IGNORED = frozenset(["PROTO", "FRAME", "STOP"])


class Global(NamedTuple):
    """A function or type that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Persistent(NamedTuple):
    """A reference to an object outside of the pickle: the storage of a tensor."""

    identity: Any


class OpenTuple(list[Any]):
    """A tuple whose elements can be replaced."""


class Call:
    """A call that an unpickler would make, and the contents that it would add to the result.

    Attributes:
        function: the callable.
        arguments: by position.
        entries: keys and values set afterwards.
        items: elements appended afterwards.
        state: attributes set at the end; None for none.
        made_new: the call is of a type's `__new__`.
    """

    __slots__ = ("arguments", "entries", "function", "items", "made_new", "state")

    def __init__(self, function: Global, arguments: tuple[Any, ...], made_new: bool = False) -> None:
        self.function, self.arguments, self.made_new = function, arguments, made_new
        self.entries: dict[Any, Any] = {}
        self.items: list[Any] = []
        self.state: Any = None


def mapping_of(node: Any) -> dict[Any, Any] | None:
    """Return the entries of a dictionary or an ordered one; None for any other node."""
    if isinstance(node, dict):
        return node
    is_mapping = isinstance(node, Call) and str(node.function) in ("collections.OrderedDict", "collections.defaultdict")
    return node.entries if is_mapping else None


def parse(data: bytes) -> Any:
    """Return the graph of a pickle.

    Raises:
        InputError: damaged, or with the reason "objects" where it names other things than weights.
    """
    if len(data) > _MAX_SIZE:
        raise InputError("damaged", f"a pickle of {len(data)} bytes")
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        (root,) = machine.stack
    except (InputError, MemoryError):
        raise
    except Exception:  # genops and a stack that is too short raise many types
        raise InputError("damaged", "a damaged pickle") from None
    return root


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under the marks
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self._memo[argument])
        elif name == "GLOBAL":
            self.stack.append(_known(*argument.split(" ", 1)))
        elif name not in _IGNORED:
            _STEPS[name](self)

    def mark(self) -> None:
        """Begin a sequence."""
        self._below.append(self.stack)
        self.stack = []

    def sequence(self) -> list[Any]:
        """End a sequence; return its elements."""
        elements, self.stack = self.stack, self._below.pop()
        return elements

    def push(self, node: Any) -> None:
        """Put a node on top of the stack."""
        self.stack.append(node)

    def pop(self) -> Any:
        """Take the top of the stack."""
        return self.stack.pop()

    def take(self, count: int) -> tuple[Any, ...]:
        """Take several, the deepest first."""
        return tuple(self.stack.pop() for _ in range(count))[::-1]


def _known(module: str, name: str) -> Global:
    if not _KNOWN.fullmatch(f"{module}.{name}"):
        raise InputError("objects", f"{module}.{name}")
    return Global(module, name)


def _call(machine: _Machine, made_new: bool = False) -> None:
    function, arguments = machine.take(2)
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise InputError("damaged", "a call of no function")
    machine.stack.append(Call(function, arguments, made_new))


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    entries = target.entries if isinstance(target, Call) else target
    if not isinstance(entries, dict) or len(pairs) % 2:
        raise InputError("damaged", "entries of no dictionary")
    entries.update(zip(pairs[::2], pairs[1::2], strict=True))


def _append(machine: _Machine, elements: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, set):
        target.update(elements)
        return
    (target.items if isinstance(target, Call) else target).extend(elements)


def _build(machine: _Machine) -> None:
    state = machine.pop()
    target = machine.stack[-1]
    if isinstance(target, Call):
        target.state = state
    elif not isinstance(target, dict):
        raise InputError("damaged", "attributes of no object")


def _pairs(elements: list[Any]) -> dict[Any, Any]:
    return dict(zip(elements[::2], elements[1::2], strict=True))


_STEPS: dict[str, Callable[[_Machine], Any]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.sequence,
    "DUP": lambda m: m.push(m.stack[-1]),
    "EMPTY_DICT": lambda m: m.push({}),
    "EMPTY_LIST": lambda m: m.push([]),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "EMPTY_SET": lambda m: m.push(set()),
    "DICT": lambda m: m.push(_pairs(m.sequence())),
    "LIST": lambda m: m.push(m.sequence()),
    "TUPLE": lambda m: m.push(tuple(m.sequence())),
    "TUPLE1": lambda m: m.push(m.take(1)),
    "TUPLE2": lambda m: m.push(m.take(2)),
    "TUPLE3": lambda m: m.push(m.take(3)),
    "FROZENSET": lambda m: m.push(frozenset(m.sequence())),
    "STACK_GLOBAL": lambda m: m.push(_known(*m.take(2))),
    "REDUCE": _call,
    "NEWOBJ": lambda m: _call(m, made_new=True),
    "BUILD": _build,
    "SETITEM": lambda m: _set_items(m, list(m.take(2))),
    "SETITEMS": lambda m: _set_items(m, m.sequence()),
    "APPEND": lambda m: _append(m, [m.pop()]),
    "APPENDS": lambda m: _append(m, m.sequence()),
    "ADDITEMS": lambda m: _append(m, m.sequence()),
    "BINPERSID": lambda m: m.push(Persistent(m.pop())),
}


def serialize(root: Any) -> bytes:
    """Return the pickle of a graph, in the protocol that torch writes.

    >>> parse(serialize({"epoch": 3, "lr": [0.5, None]}))
    {'epoch': 3, 'lr': [0.5, None]}
    """
    writer = _Writer()
    writer.save(root)
    return b"\x80\x02" + b"".join(writer.parts) + b"."


class _Writer:
    """The instructions of a pickle."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._memo: dict[Any, int] = {}
        self._nodes: list[Any] = []  # so that no other object gets the id of one that is gone

    def save(self, node: Any) -> None:
        """Write one node, or a reference where it was written before."""
        key = self._key(node)
        if key in self._memo:
            number = self._memo[key]
            self.parts.append(b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number))
            return
        _SAVERS[type(node)](self, node)

    def put(self, node: Any) -> None:
        """Record the node that was written last."""
        self._nodes.append(node)
        number = self._memo.setdefault(self._key(node), len(self._memo))
        self.parts.append(b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number))

    def _key(self, node: Any) -> Any:
        return node if isinstance(node, str | Global) else id(node)

    def save_text(self, node: str) -> None:
        """Write a text."""
        data = node.encode("utf-8", "surrogatepass")
        self.parts.append(b"X" + struct.pack("<I", len(data)) + data)
        self.put(node)

    def save_integer(self, node: int) -> None:
        """Write an integer."""
        if -(2**31) <= node < 2**31:
            self.parts.append(b"J" + struct.pack("<i", node))
            return
        data = node.to_bytes((node.bit_length() + 8) // 8, "little", signed=True)
        size = b"\x8a" + bytes([len(data)]) if len(data) < 256 else b"\x8b" + struct.pack("<I", len(data))
        self.parts.append(size + data)

    def save_tuple(self, node: tuple[Any, ...] | OpenTuple) -> None:
        """Write a tuple."""
        if not node:
            self.parts.append(b")")
            return
        self.parts.append(b"(")
        for element in node:
            self.save(element)
        self.parts.append(b"t")
        self.put(node)

    def save_list(self, node: list[Any]) -> None:
        """Write a list."""
        self.parts.append(b"]")
        self.put(node)
        self._save_elements(node, b"e")

    def save_set(self, node: set[Any] | frozenset[Any]) -> None:
        """Write a set, in the order of its texts."""
        kind = Global("builtins", "frozenset" if isinstance(node, frozenset) else "set")
        self.save(kind)
        self.save_tuple((sorted(node, key=repr),))
        self.parts.append(b"R")
        self.put(node)

    def save_dict(self, node: dict[Any, Any]) -> None:
        """Write a dictionary."""
        self.parts.append(b"}")
        self.put(node)
        self._save_entries(node)

    def save_global(self, node: Global) -> None:
        """Write the name of a function or type."""
        self.parts.append(f"c{node.module}\n{node.name}\n".encode())
        self.put(node)

    def save_persistent(self, node: Persistent) -> None:
        """Write the reference to a storage."""
        self.save(node.identity)
        self.parts.append(b"Q")

    def save_call(self, node: Call) -> None:
        """Write a call, then the items and the state of its result."""
        self.save(node.function)
        self.save(node.arguments)
        self.parts.append(b"\x81" if node.made_new else b"R")
        self.put(node)
        self._save_elements(node.items, b"e")
        self._save_entries(node.entries)
        if node.state is not None:
            self.save(node.state)
            self.parts.append(b"b")

    def _save_elements(self, elements: list[Any], end: bytes) -> None:
        if elements:
            self.parts.append(b"(")
            for element in elements:
                self.save(element)
            self.parts.append(end)

    def _save_entries(self, entries: dict[Any, Any]) -> None:
        self._save_elements([part for pair in entries.items() for part in pair], b"u")


def _save_bytes(writer: _Writer, node: bytes | bytearray) -> None:
    writer.parts.append(b"B" + struct.pack("<I", len(node)) + bytes(node))


_SAVERS: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): lambda writer, _: writer.parts.append(b"N"),
    bool: lambda writer, node: writer.parts.append(b"\x88" if node else b"\x89"),
    int: _Writer.save_integer,
    float: lambda writer, node: writer.parts.append(b"G" + struct.pack(">d", node)),
    str: _Writer.save_text,
    bytes: _save_bytes,
    bytearray: _save_bytes,
    tuple: _Writer.save_tuple,
    OpenTuple: _Writer.save_tuple,
    list: _Writer.save_list,
    set: _Writer.save_set,
    frozenset: _Writer.save_set,
    dict: _Writer.save_dict,
    Global: _Writer.save_global,
    Persistent: _Writer.save_persistent,
    Call: _Writer.save_call,
}
