"""Kernels: loops over arrays, compiled when first used, and the choice between a kernel and its fallback."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from normcli.kernels import code_cache

T = TypeVar("T")

log = logging.getLogger("normcli.kernels")
_lock = threading.RLock()

_FLOATS, _INTEGERS = (float, np.floating), (int, np.integer)  # asked at every call: unions take three times as long
_LOAD_SECONDS, _COMPILE_PATIENCE = 0.03, 0.15


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "0") != "0"


# NORMCLI_AOT=0 leaves all to Numba, as do its own modes for finding errors: its dispatcher checks and raises
_BY_NUMBA = os.environ.get("NORMCLI_AOT") == "0" or _is_on("NUMBA_DISABLE_JIT") or _is_on("NUMBA_BOUNDSCHECK")


def contiguous(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return an array as kernels read it; a copy where it has gaps or an unaligned address."""
    return np.require(array, requirements=["C", "A"])


def as_words(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bytes of uint8 pixels, four in a uint32 with the first one lowest; empty where that needs a copy."""
    fits = sys.byteorder == "little" and pixels.dtype == np.uint8 and not pixels.ctypes.data % 4
    return pixels[: pixels.size // 4 * 4 if fits else 0].view(np.uint32)


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
        """Its name in the cache."""
        return f"{self.py_func.__module__.rpartition('.')[2]}.{self.__name__}"

    @property
    def is_loaded(self) -> bool:
        """Return True if it has been loaded, for some arguments."""
        return bool(self._functions) or self._dispatcher is not None

    @cached_property
    def load_cost(self) -> float:
        """Processor seconds that fallbacks may take before it is loaded.

        About what loading takes, so that no run pays more than twice; less than compiling does, which is paid once.
        """
        return _LOAD_SECONDS if code_cache.contains(self.name) else _COMPILE_PATIENCE

    def is_due(self) -> bool:
        """Return whether to run it rather than a fallback.

        Fallbacks run until they have taken what loading does: a small folder never pays. One thread then loads the
        kernel while the others go on with fallbacks.
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
        types: list[Any] = []
        values: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                flags = argument.flags
                if not (flags.c_contiguous and flags.aligned):
                    raise ValueError(f"{self.__name__}: arrays must be contiguous and aligned")
                types.append((argument.dtype, argument.ndim))
                values.append(argument.ctypes.data)
                values.extend(argument.shape)
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
        function = self._functions.get(tuple(types)) or self._load(tuple(types))
        return self(*arguments) if function is None else function(*values)

    def _load(self, types: tuple[Any, ...]) -> Callable[..., None] | None:
        """Load the function for these arguments, or else Numba's dispatcher; compile where no earlier run has."""
        with _lock:
            if types not in self._functions and self._dispatcher is None:
                from normcli.kernels import aot

                try:
                    function = None if _BY_NUMBA else aot.load(self, types)
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
                names[name] = numba.njit(error_model="numpy", fastmath=value.fastmath)(value.function)
        return numba.njit(**options, **self.options)(self.py_func)


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
