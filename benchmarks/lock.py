"""Time for which `normcli stats` holds the interpreter's lock, for each photograph: it bounds how far threads scale.

In one thread, it is processor time outside of the calls that release the lock: decoding, counting, hashing and the
calls of the operating system. The start of a run is left out, by the difference between many photographs and few, and
so is the time of the clock itself.
"""

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import normcli
from benchmarks import datasets
from benchmarks.timing import Row, show
from normcli.images import jpeg
from normcli.kernels.kernel import Kernel
from normcli.storage import files
from normcli.tally import integers

FEW, MANY = 200, 1000
EMPTY = 10_000  # calls that show what the clock costs
CALLS_OF_SYSTEM = ("open", "fstat", "read", "close")


def main(arguments: list[str]) -> list[Row]:
    """Print the time, and the number of threads that it allows to run at once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks lock", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    if not datasets.SHARED.is_dir():
        print(f"{datasets.SHARED} is absent")
        return []
    with tempfile.TemporaryDirectory() as scratch:
        return show(rows(Path(scratch), chosen.rounds))


def rows(scratch: Path, rounds: int) -> Iterator[Row]:
    """Measure both folders in turn."""
    folders = [datasets.repeated(datasets.PHOTOGRAPHS, scratch / f"{n}", n) for n in (FEW, MANY)]
    normcli.stats(folders[0], workers=1, engine="serial")  # loads the kernels
    clock = Clock()
    replace_calls(clock)
    taken: list[list[tuple[float, float]]] = [[], []]
    for _ in range(rounds):
        for folder, times in zip(folders, taken, strict=True):
            clock.seconds, clock.calls, started = 0.0, 0, time.thread_time()
            normcli.stats(folder, workers=1, engine="serial")
            spent = time.thread_time() - started - clock.calls * clock.cost
            times.append((spent, spent - clock.seconds))
    few, many = ([statistics.median(column) for column in zip(*times, strict=True)] for times in taken)
    spent, held = ((b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True))
    work = "stats, a photograph"
    yield Row(work, "the lock is held", f"{1e6 * held:.0f} us", "<= 60 us", held <= 60e-6)
    yield Row(work, "threads that one lock allows", f"{spent / held:.0f}")


class Clock:
    """Processor time of the calls that release the lock.

    Attributes:
        seconds: their sum.
        calls: their number.
        cost: seconds that the clock adds to a call, outside of the sum.
    """

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        empty, started = self.timed(lambda: None), time.thread_time()
        for _ in range(EMPTY):
            empty()
        self.cost = (time.thread_time() - started - self.seconds) / EMPTY

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, whose time is added up."""

        def call(*arguments: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.thread_time() - started
                self.calls += 1

        return call


def replace_calls(clock: Clock) -> None:
    """Put timed functions in the places of those that release the lock."""
    library = vars(jpeg)["simplejpeg"]
    vars(jpeg)["simplejpeg"] = SimpleNamespace(
        **{**vars(library), "decode_jpeg": clock.timed(library.decode_jpeg)},
    )
    vars(hashlib)["sha256"] = clock.timed(hashlib.sha256)
    files._sha256.cache_clear()  # or it keeps the function that was replaced
    for name in CALLS_OF_SYSTEM:
        setattr(os, name, clock.timed(getattr(os, name)))
    modules = [module for name, module in sys.modules.items() if name.startswith("normcli.")]
    for kernel in {value for module in modules for value in vars(module).values() if isinstance(value, Kernel)}:
        kernel._functions.update({types: clock.timed(function) for types, function in kernel._functions.items()})
    integers._scratch.calls.clear()  # calls of the functions that were replaced
