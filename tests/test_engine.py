"""Every engine: the same results in the same order, batches taken lazily; errors, signals and lost workers."""

import inspect
import os
import pickle
import signal
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from normcli import engine
from normcli.engine import worker_processes
from normcli.errors import NormcliError, UsageError
from normcli.runs import loop, read_remote
from normcli.runs.loop import Items
from normcli.sources import Item, Skipped, failed_item
from normcli.storage.files import ByteRange, FileBytes


def numbers(count: int) -> Iterator[list[int]]:
    """Batches of one number each."""
    return ([i] for i in range(count))


def double(batch: list[int]) -> int:
    return 2 * batch[0]


def die_once(marker: Path, batch: list[int]) -> int:
    if batch[0] == 5 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(batch)


def die(batch: list[int]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return batch[0]


def refuse(batch: list[int]) -> int:
    raise ValueError(str(batch[0]))


@pytest.mark.parametrize("name", engine.ENGINES)
@pytest.mark.parametrize("count", [0, 1, 50])
def test_results_come_in_order(name: str, count: int) -> None:
    assert list(engine.run(double, numbers(count), engine=name, workers=2)) == [2 * i for i in range(count)]


@pytest.mark.parametrize("name", ["serial", "threads", "processes"])
def test_batches_are_taken_as_they_are_needed(name: str) -> None:
    taken = 0

    def batches() -> Iterator[list[int]]:
        nonlocal taken
        for i in range(1000):
            taken += 1
            yield [i]

    results = engine.run(double, batches(), engine=name, workers=2)
    assert next(results) == 0
    assert taken <= 7  # three per worker ahead
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", engine.ENGINES)
def test_an_error_reaches_the_caller(name: str) -> None:
    with pytest.raises(ValueError, match="0"):
        list(engine.run(refuse, numbers(100), engine=name, workers=2))


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    function = partial(die_once, tmp_path / "marker")
    assert list(engine.run(function, numbers(20), engine="processes", workers=2)) == [2 * i for i in range(20)]


def test_a_batch_that_kills_twice_is_an_error() -> None:
    with pytest.raises(NormcliError, match="died twice"):
        list(engine.run(die, numbers(3), engine="processes", workers=1))


def write_part_of_a_result() -> None:
    """Write the first bytes of a result, and keep the other workers from writing theirs, as within a result."""
    frame = inspect.currentframe()
    while frame is not None and "result_queue" not in frame.f_locals:
        frame = frame.f_back
    assert frame is not None
    results = frame.f_locals["result_queue"]
    results._wlock.acquire()
    os.write(results._writer.fileno(), struct.pack("!i", 1000) + b"x")


def die_within_a_result(marker: Path, batch: list[int]) -> int:
    if batch[0] == 5 and not marker.exists():
        marker.touch()
        write_part_of_a_result()
        os.kill(os.getpid(), signal.SIGKILL)
    return double(batch)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_after_a_worker_was_killed_within_a_result(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_processes, "_PATIENCE", 0.2)
    function = partial(die_within_a_result, tmp_path / "marker")
    assert list(engine.run(function, numbers(20), engine="processes", workers=workers)) == [2 * i for i in range(20)]


def begin_a_result(pipe: Path, batch: list[int]) -> int:
    """Begin a result, report that to the pipe, and wait for the end of the process."""
    write_part_of_a_result()
    pipe.write_bytes(b"begun")
    threading.Event().wait()
    return batch[0]


def test_workers_that_are_stopped_within_a_result_leave_no_thread(tmp_path: Path) -> None:
    """The interpreter waits for the threads of pools at its exit."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = {*threading.enumerate()}

    def batches() -> Iterator[list[int]]:
        yield [0]
        assert pipe.read_bytes() == b"begun"
        raise ValueError("had enough")

    with pytest.raises(ValueError, match="had enough"):
        list(engine.run(partial(begin_a_result, pipe), batches(), engine="processes", workers=2))
    pools = [thread for thread in threading.enumerate() if thread not in before and "Feeder" not in thread.name]
    for thread in pools:
        thread.join(30)
    assert not any(thread.is_alive() for thread in pools)


class InBlock(NamedTuple):
    """The loader of an image that is decoded with others."""

    block: int

    def __call__(self) -> Any:
        raise AssertionError("a batcher reads nothing")


@pytest.mark.parametrize(("block", "seconds", "most"), [(3, 0.5, 3), (8, 0.5, 8), (400, 0.5, 8), (400, 1e-5, 64)])
def test_a_batch_ends_with_a_block_or_soon(block: int, seconds: float, most: int) -> None:
    """What is decoded at once stays together, unless a worker would have to wait for long."""
    items = [Item(str(i), InBlock(i // block), None) for i in range(48 * block // min(block, 40))]
    batcher: Any = loop.Batcher(iter(items), loop.Batching(seconds=0.02, most_items=64))
    batches = []
    for batch in batcher:
        batches.append([int(item.key) for item in batch])
        batcher.learn(len(batch), seconds * len(batch))
    assert [key for batch in batches for key in batch] == list(range(len(items)))
    assert max(map(len, batches)) == most
    if block <= most:
        assert all(batch[0] % block == 0 and len(batch) % block == 0 for batch in batches)


def test_a_batch_of_limited_results_is_not_completed() -> None:
    items = [Item(str(i), InBlock(0), None) for i in range(20)]
    batcher: Any = loop.Batcher(iter(items), loop.Batching(seconds=0.02, most_items=64, most_result_bytes=1))
    sizes = []
    for batch in batcher:
        sizes.append(len(batch))
        batcher.learn(len(batch), 1.0, 100)
    assert max(sizes) == 2


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(UsageError, match="did you mean 'threads'"):
        engine.run(double, [], engine="thread")
    with pytest.raises(UsageError, match="workers"):
        engine.run(double, [], workers=-1)


@pytest.mark.parametrize("dies_at", range(1, 26))
def test_a_worker_that_dies_before_a_batch_is_handed_over(dies_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool then refuses the batch that was just taken: it must not be lost, nor those done again."""
    handed = [0]

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Any:
            handed[0] += 1
            if handed[0] == dies_at:
                raise BrokenExecutor("a worker died")
            return super().submit(*arguments, **options)

    monkeypatch.setattr("normcli.engine.worker_processes.pool", Pool)
    found = list(engine.run(double, numbers(20), engine="processes", workers=2))
    assert found == [2 * i for i in range(20)]


FILES = [
    Item(f"a/{i}.png", FileBytes(f"a/{i}.png", None if i else 7, str(i)), "a" if i % 2 else None) for i in range(4)
]
OTHERS = [
    Skipped("b", "excluded", "why"),
    failed_item("c", "unreadable", "why"),
    Item("t/d", ByteRange("t", 5, 6, (7, 8))),
]


@pytest.mark.parametrize("items", [[], FILES[:1], FILES, OTHERS, FILES + OTHERS], ids=len)
def test_a_batch_survives_the_way_to_a_process(items: list[Item | Skipped]) -> None:
    there = pickle.loads(pickle.dumps(Items(items)))
    assert type(there) is Items and there == items
    assert [type(getattr(item, "load", None)) for item in there] == [type(getattr(i, "load", None)) for i in items]


def test_files_go_by_column() -> None:
    """An item of its own takes 1.5 us to pickle, 15 ms of 10,000 small images."""
    many = [Item(f"a/{i}.png", FileBytes(f"a/{i}.png"), "a") for i in range(100)]
    assert b"Item" not in pickle.dumps(Items(many))


@pytest.mark.parametrize("engine_", ["dask:", "threads:127.0.0.1:8786"])
def test_an_address_is_of_a_cluster(engine_: str) -> None:
    with pytest.raises(UsageError):
        list(engine.run(double, numbers(1), engine=engine_))


class RemoteFile:
    """A loader of a file on a server, which counts the bytes of all that were read and not yet used."""

    path = "http://server/image"
    lock = threading.Lock()
    started = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> bytes:
        with self.lock:
            RemoteFile.started += self.size
        return bytes(self.size)

    def fingerprint(self) -> str:
        return str(self.size)


@pytest.mark.parametrize(
    ("sizes", "most", "ahead"),
    [
        ([40] * 60, 1000, 1040),
        ([400] * 20, 1000, 1200),
        ([3000] * 9, 1000, 15000),  # five, before the first size is known
        ([1] * 100, 1000, 34),  # by their number
        ([5000, *[10] * 60], 1000, 6000),
    ],
)
def test_reads_ahead_are_bounded_in_bytes(
    sizes: list[int], most: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_remote, "_MOST_BYTES", most)
    monkeypatch.setattr(RemoteFile, "started", 0)
    steps = (Item(str(i), RemoteFile(size), None) for i, size in enumerate(sizes))
    used: list[int] = []
    peak = 0
    for item in loop.prefetch(iter(steps)):
        peak = max(peak, RemoteFile.started - sum(used))
        used.append(len(item.load()))
        time.sleep(0)
    assert used == sizes
    assert peak <= ahead
