"""Compile kernels on first use, whatever state Numba's cache is in.

A cache can be truncated, of other bytes, in a folder that cannot be written, on a full disk or with no home
at all; each shows as a different exception, at decoration or at the first call. None may end a run.
"""

import threading
from collections.abc import Callable
from typing import Any

import numba

_compiling = threading.RLock()
notes: list[str] = []  # what went wrong with the cache, for `-v`


class Kernel:
    """A function compiled by `numba.njit(nogil=True, cache=True)` when it is first called.

    Compiling on the first call and not at import keeps a command from paying for kernels it never runs.
    Without `parallel=True` no threading layer is loaded: callers bring their own threads, forking is safe.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.py_func = function
        self._options = options
        self._compiled: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is None:
            return self._first_call(arguments)
        try:
            return self._compiled(*arguments)
        except _CACHE_ERRORS as error:  # a further overload, whose cache file may be damaged too
            with _compiling:
                return self._without_cache(error, arguments)

    def _first_call(self, arguments: tuple[Any, ...]) -> Any:
        with _compiling:
            if self._compiled is not None:
                return self._compiled(*arguments)
            try:
                compiled = numba.njit(nogil=True, cache=True, **self._options)(self.py_func)
                compiled.compile(tuple(numba.typeof(a) for a in arguments))
            except Exception as error:
                return self._without_cache(error, arguments)
            self._compiled = compiled
        return compiled(*arguments)

    def _without_cache(self, error: Exception, arguments: tuple[Any, ...]) -> Any:
        notes.append(
            f"kernel {self.__name__}: Numba's cache is not usable ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no text'}); compiled without it"
        )
        self._compiled = numba.njit(nogil=True, **self._options)(self.py_func)
        return self._compiled(*arguments)


_CACHE_ERRORS = (OSError, EOFError, RuntimeError, AttributeError, ImportError)


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a `Kernel` of a function: `@kernel`, or `@kernel(fastmath={"contract"})` with Numba's options."""
    if function is None:
        return lambda f: Kernel(f, **options)
    return Kernel(function, **options)
