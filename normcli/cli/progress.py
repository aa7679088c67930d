"""Progress on stderr: a bar on a terminal or in a notebook, a line every 30 s elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from normcli.cli.messages import say
from normcli.options.printing import TerminalOptions

Step = Callable[[int, int], None]


@contextmanager
def progress(
    terminal: TerminalOptions, noun: str = "img", total: Callable[[], int | None] = lambda: None
) -> Iterator[Callable[[Any], None] | None]:
    """Yield what takes finished batches: a bar on a terminal, a line every 30 s elsewhere; None for no progress.

    Args:
        terminal: `progress` and `quiet`.
        noun: the unit that is counted.
        total: returns the number of inputs, or None; called only for a bar, which then shows the time that is left.
    """
    if terminal.progress == "never" or (terminal.quiet and terminal.progress == "auto"):
        yield None
    elif terminal.progress == "always" or sys.stderr.isatty():
        with _bar(noun, total()) as step:
            yield lambda batch: step(batch.inputs, batch.bytes)
    else:
        lines = _every_30_seconds(noun)
        yield lambda batch: lines(batch.inputs, batch.bytes)


def notebook_bar() -> Callable[[Any], None]:
    """Return what shows finished batches as a bar in a notebook."""
    from tqdm.auto import tqdm

    bar = tqdm(unit=" img")

    def step(batch: Any) -> None:
        bar.update(batch.inputs)

    return step


@contextmanager
def _bar(noun: str, total: int | None) -> Iterator[Step]:
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # its watching thread would keep engines from forking
    megabytes = 0.0
    look: dict[str, Any] = {"mininterval": 0.5, "leave": False, "dynamic_ncols": True, "smoothing": 0.1}
    with tqdm(total=total, unit=f" {noun}", **look) as bar:

        def step(inputs: int, size: int) -> None:
            nonlocal megabytes
            megabytes += size / 1e6
            elapsed = bar.format_dict["elapsed"] or 1e-9
            bar.set_postfix_str(f"{megabytes / elapsed:.0f} MB/s", refresh=False)
            bar.update(inputs)

        yield step


def _every_30_seconds(noun: str) -> Step:
    started = last = time.monotonic()
    total = 0

    def step(inputs: int, size: int) -> None:
        nonlocal last, total
        total += inputs
        now = time.monotonic()
        if now - last >= 30:
            last = now
            say(f"{total:,} {noun} done, {total / (now - started):.0f}/s")

    return step
