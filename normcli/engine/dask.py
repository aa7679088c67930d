"""A Dask cluster: the same function over the same batches, results merged on the workers eight at a time.

The batches of a worker that dies are run again by another one, and counts are exact, so the result has the same bits.
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

from normcli import late_imports
from normcli.errors import NormcliError, RemoteError

FAN_IN = 8  # results that one merge on a worker takes
_PATIENCE = 6  # seconds for a scheduler to answer, for it to have a worker, and for cancelled tasks to end

Merge = Callable[[list[Any]], Any]


def run(
    function: Callable[[Any], Any],
    batches: Iterable[Any],
    workers: int,
    address: str | None,
    merge: Merge | None,
) -> Iterator[Any]:
    """Yield results in order: of single batches, or merged ones where `merge` is given.

    Args:
        function: picklable; the workers must be able to import it.
        batches: taken lazily.
        workers: of a local cluster.
        address: of the scheduler of a running cluster; None starts a local one.
        merge: adds up consecutive results, on a worker.

    Raises:
        MissingExtraError: distributed is not installed.
        RemoteError: nothing answers at the address, or the cluster has no workers.
        NormcliError: workers died again and again over the same batch, while they started, or lack normcli.
    """
    distributed = late_imports.required("distributed", "--engine dask", "dask")
    with ExitStack() as stack:
        client = _client(distributed, stack, workers, address)
        threads = max(1, sum(client.nthreads().values()))
        size = FAN_IN if merge is not None else 1
        window = math.ceil(3 * threads / size) + 1
        waiting: deque[Any] = deque()
        source = iter(batches)
        name, number = f"normcli-{uuid.uuid4().hex}", count()
        stack.callback(_cancel, client, waiting, name)

        def submit(group: list[Any]) -> Any:
            futures = [client.submit(function, batch, key=(name, next(number))) for batch in group]
            return client.submit(merge, futures, key=(name, next(number))) if merge is not None else futures[0]

        try:
            while True:
                while len(waiting) < window and (group := list(islice(source, size))):
                    waiting.append(submit(group))
                if not waiting:
                    return
                result = waiting[0].result()
                waiting.popleft()  # not before its result is there: an error cancels what is still in it, and waits
                yield result
        except distributed.KilledWorker as error:
            raise NormcliError(f"workers died again and again over the same images (out of memory?): {error}") from None
        except ModuleNotFoundError as error:
            raise NormcliError(f"the workers cannot run normcli: {error}; install the same version there") from None
        except (distributed.comm.CommClosedError, distributed.client.FuturesCancelledError) as error:
            raise RemoteError(f"the connection to the Dask scheduler was lost: {error}") from None


def _client(distributed: Any, stack: ExitStack, workers: int, address: str | None) -> Any:
    """Return a client of the cluster at `address`, or of one started here.

    Raises:
        RemoteError: nothing answers, or the cluster has no workers.
    """
    cluster: Any = address
    if address is None:
        try:
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",  # None takes port 8787, and warns where another has it
                    silence_logs=logging.CRITICAL,
                )
            )
        except RuntimeError as error:  # a worker was killed while it started
            raise NormcliError(f"the local Dask cluster cannot be started: {error}") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # errors come as exceptions
    try:
        if address is not None:
            asyncio.run(asyncio.wait_for(_identify(distributed, address), _PATIENCE))
        client = stack.enter_context(distributed.Client(cluster, timeout=_PATIENCE, set_as_default=False))
    except (OSError, ValueError, TimeoutError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise RemoteError(f"no Dask scheduler answers at {address}: {text[:200]}") from None
    if address is not None:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise RemoteError(f"the Dask cluster at {address} has no workers") from None
    return client


async def _identify(distributed: Any, address: str) -> None:
    """Request the identity of a scheduler: a Client waits forever for a server that accepts and never answers."""
    comm = await distributed.comm.connect(distributed.comm.normalize_address(address), timeout=_PATIENCE)
    await comm.write({"op": "identity", "reply": True})
    await comm.read()
    await comm.close()


def _cancel(client: Any, waiting: Iterable[Any], name: str) -> None:
    """Cancel waiting tasks, and let running ones end: a task cannot be stopped, and it writes files."""
    if not waiting:
        return

    def cancel() -> None:
        with suppress(Exception):  # the cluster may be gone, or be closed meanwhile
            client.cancel(list(waiting))
            while any(client.run(_has_tasks, name).values()):
                time.sleep(0.05)

    thread = threading.Thread(target=cancel, daemon=True)  # do not wait longer for a worker that does not answer
    thread.start()
    thread.join(_PATIENCE)


def _has_tasks(name: str, dask_worker: Any) -> bool:
    return any(isinstance(key, tuple) and key[0] == name for key in dask_worker.state.tasks)
