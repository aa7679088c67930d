"""The last line of a command: what was written, how many, how long it took, how fast it went."""

import time

from normcli.cli.messages import say


class Stopwatch:
    """The time since a command began."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def closing(self, written: str, count: int, *details: str, noun: str = "image") -> None:
        """Write the closing line to stderr.

        Args:
            written: what was written, such as "wrote stats.json"; "" where the result went to stdout.
            count: how many images.
            details: more about what was written, such as "npy float32".
            noun: the unit that is counted, in the singular.
        """
        seconds = max(time.perf_counter() - self._started, 1e-3)
        things = f"{count:,} {noun}{'s' * (count != 1)}"
        rate = count / seconds
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
        parts = [things, *details, duration(seconds), f"{speed} {noun}s/s"]
        say(f"{written}{': ' * bool(written)}{', '.join(parts)}")


def duration(seconds: float) -> str:
    """Return a time in the unit that people use for it.

    >>> duration(2.63), duration(75), duration(7384)
    ('2.6 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
