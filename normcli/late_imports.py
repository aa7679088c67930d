"""Modules that are imported late, in any thread: optional libraries, and the true reason of an import that failed.

An `import` of a module that another thread is importing waits for it and does not look again: where that import
failed, for want of memory say, what follows sees a module that is half made ("cannot import name", or later "has no
attribute"). `importlib.import_module` looks again. Two threads that import a package and a module of it wait for each
other, until one of them fails: imports under one lock never do.
"""

import importlib
import re
import sys
import threading
from types import ModuleType
from typing import Any

from normcli import platforms
from normcli.errors import MissingExtraError

_lock = threading.RLock()  # never taken by code that runs as a module is imported, for which its holder could wait
_complete: dict[str, Any] = {}
_repeated = threading.local()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


platforms.run_at_fork(after_in_child=_renew_lock)  # a child has no thread that could release it


def library(name: str) -> Any:
    """Import a library, or a module of one, such that no thread sees it half made.

    Raises:
        ModuleNotFoundError: it is not installed, or a library that it needs.
        Exception: any other that its import raises.
    """
    module = sys.modules.get(name)
    if module is None or _complete.get(name) is not module:
        with _lock:
            parts = name.split(".")
            for depth in range(1, len(parts) + 1):
                module = importlib.import_module(".".join(parts[:depth]))
            _complete[name] = module
    return module


def optional(name: str) -> Any:
    """Import a library as `library` does; return None if it is not installed."""
    try:
        return library(name)
    except ModuleNotFoundError as error:
        if _is_absent(name, error):
            return None
        raise


def required(name: str, what: str, extra: str, shown: str | None = None) -> Any:
    """Import a library as `library` does, for a user who may have to install it.

    Args:
        name: of the library.
        what: the feature that needs it, for the error.
        extra: the extra of normcli that installs it.
        shown: the library's name for the message, where it is another one.

    Raises:
        MissingExtraError: it is not installed.
        Exception: it is installed, and its import raises that.
    """
    try:
        return library(name)
    except ModuleNotFoundError as error:
        if _is_absent(name, error):
            raise MissingExtraError(what, shown or name, extra) from None
        raise


def _is_absent(name: str, error: ModuleNotFoundError) -> bool:
    """Return True if a library is not installed, rather than another one that it needs."""
    return error.name is not None and f"{name}.".startswith(f"{error.name}.")


def reason_of(error: Exception) -> Exception | None:
    """Return the reason of an error that another thread's failed import may have caused.

    Returns:
        The exception of the import when it is done again; None if it succeeds now, and the failed call can be
        repeated; the error itself if it has another cause.
    """
    lacking = _lacking(error)
    if lacking is None:
        return error
    module, name = lacking
    repeated: set[tuple[str, str]] = _repeated.__dict__.setdefault("names", set())
    if lacking in repeated:  # what is complete fails no second time in one thread, except what kept a half
        return error
    try:
        parent = library(module)
        if not hasattr(parent, name):
            library(f"{module}.{name}")
    except ModuleNotFoundError as other:
        return error if other.name == f"{module}.{name}" else other
    except Exception as other:
        return other
    repeated.add(lacking)
    return None


def _lacking(error: Exception) -> tuple[str, str] | None:
    """Return the module that an error calls half made, and the name that it lacks; None for other errors."""
    if isinstance(error, ImportError) and error.name and (match := re.match("cannot import name '(.+?)'", error.msg)):
        return error.name, match[1]
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType) and error.name:
        return error.obj.__name__, error.name
    if isinstance(error, NameError) and (trace := error.__traceback__) is not None:
        while trace.tb_next is not None:
            trace = trace.tb_next
        return str(trace.tb_frame.f_globals.get("__name__")), str(error.name)
    return None
