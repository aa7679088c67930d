"""Memory as kernels use it: stores that bypass the cache, reads ahead of use, and turns that threads share.

A result that fills the cache has left it before anybody reads it. An ordinary store reads the line that it changes, so
that a copy moves three lines for two. A line stored past the cache is not read, and what is in the cache stays.
Each function is plain Python above, and below it the same for LLVM, which splits a line into vectors of the processor.
"""

from typing import Any

from normcli.kernels.kernel import machine_function

LINE_BYTES = 64
_X86 = ("x86_64", "i386", "i686")


def _pointer(context: Any, builder: Any, types: Any, values: Any, index: Any = None) -> Any:
    """Return the address of an element of the first argument, an array."""
    data = context.make_array(types)(context, builder, values).data
    return data if index is None else builder.gep(data, [index])


def _declare(builder: Any, name: str, *parameters: Any) -> Any:
    """Return an intrinsic function of LLVM that returns nothing."""
    from llvmlite import ir

    declared = builder.module.globals.get(name)
    return declared or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), parameters), name)


def _emit_elements_to_line(context: Any, builder: Any, types: Any, values: Any) -> Any:
    from llvmlite import ir

    word = ir.IntType(64)
    address = builder.ptrtoint(_pointer(context, builder, types[0], values[0]), word)
    rest = builder.and_(builder.neg(address), word(LINE_BYTES - 1))
    return builder.udiv(rest, word(types[0].dtype.bitwidth // 8))


def _emit_store_line(context: Any, builder: Any, types: Any, values: Any) -> Any:
    from llvmlite import ir

    bytes_each = types[0].dtype.bitwidth // 8
    line = ir.VectorType(context.get_data_type(types[0].dtype), LINE_BYTES // bytes_each).as_pointer()
    target, source = (builder.bitcast(_pointer(context, builder, types[i], values[i], values[2]), line) for i in (0, 1))
    elements = builder.load(source, align=bytes_each)
    store = builder.store(elements, target, align=LINE_BYTES)
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
    return context.get_dummy_value()


def _emit_prefetch(context: Any, builder: Any, types: Any, values: Any) -> Any:
    from llvmlite import ir

    number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    address = builder.bitcast(_pointer(context, builder, types[0], values[0], values[1]), pointer)
    prefetch = _declare(builder, "llvm.prefetch.p0", pointer, number, number, number)
    builder.call(prefetch, [address, number(0), number(3), number(1)])  # to be read, into all caches, as data
    return context.get_dummy_value()


def _emit_take_turn(context: Any, builder: Any, types: Any, values: Any) -> Any:
    return builder.atomic_rmw("add", _pointer(context, builder, types[0], values[0]), values[1], "monotonic")


def _emit_order_stores(context: Any, builder: Any, types: Any, values: Any) -> Any:
    if builder.module.triple.startswith(_X86):  # elsewhere the locks of threads order these stores as any other
        builder.call(_declare(builder, "llvm.x86.sse.sfence"), [])
    return context.get_dummy_value()


@machine_function(_emit_elements_to_line, "int64")
def elements_to_line(x):  # type: ignore[no-untyped-def]
    """Return the number of elements of x before the first one that starts a cache line."""
    return -x.__array_interface__["data"][0] % LINE_BYTES // x.itemsize


@machine_function(_emit_store_line)
def store_line(target, source, start):  # type: ignore[no-untyped-def]
    """Copy the elements of one line, past the cache; that of the target must be aligned."""
    stop = start + LINE_BYTES // target.itemsize
    target[start:stop] = source[start:stop]


@machine_function(_emit_prefetch)
def prefetch(x, index):  # type: ignore[no-untyped-def]
    """Start to read the line of an element."""


@machine_function(_emit_order_stores)
def order_stores():  # type: ignore[no-untyped-def]
    """Make the stores past the cache visible to other threads before any later one."""


@machine_function(_emit_take_turn, "int64")
def take_turn(turns, count):  # type: ignore[no-untyped-def]
    """Add to the first number of turns (int64) and return what it was, each time to one thread alone."""
    turn = turns[0]
    turns[0] = turn + count
    return turn
