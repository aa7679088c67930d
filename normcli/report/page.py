"""The page of a dataset's statistics."""

from collections.abc import Sequence
from typing import Any

from normcli.constants import exporters
from normcli.errors import UsageError
from normcli.report import figures
from normcli.report.axis import within_unit
from normcli.report.environment import Origin, render
from normcli.report.pictures import Gallery
from normcli.report.published import beside_imagenet
from normcli.report.sizes import size_figures
from normcli.summary import Summary
from normcli.summary.remarks import remarks
from normcli.summary.summary import rgb_channels

FAILURES_SHOWN = 200
_SNIPPETS = ("torchvision", "albumentations", "keras", "huggingface", "opencv", "timm", "mmcv", "onnx")
_CHANNELS_NAMED = {"R": "Red", "G": "Green", "B": "Blue", "L": "Gray", "A": "Alpha"}


def render_page(
    summary: Summary,
    *,
    title: str = "",
    gallery: Gallery | None = None,
    failures: Sequence[dict[str, Any]] = (),
    origin: Origin | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        summary: the statistics to show.
        title: the heading: a folder, a file.
        gallery: pictures, sizes and copies, if the images are available.
        failures: records of inputs not used, the first of them.
        origin: date and command.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    rows = figures.groups(summary)
    facts = gallery.facts if gallery is not None else None
    return render(
        "dataset",
        title=title or "Dataset statistics",
        origin=origin,
        s=summary,
        channel_names=_CHANNELS_NAMED,
        hues=hues(summary),
        remarks=remarks(summary),
        histograms=figures.histograms(summary),
        conventions=figures.conventions(summary),
        beside=beside_imagenet(summary),
        composition=figures.composition(summary),
        groups=rows,
        drawn=figures.groups_drawn(rows),
        constants=constants_text(summary),
        snippets=snippets(summary),
        gallery=gallery or Gallery(),
        has_images=gallery is not None,
        facts=facts,
        sizes=None if facts is None else size_figures(facts),
        mapped=figures.mapped,
        failures=failures[:FAILURES_SHOWN],
        not_used=summary.failed + summary.skipped,
        swatch=swatch(summary),
    )


def hues(summary: Summary) -> list[str]:
    """Return the name of each channel's color in the style sheet."""
    count = len(summary.channels)
    return [figures.hue_of(name, c, count) for c, name in enumerate(summary.channels)]


def constants_text(summary: Summary) -> str:
    """Return mean and std with four digits, to paste."""
    rows = (", ".join(four_digits(v) for v in values) for values in (summary.mean, summary.std))
    return "mean = [{}]\nstd = [{}]".format(*rows)


def four_digits(value: float) -> str:
    """Return a constant with four decimals, or four significant digits where it is small or large.

    >>> four_digits(0.48700304644613485), four_digits(0.0061234), four_digits(812.345678)
    ('0.4870', '0.006123', '812.3')
    """
    if value == 0 or 0.1 <= abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:.4g}"


def swatch(summary: Summary) -> str:
    """Return the dataset's mean color as #rrggbb; empty for values outside of 0-1 and for bands that are no colors."""
    if not within_unit(summary) or len(summary.mean) > 4:
        return ""
    rgb = [summary.mean[c] for c in rgb_channels(len(summary.mean))]
    return "#" + "".join(f"{max(0, min(255, round(255 * v))):02x}" for v in rgb)


def snippets(summary: Summary) -> dict[str, str]:
    """Return mean and std for other tools, with four digits as `--format` prints them."""
    out = {}
    for name in _SNIPPETS:
        try:
            out[name] = exporters.export(summary, name, digits=exporters.digits_of(name))
        except UsageError:  # a constant channel, by whose std nothing can be divided; units that the tool cannot take
            continue
    return out
