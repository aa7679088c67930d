"""Histograms in the terminal."""

import sys
from collections.abc import Iterator, Sequence

from normcli.cli.table import is_colorful, is_unicode, number
from normcli.summary import Summary

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"
_ANSI = {"R": "\x1b[91m", "G": "\x1b[92m", "B": "\x1b[94m"}  # bright: plain blue cannot be read on black
_ANSI_END = "\x1b[0m"
HUES = {"R": "bright_red", "G": "bright_green", "B": "bright_blue"}


def bars(counts: Sequence[float], blocks: str = _BLOCKS) -> str:
    """Return a histogram in block characters; every column that holds a pixel shows.

    >>> bars([0, 1, 50, 100])
    ' ▁▄█'
    """
    top = max(counts) or 1
    return "".join(blocks[0 if n == 0 else max(1, int(n * 8 // top))] for n in counts)


def plotted(summary: Summary, lines: int = 8) -> Iterator[str]:
    """Yield each channel's histogram as `lines` lines of block characters, over its range."""
    from normcli.summary.distribution import ceiling, columns

    raw = summary.max_value is None or any(v is not None and v < 0 for v in summary.min)
    known = [v for v in (*summary.min, *summary.max) if v is not None]
    low, high = (min(known), max(known)) if raw and known else (0.0, None)
    width = 64
    shapes = columns(summary, width, low, high if high is None or high > low else low + 1)
    color = is_colorful(sys.stdout)
    blocks, line_characters = (_BLOCKS, "─┴") if is_unicode(sys.stdout) else (_ASCII, "-+")
    for c, (name, shape) in enumerate(zip(summary.channels, shapes, strict=True)):
        top = ceiling([shape])
        peak = f"peak {max(shape) / sum(shape):.1%} of pixels{', cut off' if max(shape) > top else ''}"
        yield f"{name}  mean {number(summary.mean[c])}  std {number(summary.std[c])}  {peak}"
        hue = _ANSI.get(name, "") if color else ""
        for line in range(lines - 1, -1, -1):
            cells = "".join(_cell(n / top * lines - line, n > 0 and line == 0, blocks) for n in shape)
            yield f"   {hue}{cells.rstrip()}{_ANSI_END if hue else ''}"
        left, right = f"{low:g}", "1" if high is None else f"{high:g}"
        at = summary.mean[c] if high is None else (summary.mean[c] - low) / ((high - low) or 1)
        axis = [line_characters[0]] * width
        axis[max(0, min(int(at * width), width - 1))] = line_characters[1]
        yield f"   {''.join(axis)}"
        yield f"   {left}{right.rjust(width - len(left))}"
        if c + 1 < len(shapes):
            yield ""


def _cell(height: float, some: bool, blocks: str) -> str:
    eighths = max(0, min(8, int(height * 8)))
    return blocks[max(eighths, int(some))]
