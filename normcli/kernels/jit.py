"""Compile kernels on first use, whatever state Numba's cache is in.

A cache can be truncated, of other bytes, in a folder that cannot be written, on a full disk or with no home
at all; each shows as a different exception, at decoration or at the first call. None may end a run.
"""

import hashlib
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile

LITTLE = sys.byteorder == "little"  # the first byte of a word is its lowest: kernels load several at once

log = logging.getLogger("normcli.kernels")
_compiling = threading.RLock()


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
                if not _check_what_is_cached(compiled):
                    log.info("compiling %s, once for this machine", self.__name__)
                compiled.compile(tuple(numba.typeof(a) for a in arguments))
            except Exception as error:
                return self._without_cache(error, arguments)
            self._compiled = compiled
        return compiled(*arguments)

    def _without_cache(self, error: Exception, arguments: tuple[Any, ...]) -> Any:
        why = str(error).splitlines()[0] if str(error) else "no text"
        log.info("%s: Numba's cache is not usable (%s: %s)", self.__name__, type(error).__name__, why)
        self._compiled = numba.njit(nogil=True, **self._options)(self.py_func)
        return self._compiled(*arguments)


_CACHE_ERRORS = (OSError, EOFError, RuntimeError, AttributeError, ImportError)


class _CheckedCacheFile(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's cache files with a checksum at their end, so that damaged ones are compiled anew.

    Damage in the machine code is not seen by unpickling: LLVM ends the process ("not recognized as a valid
    object file"), or wrong code runs. Reading stops at the pickle's own end, so the checksum disturbs nobody.
    """

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _load_index(self) -> Any:
        try:
            with Path(self._index_path).open("rb") as file:
                pickle.load(file)  # Numba's version, before the checked part
                _verify(file.read())
            return super()._load_index()
        except _DAMAGED:
            return {}  # as if nothing were cached

    def _load_data(self, name: str) -> Any:
        _verify(Path(self._data_path(name)).read_bytes())
        return super()._load_data(name)


_DAMAGED = (OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError, IndexError, AttributeError, ImportError)


def _verify(data: bytes) -> None:
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise OSError("damaged cache file")  # Numba takes it for absent and writes it anew


def _check_what_is_cached(compiled: Any) -> bool:
    """Have the cache files of a kernel verified; say whether there are any."""
    file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if type(file) is not IndexDataCacheFile:
        return False
    file.__class__ = _CheckedCacheFile
    return Path(file._index_path).exists()


def kernel(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a `Kernel` of a function: `@kernel`, or `@kernel(fastmath={"contract"})` with Numba's options."""
    if function is None:
        return lambda f: Kernel(f, **options)
    return Kernel(function, **options)
