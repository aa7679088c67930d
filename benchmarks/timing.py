"""Whole processes timed in turn: the machine is shared, so only ratios within one run mean anything."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def seconds(command: Sequence[str]) -> float:
    """Wall time of one process, start included.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{command}: exit {done.returncode}: {done.stderr.decode()[-500:]}")
    return elapsed


def alternating(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, float]:
    """Median seconds of each command over rounds in which all take turns; one unmeasured round first."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            elapsed = seconds(command)
            if turn:
                taken[name].append(elapsed)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_megabytes(command: Sequence[str]) -> float:
    """Largest resident set of one process."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, env=environment, check=True
    )
    return float(done.stdout)


def ratios(title: str, times: Mapping[str, float], ours: str) -> None:
    """Print each time, and how it compares with ours."""
    print(f"\n{title}")
    for name, elapsed in times.items():
        other = f"normcli takes {times[ours] / elapsed:.2f}x this" if name != ours else ""
        if name != ours and elapsed > times[ours]:
            other += f"; normcli is {elapsed / times[ours]:.1f}x faster"
        print(f"  {name:44}{elapsed:9.3f} s  {other}")
