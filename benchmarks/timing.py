"""Whole processes timed in turn: the machine is shared, so only ratios within one run mean anything."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable


def stats_command(folder: Path, *options: str) -> list[str]:
    """Return the command of `normcli stats` with two workers."""
    return [PYTHON, "-m", "normcli", "stats", "-q", "-j", "2", str(folder), *options]


def seconds(command: Sequence[str]) -> float:
    """Return the wall time of one process, start included.

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


def alternating(
    commands: Mapping[str, Sequence[str]], rounds: int, seldom: Iterable[str] = (), *, is_warm: bool = False
) -> dict[str, float]:
    """Return median seconds of each command over rounds in which all take turns; one unmeasured round first.

    Args:
        commands: by name.
        rounds: measured turns of each.
        seldom: names of slow ones, which take part in the first three measured rounds alone.
        is_warm: leave out the unmeasured round, since the files have just been read.
    """
    rare = set(seldom)
    os.sync()  # files that were just made are written back now, and not within the first turns
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(1 if is_warm else 0, rounds + 1):
        for name, command in commands.items():
            if name in rare and turn not in (1, 2, 3):
                continue
            elapsed = seconds(command)
            if turn:
                taken[name].append(elapsed)
    return {name: statistics.median(times) for name, times in taken.items()}


def peak_megabytes(command: Sequence[str]) -> float:
    """Return the largest resident set of one process."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, env=environment, check=True
    )
    return float(done.stdout)


@dataclass(frozen=True)
class Row:
    """One measured claim.

    Attributes:
        work: what was done.
        against: what it is compared with.
        figure: what was seen.
        target: what is wanted, or "".
        met: whether it is; None where nothing is wanted.
    """

    work: str
    against: str
    figure: str
    target: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        said = "" if self.met is None else f"  {self.target:>10}  {'met' if self.met else 'NOT MET'}"
        return f"  {self.work:<38} {self.against:<36} {self.figure:>14}{said}"


def takes(work: str, against: str, ours: float, theirs: float, at_most: float | None = None) -> Row:
    """Return our time as a multiple of the other's."""
    share = ours / theirs
    if at_most is None:
        return Row(work, against, f"{share:.2f}x")
    return Row(work, against, f"{share:.2f}x", f"<= {at_most:g}x", round(share, 2) <= at_most)


def faster(work: str, against: str, ours: float, theirs: float, at_least: float | None = None) -> Row:
    """Return the other's time as a multiple of ours."""
    share = theirs / ours
    figure = f"{share:.1f}x faster" if share >= 1 else f"{1 / share:.2f}x slower"
    if at_least is None:
        return Row(work, against, figure)
    return Row(work, against, figure, f">= {at_least:g}x", round(share, 2) >= at_least)


def show(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come, and keep them."""
    kept = []
    for row in rows:
        print(row, flush=True)
        kept.append(row)
    return kept


def markdown(rows: Iterable[Row]) -> str:
    """Return rows as a table for a README; a work is named once."""
    lines = ["| work | against | measured | target |", "|---|---|---|---|"]
    last = ""
    for row in rows:
        target = row.target.replace("<=", "≤").replace(">=", "≥") + ("" if row.met in (None, True) else ", not met")
        lines.append(f"| {'' if row.work == last else row.work} | {row.against} | {row.figure} | {target} |")
        last = row.work
    return "\n".join(lines)
