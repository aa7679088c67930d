"""The forms of a `Summary` in Python: one line, a small HTML table, exports, a page, a plot.

The only module of `summary` that reaches up to `constants` and `report`, and only when it is called.
"""

import html
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli import late_imports, storage
from normcli.errors import UsageError, unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from normcli.summary.summary import GroupSummary, Summary

_MOST_CHANNELS = 4  # in one line
_COLORS = {"R": "tab:red", "G": "tab:green", "B": "tab:blue", "L": "tab:gray", "A": "black"}


def group_line(group: "GroupSummary") -> str:
    """Return images, mean and std of a group in one line."""
    return f"<GroupSummary images {group.images:,}, mean {_short_row(group.mean)}, std {_short_row(group.std)}>"


def one_line(summary: "Summary") -> str:
    """Return images, channels, mean and std in one line, to three digits as papers print them."""
    count = summary.count_text(summary.images)
    mean, std = _short_row(summary.mean), _short_row(summary.std)
    incomplete = "" if summary.complete else ", incomplete"
    order = summary.convention_text.rpartition(", ")[2]
    return f"<Summary {count}{incomplete}, {order}, mean {mean}, std {std}>"


def _short_row(values: list[float]) -> str:
    more = " …" if len(values) > _MOST_CHANNELS else ""
    return " ".join(map(_short, values[:_MOST_CHANNELS])) + more


def _short(value: float) -> str:
    if value and not 0.001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def html_table(summary: "Summary") -> str:
    """Return a small HTML table for notebooks; every text is escaped."""
    head = "".join(f"<th>{title}</th>" for title in ("channel", "mean", "std", "min", "median", "max"))
    rows = []
    for c, name in enumerate(summary.channels):
        values = (summary.mean[c], summary.std[c], summary.min[c], summary.percentiles["50"][c], summary.max[c])
        cells = "".join(f"<td>{'–' if value is None else f'{value:.4g}'}</td>" for value in values)
        rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    count = summary.count_text(summary.images)
    caption = html.escape(f"{count}, {summary.pixels_text}; {summary.convention_text}")
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def export(summary: "Summary", exporter: str, convention: str | None, group: str | None, digits: int | None) -> str:
    """Return mean and std as code or config for another tool."""
    from normcli.constants import exporters

    return exporters.export(summary, exporter, convention, group=group, digits=exporters.digits_of(exporter, digits))


def report(summary: "Summary", path: "str | os.PathLike[str]", title: str) -> None:
    """Write a self-contained HTML page."""
    from datetime import UTC, datetime

    from normcli.report import Origin, render_page

    now = datetime.now(UTC)
    text = render_page(summary, title=title, origin=Origin(created=f"{now.day} {now:%B %Y, %H:%M} UTC"))
    storage.write_file(Path(path), text.encode("utf-8", "backslashreplace"))


def histogram(summary: "Summary", channel: str | int, bins: int) -> "tuple[NDArray[Any], NDArray[Any]]":
    """Return pixels per bin and the edges of the bins of one channel."""
    import numpy as np

    from normcli.summary.distribution import columns, value_range

    if bins < 1:
        raise UsageError(f"`bins`: must be at least 1, not {bins}")
    if isinstance(channel, str):
        if channel not in summary.channels:
            raise unknown("channel", channel, summary.channels)
        channel = summary.channels.index(channel)
    if not 0 <= channel < len(summary.channels):
        raise UsageError(f"`channel`: must be below {len(summary.channels)}, not {channel}")
    low, high = value_range(summary)
    counts = np.array(columns(summary, bins, low, high)[channel])
    return counts, np.linspace(low, high, bins + 1)


def plot(summary: "Summary", ax: Any) -> Any:
    """Draw the histograms of all channels on Matplotlib axes."""
    if ax is None:
        pyplot = late_imports.required("matplotlib.pyplot", "plot", "plot", "matplotlib")
        _, ax = pyplot.subplots()
    for c, name in enumerate(summary.channels):
        counts, edges = histogram(summary, c, 256)
        color = _COLORS.get(name)
        ax.stairs(counts / (counts.sum() or 1), edges, label=name, color=color)
        ax.axvline(summary.mean[c], color=color, linestyle=":")
    ax.set_xlabel("value" if summary.range == "raw" else "value (0-1)")
    ax.set_ylabel("share of pixels")
    ax.legend()
    return ax
