"""A pool of worker processes that end with their parent."""

import gc
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli import platforms

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_PATIENCE = 5.0  # seconds in which a pool notices by itself that a worker died


def pool(workers: int) -> "Executor":
    """Return a pool of processes that end with this one."""
    import multiprocessing  # with the pool, 10 ms that most runs do not need
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context(platforms.process_start_method())
    return ProcessPoolExecutor(workers, context, initializer=_follow_parent)


def wait_for(future: "Future[Any]", executor: "Executor") -> None:
    """Wait for a result of a pool; end the pool after the death of a worker within a result.

    The pool's thread would wait for the rest of this result, and the other workers for their turn to write.
    """
    from concurrent.futures import wait

    found_dead = False
    while not future.done():
        wait([future], _PATIENCE)
        if found_dead and not future.done():
            end(executor)
            return
        found_dead = any(process.exitcode is not None for process in _processes(executor))


def end(executor: "Executor") -> None:
    """End the workers of a pool at once, and the wait of its thread for a result; do nothing to a pool of threads."""
    results = getattr(executor, "_result_queue", None)
    for process in _processes(executor):
        process.terminate()
    if results is not None:
        # a process that ends within a result leaves the pool's thread waiting for the rest, and the interpreter for
        # this thread at its exit, as long as anyone can write it
        results._writer.close()


def _processes(executor: "Executor") -> list[Any]:
    return list((getattr(executor, "_processes", None) or {}).values())


def runs_caller_again() -> bool:
    """Return True if a worker process would first run the script that called normcli, from its top.

    So does a spawned process, unless that script is normcli's own command; a forked one does not, nor does one of a
    notebook.
    """
    main = sys.modules.get("__main__")
    if platforms.process_start_method() == "fork" or main is None:
        return False
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).partition(".")[0] != "normcli"
    file = getattr(main, "__file__", None)
    return file is not None and Path(file).stem != "normcli"


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
