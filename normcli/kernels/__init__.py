"""All compiled code, and nothing else: loops over pixels and tensors that release the GIL.

They are compiled by Numba when first used on a machine (1 s), kept, and loaded from then on by LLVM alone (35 ms): see
`jit`. It is done only when something is computed.
"""

import importlib
import logging
import threading
from functools import cache as once
from types import ModuleType

from normcli.kernels import cache

log = logging.getLogger("normcli.kernels")

_modules: dict[str, ModuleType | None] = {}  # None: Numba is not usable here
_lock = threading.Lock()
_MAIN = {"pixels": "count_bytes", "mapping": "affine"}  # the kernel that nearly every run needs


def loaded(name: str = "pixels", *, wait: bool = False) -> ModuleType | None:
    """Give a module of this package if its main kernel is loaded; None if it is not yet, or cannot be.

    Args:
        name: "pixels" counts, "mapping" maps.
        wait: load it now; None then means that Numba is not usable here.
    """
    if wait and name not in _modules:
        with _lock:
            if name not in _modules:
                _modules[name] = _load(name)
    return _modules.get(name)


def _load(name: str) -> ModuleType | None:
    from normcli.kernels.jit import Unusable

    module = importlib.import_module(f"normcli.kernels.{name}")
    try:
        module.warm()
    except Unusable as error:
        log.info("Numba is not usable here (%s); going on without it", error)
        return None
    return module


@once
def price(name: str = "pixels") -> float:
    """Processor seconds that a way around a module's kernels may cost before they are loaded.

    About what loading costs, so that nobody pays more than twice; less than compiling does, since that is paid once.
    """
    return 0.03 if cache.has(f"{name}.{_MAIN[name]}") else 0.15
