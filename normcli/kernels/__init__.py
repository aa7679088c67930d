"""All Numba code, and nothing else: loops over pixels and tensors that release the GIL.

Importing a module of this package imports Numba (0.2-0.7 s); it is done only when something is computed.
"""

import importlib
import logging
import threading
from types import ModuleType

log = logging.getLogger("normcli.kernels")

_loading: threading.Thread | None = None
_pixels: ModuleType | None = None
_failed = False
_lock = threading.Lock()


def _load() -> None:
    global _pixels, _failed
    try:
        module = importlib.import_module("normcli.kernels.pixels")
        module.warm()
        _pixels = module
    except Exception as error:  # Numba lags a new Python or NumPy by months; LLVM may find no memory
        log.info("Numba is not usable here (%s: %s); counting without it", type(error).__name__, error)
        _failed = True


def start() -> None:
    """Begin to load the pixel kernels in a thread of its own; further calls do nothing."""
    global _loading
    with _lock:
        if _loading is None:
            _loading = threading.Thread(target=_load, name="load kernels", daemon=True)
            _loading.start()


def loaded(*, wait: bool = False) -> ModuleType | None:
    """Give `normcli.kernels.pixels` if it is loaded; None if it is not yet, or cannot be.

    Args:
        wait: load it now; None then means that Numba cannot be imported here.
    """
    if _pixels is None and wait and not _failed:
        start()
        assert _loading is not None
        _loading.join()
    return _pixels
