"""All Numba code, and nothing else: loops over pixels and tensors that release the GIL.

Importing a module of this package imports Numba (0.2-0.7 s); it is done only when something is computed.
"""

import importlib
import logging
import threading
from types import ModuleType

log = logging.getLogger("normcli.kernels")

_loading: dict[str, threading.Thread] = {}
_modules: dict[str, ModuleType | None] = {}  # None: Numba is not usable here
_lock = threading.Lock()


def _load(name: str) -> None:
    try:
        module = importlib.import_module(f"normcli.kernels.{name}")
        module.warm()
        _modules[name] = module
    except Exception as error:  # Numba lags a new Python or NumPy by months; LLVM may find no memory
        log.info("Numba is not usable here (%s: %s); going on without it", type(error).__name__, error)
        _modules[name] = None


def start(name: str = "pixels") -> None:
    """Begin to load the kernels of one module in a thread of its own; further calls do nothing."""
    with _lock:
        if name not in _loading:
            _loading[name] = threading.Thread(target=_load, args=(name,), name=f"load {name} kernels", daemon=True)
            try:
                _loading[name].start()
            except RuntimeError as error:  # no memory for one more thread
                log.info("no thread to load Numba in (%s); going on without it", error)
                _modules[name] = None


def loaded(name: str = "pixels", *, wait: bool = False) -> ModuleType | None:
    """Give a module of this package if it is loaded; None if it is not yet, or cannot be.

    Args:
        name: "pixels" counts, "mapping" maps.
        wait: load it now; None then means that Numba is not usable here.
    """
    if wait and name not in _modules:
        start(name)
        _loading[name].join()
    return _modules.get(name)
