"""A pool of worker processes that end with their parent."""

import gc
import os
import signal
import threading
import warnings
from concurrent.futures import Executor

from normcli import platforms


def pool(workers: int) -> Executor:
    """Return a pool of processes that end with this one."""
    import multiprocessing  # with the pool, 10 ms that most runs do not need
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context(platforms.process_start_method())
    return ProcessPoolExecutor(workers, context, initializer=_follow_parent)


def _follow_parent() -> None:
    import multiprocessing

    gc.freeze()  # the collector does not visit what was forked, which would copy its pages
    warnings.simplefilter("ignore")  # damage is counted: Pillow's warnings add nothing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose parent was killed would wait for work for ever
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)
