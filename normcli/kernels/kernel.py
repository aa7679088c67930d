"""Kernels: loops over arrays, compiled once for a machine, and the choice between a kernel and its fallback.

To import Numba takes 0.3 s and 120 MB, to load machine code by LLVM alone 0.035 s. So `numba.cfunc` compiles a kernel
behind the C interface that it documents (an array is an address and its lengths), LLVM writes an object file, and the
code cache stores it: complete files of this very machine that nobody else can write. A kernel therefore allocates
nothing and raises nothing, and calls the C library at most.
"""

import ctypes as c
import hashlib
import importlib.util
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from normcli import platforms

log = logging.getLogger("normcli.kernels")
_FOLDER_VARIABLE = "NUMBA_CACHE_DIR"
_STALE, _OLD = 3600, 365 * 86400  # seconds after which the next write removes a temporary file, or any file


def code_folder() -> Path | None:
    """Return the folder of the code: in $NUMBA_CACHE_DIR, else in the user's cache folder; None without a home."""
    if parent := os.environ.get(_FOLDER_VARIABLE):
        return Path(parent, "normcli")
    caches = platforms.cache_folder()
    return None if caches is None else caches / "normcli"


def describe_codes() -> str:
    """Return the folder and the number and size of its files, or the reason why none are kept."""
    place = code_folder()
    if place is None:
        return "none: this user has no home folder"
    try:
        if not _is_private(os.lstat(place), stat.S_ISDIR):
            return f"{place} (not used: other users may write it)"
        sizes = [entry.stat().st_size for entry in os.scandir(place) if entry.name.endswith(".o")]
    except FileNotFoundError:
        return f"{place} (empty)"
    except OSError as error:
        return f"{place} (not used: {error.strerror})"
    if not sizes:
        return f"{place} (empty)"
    return f"{place} ({len(sizes)} kernel{'s' * (len(sizes) > 1)}, {sum(sizes) / 1e6:.1f} MB)"


def has_code(name: str) -> bool:
    """Return True if there is code of that name, of whatever machine and version."""
    place = code_folder()
    try:
        return place is not None and any(entry.startswith(f"{name}-") for entry in os.listdir(place))  # noqa: PTH208
    except OSError:
        return False


def code_path(name: str, depends: bytes) -> Path | None:
    """Return the file of a kernel's code, named by its dependencies; Numba's version and settings are added."""
    place = code_folder()
    settings = sorted(
        item for item in os.environ.items() if item[0].startswith("NUMBA_") and item[0] != _FOLDER_VARIABLE
    )
    key = hashlib.sha256(b"\0".join((depends, _numba_version(), str(settings).encode()))).hexdigest()
    return None if place is None else place / f"{name}-{key[:24]}.o"


def _numba_version() -> bytes:
    """Return the version of Numba, which is not imported for that; empty if it has none."""
    spec = importlib.util.find_spec("numba")
    if spec is None or spec.origin is None:
        raise ImportError("it is not installed")
    version = Path(spec.origin).with_name("_version.py")
    return version.read_bytes() if version.exists() else b""


def read_code(path: Path) -> bytes | None:
    """Return the content of `write`; None if it is absent, damaged, or another user could have written it.

    LLVM ends the process over damaged code, or runs it: hence the checksum, which covers the file's name as well.
    """
    try:
        if not _is_private(os.lstat(path.parent), stat.S_ISDIR):
            log.info("%s: not used: other users may write it", path.parent)
            return None
        # a link may lead anywhere, and a FIFO would be waited for
        handle = platforms.open_binary(path, os.O_RDONLY | platforms.NOFOLLOW | platforms.NONBLOCK)
    except OSError:
        return None
    try:
        if not _is_private(os.fstat(handle), stat.S_ISREG):
            log.info("%s: not used: not a regular file, or other users may write it", path)
            return None
        with open(handle, "rb", closefd=False) as file:
            data = file.read()
    except OSError:
        return None
    finally:
        os.close(handle)
    if _checksum(path, data[32:]) != data[:32]:
        log.info("%s: not used: damaged", path)
        return None
    return data[32:]


def write_code(path: Path, code: bytes) -> None:
    """Write code to its file atomically; where that fails, the next run compiles again."""
    import tempfile

    temporary = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(os.lstat(path.parent), stat.S_ISDIR):
            return
        _remove_old(path.parent)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(_checksum(path, code) + code)
            platforms.make_readable(handle)  # root's serves every user
        os.replace(temporary, path)  # noqa: PTH105
        temporary = None
    except OSError as error:
        log.info("compiled code cannot be written to %s: %s", path.parent, error.strerror)
    finally:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108


def _is_private(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Return True if a file or folder is of this kind, and only this user and root may write it."""
    return is_kind(status.st_mode) and platforms.is_private(status)


def _checksum(path: Path, code: bytes) -> bytes:
    return hashlib.sha256(os.fsencode(path.name) + b"\0" + code).digest()


def _remove_old(place: Path) -> None:
    """Remove unfinished files of killed processes, and code of a year ago: its versions are gone."""
    now = time.time()
    for entry in os.scandir(place):
        if now - entry.stat(follow_symlinks=False).st_mtime > (_STALE if entry.name.startswith(".") else _OLD):
            with suppress(OSError):
                os.unlink(entry.path)  # noqa: PTH108


_engines: list[Any] = []  # LLVM's, which own the loaded code

ArgumentTypes = tuple[Any, ...]  # of each argument: (dtype, dimensions), float or int
_LIBC = {"sqrt", "fma", "floor", "ceil", "memset", "memcpy", "memmove"}


def load_code(kernel: "Kernel", types: ArgumentTypes) -> Callable[..., None] | None:
    """Return a C function that takes addresses, lengths and numbers, from the cache or else compiled.

    Returns:
        None where the compiled code would call what only Numba has.

    Raises:
        Exception: LLVM or Numba fails, as a version does that is too old for this Python or NumPy.
    """
    address = _address(kernel, types)
    if address is None:
        return None
    return c.CFUNCTYPE(None, *_c_parameters(types))(address)


def _address(kernel: "Kernel", types: ArgumentTypes) -> int | None:
    import llvmlite
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    cpu, features = _processor()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu, features, opt=3, jit=True)
    modules = (kernel.py_func.__globals__, type(kernel).__init__.__globals__, globals())
    sources = [names["__loader__"].get_data(names["__file__"]) for names in modules]
    for name in ("lines.py", "calls.py"):  # the machine functions, which any kernel may call
        sources.append(globals()["__loader__"].get_data(str(Path(__file__).with_name(name))))
    depends = (kernel.name, types, cpu, features, machine.triple, llvmlite.__version__, *sources)
    path = code_path(kernel.name, repr(depends).encode())
    code = None if path is None else read_code(path)
    if code is None:
        log.info("compiling %s, once for this machine", kernel.__name__)
        module = _optimized(kernel, types, machine)
        calls = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
        if others := sorted(calls - _LIBC):
            log.info("%s calls %s: compiled by Numba in every run", kernel.__name__, ", ".join(others))
            return None
        code = machine.emit_object(module)
        if path is not None:
            write_code(path, code)
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


def _c_parameters(types: ArgumentTypes) -> list[Any]:
    return _parameters(types, lambda _: c.c_void_p, c.c_ssize_t, c.c_double, c.c_int64)


T = TypeVar("T")

_lock = threading.RLock()

_FLOATS, _INTEGERS = (float, np.floating), (int, np.integer)  # asked at every call: unions take three times as long
_LOAD_SECONDS, _NEXT_LOAD_SECONDS, _COMPILE_PATIENCE = 0.03, 0.003, 0.15
# for several kernels, which lose a little each; with 30 ms, 10,000 digits paid for loading shortly before their end in
# both workers (12% more processor time), and 60,000 take 4% longer with this
_SEVERAL_SECONDS = 0.045
_lost: dict[str, float] = {}  # processor seconds that a run has lost without kernels, by their names


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "0") != "0"


# NORMCLI_AOT=0 leaves all to Numba, as do its own modes for finding errors: its dispatcher checks and raises
_BY_NUMBA = os.environ.get("NORMCLI_AOT") == "0" or _is_on("NUMBA_DISABLE_JIT") or _is_on("NUMBA_BOUNDSCHECK")


def contiguous(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array as kernels read it; a copy if it has gaps or an unaligned address."""
    return np.require(array, requirements=["C", "A"])


_Start = c.c_char * 0


def address_of(array: Any) -> int:
    """Return the address of the first value of a C-contiguous array."""
    try:
        return c.addressof(_Start.from_buffer(array))  # half the time of what follows, a third of `ctypes.data`
    except (TypeError, ValueError, BufferError):  # read-only
        address: int = array.__array_interface__["data"][0]
        return address


def as_words(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes of uint8 pixels, four in a uint32 with the first one lowest; empty if that needs a copy."""
    return _as_wider(pixels[: pixels.size // 4 * 4], np.uint32)


def as_pairs(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes of uint8 pixels, two in a uint16 with the first one lowest, as `as_words` does: (N,6)."""
    return _as_wider(pixels[: pixels.size // 12 * 12], np.uint16).reshape(-1, 6)


def _as_wider(pixels: np.ndarray[Any, Any], dtype: type[np.unsignedinteger[Any]]) -> np.ndarray[Any, Any]:
    if sys.byteorder == "little" and pixels.dtype == np.uint8:
        wider = pixels.view(dtype)
        if wider.flags.aligned:
            return wider
    return pixels[:0].view(dtype)


class KernelUnavailable(Exception):
    """A kernel that can be neither loaded nor compiled; the text is the reason."""


class Kernel:
    """A loop over arrays, compiled for the types of arguments it is called with.

    Arguments are C-contiguous arrays, integers and floats; results go into arrays. It runs without the
    interpreter's lock and starts no threads: callers bring their own, and forking is safe.

    Attributes:
        py_func: the function as plain Python.
        options: of `numba.njit`.
    """

    def __init__(self, function: Callable[..., None], fastmath: set[str]) -> None:
        self.py_func = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.options: dict[str, Any] = {"fastmath": fastmath, "error_model": "numpy"}
        self._functions: dict[tuple[Any, ...], Callable[..., None]] = {}
        self._dispatcher: Callable[..., None] | None = None  # Numba's own
        self._fallback_seconds = 0.0
        self._loading = self._failed = False

    @property
    def name(self) -> str:
        """Return its name in the cache."""
        return f"{self.py_func.__module__.rpartition('.')[2]}.{self.__name__}"

    @property
    def is_loaded(self) -> bool:
        """Return True if it has been loaded, for some arguments."""
        return bool(self._functions) or self._dispatcher is not None

    @property
    def load_cost(self) -> float:
        """Return the processor seconds that fallbacks may take before it is loaded.

        About what loading takes, so that no run pays more than twice; less than compiling does, which is paid once.
        """
        if not self._has_code:
            return _COMPILE_PATIENCE
        return _NEXT_LOAD_SECONDS if _engines else _LOAD_SECONDS  # LLVM itself is most of the first load

    @cached_property
    def _has_code(self) -> bool:
        return has_code(self.name)

    def is_worth_loading(self, lost: float) -> bool:
        """Return True if it is loaded, or should be: after a loss of so many processor seconds without it.

        The first kernel also loads LLVM, so it waits for what all have lost together.
        """
        if self.is_loaded:
            return True
        _lost[self.name] = lost
        return lost > self.load_cost or (
            self._has_code and lost > _NEXT_LOAD_SECONDS and sum(_lost.values()) > _SEVERAL_SECONDS
        )

    def is_due(self) -> bool:
        """Return True if it should run rather than a fallback.

        Fallbacks run until they have taken what loading does: a small folder never pays. One thread then loads the
        kernel while the others continue with fallbacks.
        """
        return self.is_loaded or (self._fallback_seconds > self.load_cost and not self._loading)

    def call_or(self, fallback: Callable[[], T], arguments: Callable[[], tuple[Any, ...]]) -> T | None:
        """Run the kernel if it is loaded or worth loading, otherwise a fallback of the same result.

        Args:
            fallback: does the same without the kernel.
            arguments: returns the kernel's arguments; called only if it is run.

        Returns:
            What the fallback returned; None where the kernel ran.
        """
        if not self._failed and self.is_due():
            self._loading = True
            try:
                if self.try_call(*arguments()):
                    return None
            finally:
                self._loading = False
        started = time.thread_time()
        result = fallback()
        self._fallback_seconds += time.thread_time() - started
        return result

    def try_call(self, *arguments: Any) -> bool:
        """Run it and return True; where it is unavailable, do nothing, return False, and never try again."""
        if self._failed:
            return False
        try:
            self(*arguments)
        except KernelUnavailable as error:
            self._failed = True
            log.info("Numba is not usable here (%s): NumPy computes the same", error)
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
        types, values = self._split(arguments)
        function = self._functions.get(types) or self._load(types)
        return self(*arguments) if function is None else function(*values)

    def bound(self, *arguments: Any) -> tuple[Callable[..., None], list[Any]] | None:
        """Return the C function for arguments of these types and its values for them; None if it is not loaded.

        The values are each number, and of each array the address and the lengths, as objects of ctypes: whoever keeps
        most of the arrays between calls replaces the others by integers.
        """
        types, values = self._split(arguments)
        function = self._functions.get(types)
        if function is None:
            return None
        kinds = _c_parameters(types)  # of values that are converted, a call takes half the time: 2 us less
        return function, [kind(value) for kind, value in zip(kinds, values, strict=True)]

    def _split(self, arguments: tuple[Any, ...]) -> tuple[ArgumentTypes, list[Any]]:
        """Return the types of arguments, and the values that a C function takes for them."""
        types: list[Any] = []
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                flags = argument.flags
                if not (flags.c_contiguous and flags.aligned):
                    raise ValueError(f"{self.__name__}: arrays must be contiguous and aligned")
                types.append((argument.dtype, argument.ndim))
                values += (address_of(argument), *argument.shape)
            elif isinstance(argument, _FLOATS):
                types.append(float)
                values.append(float(argument))
            elif isinstance(argument, _INTEGERS):
                if not -1 << 63 <= argument < 1 << 63:
                    raise OverflowError(f"{self.__name__}: {argument} does not fit in 64 bits")
                types.append(int)
                values.append(int(argument))
            else:
                raise TypeError(f"{self.__name__}: {type(argument).__name__} is neither an array nor a number")
        return tuple(types), values

    def _load(self, types: tuple[Any, ...]) -> Callable[..., None] | None:
        """Load the function for these arguments, or else Numba's dispatcher; compile where no earlier run has."""
        with _lock:
            if types not in self._functions and self._dispatcher is None:
                try:
                    function = None if _BY_NUMBA else load_code(self, types)
                    if function is None:
                        self._dispatcher = self.jitted(nogil=True)
                    else:
                        self._functions[types] = function
                except Exception as error:  # Numba lags a new Python or NumPy by months; LLVM may find no memory
                    raise KernelUnavailable(" ".join(str(error).split()) or type(error).__name__) from error
        return self._functions.get(types)

    def jitted(self, **options: Any) -> Any:
        """Return the function as Numba's dispatcher, which compiles it when it is called."""
        import numba

        names = self.py_func.__globals__
        for name, value in list(names.items()):
            if isinstance(value, _DeviceFunction):
                names[name] = value.compiled()
        return numba.njit(**options, **self.options)(self.py_func)


class _DeviceFunction:
    """A function that kernels call; Numba sees it when the first of them is compiled."""

    def __init__(self, function: Callable[..., Any], fastmath: set[str]) -> None:
        self.function, self.fastmath = function, fastmath

    def compiled(self) -> Any:
        """Return the function as Numba calls it."""
        import numba

        return numba.njit(error_model="numpy", fastmath=self.fastmath)(self.function)


class _MachineFunction(_DeviceFunction):
    """A function whose LLVM code is written out, where no loop of Python's compiles to it."""

    def __init__(self, function: Callable[..., Any], emit: Callable[..., Any], result: str) -> None:
        super().__init__(function, set())
        self.emit, self.result = emit, result

    def compiled(self) -> Any:
        import inspect

        import numba
        from numba.extending import intrinsic

        def typed(_context: Any, *types: Any) -> tuple[Any, Callable[..., Any]]:
            def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                return self.emit(context, builder, signature.args, values)

            return getattr(numba.types, self.result)(*types), emit

        if numba.config.DISABLE_JIT:
            return self.function
        signature = inspect.signature(self.function)  # by which Numba matches arguments
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_ONLY)
        typed.__signature__ = signature.replace(parameters=[context, *signature.parameters.values()])  # type: ignore[attr-defined]
        return intrinsic(typed)


def kernel(fastmath: Iterable[str] = ()) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function, with the liberties that LLVM may take in its arithmetic."""
    return lambda function: Kernel(function, set(fastmath))


def device_function(fastmath: Iterable[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Mark a function that only kernels call."""
    return lambda function: _DeviceFunction(function, set(fastmath))


def machine_function(emit: Callable[..., Any], result: str = "void") -> Callable[[Callable[..., Any]], Any]:
    """Mark a function of kernels whose code `emit` writes.

    Args:
        emit: writes it: emit(context, builder, types, values), as Numba's intrinsics do, with types and values of
            the arguments.
        result: Numba's name of the type that it returns.
    """
    return lambda function: _MachineFunction(function, emit, result)
