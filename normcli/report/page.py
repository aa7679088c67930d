"""The HTML page of a summary, rendered by jinja2 from the templates of this folder."""

import base64
from collections.abc import Sequence
from typing import Any

from normcli.constants import exporters
from normcli.errors import MissingExtraError, UsageError
from normcli.report import figures
from normcli.report.pictures import Gallery, Picture
from normcli.summary import Summary
from normcli.summary.channels import rgb_channels
from normcli.summary.remarks import remarks

FAILURES_SHOWN = 200
_SNIPPETS = ("torchvision", "albumentations", "keras", "huggingface", "opencv", "timm", "mmcv", "onnx")


def require_jinja2() -> None:
    """Raise an error before the work if a page cannot be rendered.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise MissingExtraError("--report", "jinja2", "report") from None


def render_page(
    summary: Summary,
    *,
    title: str = "",
    gallery: Gallery | None = None,
    failures: Sequence[dict[str, Any]] = (),
) -> str:
    """Return the page as HTML.

    Args:
        summary: the statistics to show.
        title: the heading: a folder, a file.
        gallery: small pictures, if the images are available.
        failures: records of inputs not used, the first of them.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    require_jinja2()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("normcli.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "picture": _picture,
        "printable": _printable,
        "points": _points,
        "fixed": _fixed,
    }
    rows = figures.groups(summary)
    return environment.get_template("page.html.jinja").render(
        s=summary,
        title=title or "Dataset statistics",
        remarks=remarks(summary),
        histogram=figures.histogram(summary),
        conventions=figures.conventions(summary),
        composition=figures.composition(summary),
        groups=rows,
        drawn=figures.groups_drawn(rows),
        snippets=_snippets(summary),
        gallery=gallery or Gallery(),
        mapped=figures.mapped,
        failures=failures[:FAILURES_SHOWN],
        not_used=summary.failed + summary.skipped,
        swatch=_swatch(summary),
    )


def _number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    if value != 0 and (abs(value) < 10.0**-digits / 2 or abs(value) >= 1e6):
        return f"{value:.4g}"
    return f"{value:.{digits}f}"


def _fixed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.data or b"").decode()
    return f"data:{picture.kind};base64,{data}"


def _printable(text: str) -> str:
    """Escape control characters and bytes that are not text; Jinja escapes markup."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _points(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs)


def _swatch(summary: Summary) -> str:
    """Return the dataset's mean color as #rrggbb; empty for values outside of 0-1."""
    if not figures.within_unit(summary):
        return ""
    rgb = [summary.mean[c] for c in rgb_channels(len(summary.mean))]
    return "#" + "".join(f"{max(0, min(255, round(255 * v))):02x}" for v in rgb)


def _snippets(summary: Summary) -> dict[str, str]:
    out = {}
    for name in _SNIPPETS:
        try:
            out[name] = exporters.export(summary, name)
        except UsageError:  # a constant channel: nothing can be divided by its std
            continue
    return out
