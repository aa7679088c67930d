"""A Dask cluster: the same function over the same batches, results merged on the workers in threes and eights.

A worker that dies takes nothing with it: its batches are run again elsewhere, and counts are exact, so the
result has the same bits.
"""

import asyncio
import logging
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import count, islice
from typing import Any

from normcli.errors import MissingExtraError, NormcliError, RemoteError

FAN_IN = 8  # results that one merge on a worker takes
_PATIENCE = 6  # seconds for a scheduler to answer, to show a worker, and for what was called off to come to its end

Merge = Callable[[list[Any]], Any]


def run(
    function: Callable[[Any], Any],
    batches: Iterable[Any],
    workers: int,
    scheduler: str | None,
    merge: Merge | None,
) -> Iterator[Any]:
    """Yield results in order: of single batches, or merged ones where `merge` is given.

    Args:
        function: picklable; the workers must be able to import it.
        batches: taken lazily.
        workers: of a local cluster.
        scheduler: address of a running cluster; None starts a local one.
        merge: adds up consecutive results, on a worker.

    Raises:
        MissingExtraError: distributed is not installed.
        RemoteError: nothing answers at the address, or the cluster has no workers.
        NormcliError: workers died again and again over the same batch, or lack normcli.
    """
    try:
        import distributed
    except ImportError:
        raise MissingExtraError("--engine dask", "distributed", "dask") from None
    with ExitStack() as stack:
        client = _client(distributed, stack, workers, scheduler)
        threads = max(1, sum(client.nthreads().values()))
        group = FAN_IN if merge is not None else 1
        window = math.ceil(3 * threads / group) + 1
        waiting: deque[Any] = deque()
        source = iter(batches)
        name, number = f"normcli-{uuid.uuid4().hex}", count()
        stack.callback(_cancel, client, waiting, name)

        def submitted(some: list[Any]) -> Any:
            futures = [client.submit(function, batch, key=(name, next(number))) for batch in some]
            return client.submit(merge, futures, key=(name, next(number))) if merge is not None else futures[0]

        try:
            while True:
                while len(waiting) < window and (some := list(islice(source, group))):
                    waiting.append(submitted(some))
                if not waiting:
                    return
                result = waiting[0].result()
                waiting.popleft()  # not before it is there: what is broken off is called off, and waited for
                yield result
        except distributed.KilledWorker as error:
            raise NormcliError(f"workers died again and again over the same images (out of memory?): {error}") from None
        except ModuleNotFoundError as error:
            raise NormcliError(f"the workers cannot run normcli: {error}; install the same version there") from None
        except (distributed.comm.CommClosedError, distributed.client.FuturesCancelledError) as error:
            raise RemoteError(f"the connection to the Dask scheduler was lost: {error}") from None


def _client(distributed: Any, stack: ExitStack, workers: int, scheduler: str | None) -> Any:
    address: Any = scheduler
    if scheduler is None:
        address = stack.enter_context(
            distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # None takes port 8787, and warns where another has it
                silence_logs=logging.CRITICAL,
            )
        )
    quiet = logging.getLogger("distributed")
    quiet.setLevel(logging.CRITICAL)  # what matters comes as an exception
    try:
        if scheduler is not None:
            asyncio.run(asyncio.wait_for(_answers(distributed, scheduler), _PATIENCE))
        client = stack.enter_context(distributed.Client(address, timeout=_PATIENCE, set_as_default=False))
    except (OSError, ValueError, TimeoutError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise RemoteError(f"no Dask scheduler answers at {scheduler}: {text[:200]}") from None
    if scheduler is not None:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise RemoteError(f"the Dask cluster at {scheduler} has no workers") from None
    return client


async def _answers(distributed: Any, address: str) -> None:
    """Ask who is there: a Client waits for ever where something accepts and says nothing."""
    comm = await distributed.comm.connect(distributed.comm.normalize_address(address), timeout=_PATIENCE)
    await comm.write({"op": "identity", "reply": True})
    await comm.read()
    await comm.close()


def _cancel(client: Any, waiting: Iterable[Any], name: str) -> None:
    """Call off what waits, and let what runs come to its end: a task cannot be stopped, and it writes files."""
    if not waiting:
        return

    def settle() -> None:
        with suppress(Exception):  # the cluster may be gone, and is closed beneath this in the end
            client.cancel(list(waiting))
            while any(client.run(_has, name).values()):
                time.sleep(0.05)

    thread = threading.Thread(target=settle, daemon=True)  # a worker that answers nothing is waited for no longer
    thread.start()
    thread.join(_PATIENCE)


def _has(name: str, dask_worker: Any) -> bool:
    return any(isinstance(key, tuple) and key[0] == name for key in dask_worker.state.tasks)
