"""Histograms in block characters: `normcli show --plot`."""

import sys
from collections.abc import Iterator

from normcli.cli.messages import is_colorful, is_unicode, terminal_width
from normcli.cli.tables import BLOCKS, NARROW, number
from normcli.summary import Summary
from normcli.summary.distribution import ceiling, columns

_ASCII = " .:-=+*#@"  # where the terminal has no block characters
_PLOT = 64  # columns of a plot, behind an indent of 3; half of them on a narrow terminal
_ANSI = {"R": "\x1b[91m", "G": "\x1b[92m", "B": "\x1b[94m"}  # bright: plain blue cannot be read on black
_ANSI_END = "\x1b[0m"


def plotted(summary: Summary, lines: int = 8) -> Iterator[str]:
    """Yield each channel's histogram as `lines` lines of block characters, over its range."""
    raw = summary.max_value is None or any(v is not None and v < 0 for v in summary.min)
    known = [v for v in (*summary.min, *summary.max) if v is not None]
    low, high = (min(known), max(known)) if raw and known else (0.0, None)
    width = _PLOT if (terminal_width(sys.stdout) or NARROW) >= _PLOT + 3 else _PLOT // 2
    shapes = columns(summary, width, low, high if high is None or high > low else low + 1)
    color = is_colorful(sys.stdout)
    blocks, line_characters = (BLOCKS, "─┴") if is_unicode(sys.stdout) else (_ASCII, "-+")
    for c, (name, shape) in enumerate(zip(summary.channels, shapes, strict=True)):
        top = ceiling([shape]) or 1  # a channel without a valid pixel has empty columns
        peak = f"peak {max(shape) / (sum(shape) or 1):.1%} of pixels{', cut off' if max(shape) > top else ''}"
        yield f"{name}  mean {number(summary.mean[c])}  std {number(summary.std[c])}  {peak}"
        hue = _ANSI.get(name, "") if color else ""
        for line in range(lines - 1, -1, -1):
            cells = "".join(_cell(n / top * lines - line, n > 0 and line == 0, blocks) for n in shape)
            yield f"   {hue}{cells.rstrip()}{_ANSI_END if hue else ''}"
        left, right = f"{low:g}", "1" if high is None else f"{high:g}"
        at = summary.mean[c] if high is None else (summary.mean[c] - low) / ((high - low) or 1)
        axis = [line_characters[0]] * width
        if at == at:  # no NaN, the mean of no pixel
            axis[int(max(0, min(at * width, width - 1)))] = line_characters[1]
        yield f"   {''.join(axis)}"
        yield f"   {left}{right.rjust(width - len(left))}"
        if c + 1 < len(shapes):
            yield ""


def _cell(height: float, some: bool, blocks: str) -> str:
    eighths = max(0, min(8, int(height * 8)))
    return blocks[max(eighths, int(some))]
