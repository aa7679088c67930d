"""Calls of C functions by their address, which Python looks up: a kernel that names a missing one ends the process."""

import ctypes as c
from typing import Any

from normcli.kernels.kernel import machine_function

_ARGUMENTS = 5


def _emit_call(context: Any, builder: Any, types: Any, values: Any) -> Any:
    import numba
    from llvmlite import ir

    word = ir.IntType(64)
    function = ir.FunctionType(word, [word] * _ARGUMENTS).as_pointer()
    words = [context.cast(builder, value, type_, numba.int64) for value, type_ in zip(values, types, strict=True)]
    return builder.call(builder.inttoptr(words[0], function), words[1:])


def _emit_address(context: Any, builder: Any, types: Any, values: Any) -> Any:
    from llvmlite import ir

    data = context.make_array(types[0])(context, builder, values[0]).data
    return builder.ptrtoint(builder.gep(data, [values[1]]), ir.IntType(64))


@machine_function(_emit_call, "int64")
def call(function, first, second, third, fourth, fifth):  # type: ignore[no-untyped-def]
    """Return what a C function of at most five integers and addresses returns; it ignores those that it does not have.

    Of an int, only the lower half is defined.
    """
    return c.CFUNCTYPE(c.c_int64, *[c.c_int64] * _ARGUMENTS)(int(function))(
        *map(int, (first, second, third, fourth, fifth))
    )


@machine_function(_emit_address, "int64")
def address(x, index):  # type: ignore[no-untyped-def]
    """Return the address of an element of x, of one axis."""
    return x.__array_interface__["data"][0] + int(index) * x.itemsize
