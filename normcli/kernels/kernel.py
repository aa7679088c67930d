"""Kernels as C functions: compiled by Numba once for a machine, from then on loaded without it.

To import Numba takes 0.3 s and 120 MB, to load machine code by LLVM alone 0.035 s. So `numba.cfunc` compiles a kernel
behind the C interface that it documents (an array is an address and its lengths), LLVM writes an object file, and
`cache` keeps that. A kernel therefore allocates nothing and raises nothing, and calls the C library at most.
"""

import ctypes as c
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np

from normcli.kernels import aot

log = logging.getLogger("normcli.kernels")
_lock = threading.RLock()
_engines: list[Any] = []  # LLVM's, which own the loaded code

Kinds = tuple[Any, ...]  # of arguments: (dtype, dimensions), float or int
_LIBC = {"sqrt", "fma", "floor", "ceil", "memset", "memcpy", "memmove"}
_REAL, _WHOLE = (float, np.floating), (int, np.integer)  # asked at every call: unions take three times as long
# modes for finding errors: kernels run by Numba's own dispatcher, which checks and raises
_CHECKING = any(os.environ.get(name, "0") != "0" for name in ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"))


def contiguous(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same array as kernels read it; a copy where it has gaps or lies at an odd address."""
    return np.require(array, requirements=["C", "A"])


def as_words(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bytes of uint8 pixels, four in a word with the first one lowest; empty where they do not lie like that."""
    fits = sys.byteorder == "little" and pixels.dtype == np.uint8 and not pixels.ctypes.data % 4
    return pixels[: pixels.size // 4 * 4 if fits else 0].view(np.uint32)


class KernelUnavailable(Exception):
    """Kernels can be neither loaded nor compiled here; says why."""


class Kernel:
    """A loop over arrays, compiled for the kinds of arguments it is called with.

    Arguments are C-contiguous arrays, integers and floats; what it finds goes into arrays. It runs without the
    interpreter's lock and starts no threads: callers bring their own, and forking is safe.
    """

    def __init__(self, function: Callable[..., None], fastmath: set[str]) -> None:
        self.py_func = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self._options = {"fastmath": fastmath, "error_model": "numpy"}
        self._functions: dict[Kinds, Callable[..., None]] = {}
        self._dispatcher: Callable[..., None] | None = None  # Numba's own, where ours does not do
        self._failed = False

    @property
    def is_loaded(self) -> bool:
        """Whether it has been loaded, for some arguments."""
        return bool(self._functions) or self._dispatcher is not None

    @cached_property
    def load_cost(self) -> float:
        """Processor seconds that a way around it may cost before it is loaded.

        About what loading costs, so that nobody pays more than twice; less than compiling does, which is paid once.
        """
        return 0.03 if aot.has(self.name) else 0.15

    def try_call(self, *arguments: Any) -> bool:
        """Run it where that can be; otherwise do nothing and say so, without trying again."""
        if self._failed:
            return False
        try:
            self(*arguments)
        except KernelUnavailable as error:
            self._failed = True
            log.info("Numba is not usable here (%s); going on without it", error)
            return False
        return True

    def __call__(self, *arguments: Any) -> None:
        """Run it.

        Raises:
            KernelUnavailable: it is not in the cache and cannot be compiled, or LLVM cannot load it.
            TypeError: neither an array nor a number.
            ValueError: an array that is not contiguous or not aligned.
            OverflowError: an integer beyond 64 bits.
        """
        if self._dispatcher is not None:
            return self._dispatcher(*arguments)
        kinds: list[Any] = []
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                flags = argument.flags
                if not (flags.c_contiguous and flags.aligned):
                    raise ValueError(f"{self.__name__}: arrays must be contiguous and aligned")
                kinds.append((argument.dtype, argument.ndim))
                values.append(argument.ctypes.data)
                values.extend(argument.shape)
            elif isinstance(argument, _REAL):
                kinds.append(float)
                values.append(float(argument))
            elif isinstance(argument, _WHOLE):
                if not -1 << 63 <= argument < 1 << 63:
                    raise OverflowError(f"{self.__name__}: {argument} does not fit in 64 bits")
                kinds.append(int)
                values.append(int(argument))
            else:
                raise TypeError(f"{self.__name__}: {type(argument).__name__} is neither an array nor a number")
        function = self._functions.get(tuple(kinds)) or self._made(tuple(kinds))
        return self(*arguments) if function is None else function(*values)

    def _made(self, kinds: Kinds) -> Callable[..., None] | None:
        """Load the function for these arguments; compile it first where no earlier run has."""
        with _lock:
            if kinds not in self._functions and self._dispatcher is None:
                try:
                    address = None if _CHECKING else self._address(kinds)
                    if address is None:
                        self._dispatcher = self._jitted(nogil=True)
                    else:
                        types = _types(kinds, lambda _: c.c_void_p, c.c_ssize_t, c.c_double, c.c_int64)
                        self._functions[kinds] = c.CFUNCTYPE(None, *types)(address)
                except Exception as error:  # Numba lags a new Python or NumPy by months; LLVM may find no memory
                    raise KernelUnavailable(" ".join(str(error).split()) or type(error).__name__) from error
        return self._functions.get(kinds)

    def _address(self, kinds: Kinds) -> int | None:
        """Address of the function in memory; None where it is not one that stands alone."""
        import llvmlite
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        cpu, features = _processor()
        machine = llvm.Target.from_default_triple().create_target_machine(cpu, features, opt=3, jit=True)
        sources = [names["__loader__"].get_data(names["__file__"]) for names in (self.py_func.__globals__, globals())]
        depends = (self.name, kinds, cpu, features, machine.triple, llvmlite.__version__, *sources)
        path = aot.path_of(self.name, repr(depends).encode())
        code = None if path is None else aot.read(path)
        if code is None:
            log.info("compiling %s, once for this machine", self.__name__)
            module = self._optimized(kinds, machine)
            calls = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
            if others := sorted(calls - _LIBC):
                log.info("%s would call %s: left to Numba, for every run anew", self.__name__, ", ".join(others))
                return None
            code = machine.emit_object(module)
            if path is not None:
                aot.write(path, code)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        _engines.append(engine)
        return int(engine.get_function_address("kernel"))

    @property
    def name(self) -> str:
        """Its name in the cache."""
        return f"{self.py_func.__module__.rpartition('.')[2]}.{self.__name__}"

    def _optimized(self, kinds: Kinds, machine: Any) -> Any:
        """LLVM's module for one C function, "kernel", and nothing else that others can see.

        Numba wraps a function in what reports errors and counts references; where none can occur, all of that is dead
        once it is no longer public.
        """
        import llvmlite.binding as llvm
        import numba

        def pointer(dtype: Any) -> Any:
            return numba.types.CPointer(numba.from_dtype(dtype))

        types = _types(kinds, pointer, numba.intp, numba.float64, numba.int64)
        compiled = numba.cfunc(numba.void(*types), **self._options)(_entry(self._jitted(), kinds))
        module = llvm.parse_assembly(compiled.inspect_llvm())
        for value in (*module.functions, *module.global_variables):
            if value.name == compiled.native_name:
                value.name = "kernel"
            elif not value.is_declaration:
                value.linkage = "internal"
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        builder.getModulePassManager().run(module, builder)
        return module

    def _jitted(self, **options: Any) -> Any:
        import numba

        names = self.py_func.__globals__
        for name, value in list(names.items()):
            if isinstance(value, _DeviceFunction):
                names[name] = numba.njit(error_model="numpy", fastmath=value.fastmath)(value.function)
        return numba.njit(**options, **self._options)(self.py_func)


def _processor() -> tuple[str, str]:
    """Name and features to compile for: those that Numba would take."""
    import llvmlite.binding as llvm

    name, features = (os.environ.get(f"NUMBA_CPU_{what}") for what in ("NAME", "FEATURES"))
    other = name not in (None, "", "host")
    if features is None:
        try:
            features = "" if other else llvm.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM does not know every processor
            features = ""
    return name if name and other else llvm.get_host_cpu_name(), features


def _entry(inner: Any, kinds: Kinds) -> Callable[..., None]:
    """A function of addresses, lengths and numbers that calls `inner` with arrays and numbers."""
    import numba

    parameters, arguments = [], []
    for i, kind in enumerate(kinds):
        lengths = [f"n{i}_{axis}" for axis in range(kind[1])] if isinstance(kind, tuple) else []
        parameters += [f"x{i}", *lengths]
        arguments.append(f"carray(x{i}, ({', '.join(lengths)},))" if lengths else f"x{i}")
    names = {"carray": numba.carray, "inner": inner}
    exec(f"def entry({', '.join(parameters)}):\n    inner({', '.join(arguments)})", names)
    entry: Callable[..., None] = names["entry"]
    return entry


def _types(kinds: Kinds, pointer: Callable[[Any], Any], length: Any, real: Any, whole: Any) -> list[Any]:
    """Types of the parameters of `_entry`, in the words of Numba or of ctypes."""
    found: list[Any] = []
    for kind in kinds:
        if isinstance(kind, tuple):
            found += [pointer(kind[0]), *[length] * kind[1]]
        else:
            found.append(real if kind is float else whole)
    return found


class _DeviceFunction:
    """A function that kernels call; Numba sees it when the first of them is compiled."""

    def __init__(self, function: Callable[..., Any], fastmath: set[str]) -> None:
        self.function, self.fastmath = function, fastmath


def kernel(fastmath: Iterable[str] = ()) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function, with the liberties that LLVM may take in its arithmetic."""
    return lambda function: Kernel(function, set(fastmath))


def device_function(fastmath: Iterable[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Mark a function that only kernels call."""
    return lambda function: _DeviceFunction(function, set(fastmath))
