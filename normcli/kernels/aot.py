"""Kernels as C functions: compiled by Numba once for a machine, from then on loaded without it.

To import Numba takes 0.3 s and 120 MB, to load machine code by LLVM alone 0.035 s. So `numba.cfunc` compiles a kernel
behind the C interface that it documents (an array is an address and its lengths), LLVM writes an object file, and
`code_cache` stores it. A kernel therefore allocates nothing and raises nothing, and calls the C library at most.
"""

import ctypes as c
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from normcli.kernels import code_cache

if TYPE_CHECKING:
    from normcli.kernels.kernel import Kernel

log = logging.getLogger("normcli.kernels")
_engines: list[Any] = []  # LLVM's, which own the loaded code

ArgumentTypes = tuple[Any, ...]  # of each argument: (dtype, dimensions), float or int
_LIBC = {"sqrt", "fma", "floor", "ceil", "memset", "memcpy", "memmove"}


def load(kernel: "Kernel", types: ArgumentTypes) -> Callable[..., None] | None:
    """Return a C function that takes addresses, lengths and numbers, from the cache or else compiled.

    Returns:
        None where the compiled code would call what only Numba has.

    Raises:
        Exception: LLVM or Numba fails, as a version does that is too old for this Python or NumPy.
    """
    address = _address(kernel, types)
    if address is None:
        return None
    return c.CFUNCTYPE(None, *_parameters(types, lambda _: c.c_void_p, c.c_ssize_t, c.c_double, c.c_int64))(address)


def _address(kernel: "Kernel", types: ArgumentTypes) -> int | None:
    import llvmlite
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = _processor()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu, features, opt=3, jit=True)
    modules = (kernel.py_func.__globals__, type(kernel).__init__.__globals__, globals())
    sources = [names["__loader__"].get_data(names["__file__"]) for names in modules]
    depends = (kernel.name, types, cpu, features, machine.triple, llvmlite.__version__, *sources)
    path = code_cache.path_of(kernel.name, repr(depends).encode())
    code = None if path is None else code_cache.read(path)
    if code is None:
        log.info("compiling %s, once for this machine", kernel.__name__)
        module = _optimized(kernel, types, machine)
        calls = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
        if others := sorted(calls - _LIBC):
            log.info("%s calls %s: compiled by Numba in every run", kernel.__name__, ", ".join(others))
            return None
        code = machine.emit_object(module)
        if path is not None:
            code_cache.write(path, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address("kernel"))


def _optimized(kernel: "Kernel", types: ArgumentTypes, machine: Any) -> Any:
    """Return LLVM's module of one public C function, "kernel".

    Numba wraps a function in what reports errors and counts references; where none can occur, all of that is dead
    once it is no longer public.
    """
    import llvmlite.binding as llvm
    import numba

    def pointer(dtype: Any) -> Any:
        return numba.types.CPointer(numba.from_dtype(dtype))

    parameters = _parameters(types, pointer, numba.intp, numba.float64, numba.int64)
    compiled = numba.cfunc(numba.void(*parameters), **kernel.options)(_entry(kernel.jitted(), types))
    module = llvm.parse_assembly(compiled.inspect_llvm())
    for value in (*module.functions, *module.global_variables):
        if value.name == compiled.native_name:
            value.name = "kernel"
        elif not value.is_declaration:
            value.linkage = "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return module


def _processor() -> tuple[str, str]:
    """Return name and features of the processor to compile for: those that Numba would take."""
    import llvmlite.binding as llvm

    name, features = (os.environ.get(f"NUMBA_CPU_{what}") for what in ("NAME", "FEATURES"))
    other = name not in (None, "", "host")
    if features is None:
        try:
            features = "" if other else llvm.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM does not know every processor
            features = ""
    return name if name and other else llvm.get_host_cpu_name(), features


def _entry(inner: Any, types: ArgumentTypes) -> Callable[..., None]:
    """Return a function of addresses, lengths and numbers that calls `inner` with arrays and numbers."""
    import numba

    parameters, arguments = [], []
    for i, type_ in enumerate(types):
        lengths = [f"n{i}_{axis}" for axis in range(type_[1])] if isinstance(type_, tuple) else []
        parameters += [f"x{i}", *lengths]
        arguments.append(f"carray(x{i}, ({', '.join(lengths)},))" if lengths else f"x{i}")
    names = {"carray": numba.carray, "inner": inner}
    exec(f"def entry({', '.join(parameters)}):\n    inner({', '.join(arguments)})", names)
    entry: Callable[..., None] = names["entry"]
    return entry


def _parameters(
    types: ArgumentTypes, pointer: Callable[[Any], Any], length: Any, floating: Any, integer: Any
) -> list[Any]:
    """Return the types of the parameters of `_entry`, by Numba's names or by those of ctypes."""
    parameters: list[Any] = []
    for type_ in types:
        if isinstance(type_, tuple):
            parameters += [pointer(type_[0]), *[length] * type_[1]]
        else:
            parameters.append(floating if type_ is float else integer)
    return parameters
