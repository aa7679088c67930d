"""The frame of every page: Jinja's environment, formats of numbers, the date and command, and the list of contents."""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from normcli import __version__, late_imports
from normcli.report.pictures import Picture
from normcli.report.sizes import bytes_text

if TYPE_CHECKING:
    import jinja2

_HEADING = re.compile(r'<h2 id="([a-z-]+)">(.*?)</h2>', re.S)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a page, for its head.

    Attributes:
        created: date and time.
        command: the command line that made it.
        sources: folders, files and containers as they were named.
        statistics: the statistics file with these numbers, if there is one.
    """

    created: str = ""
    command: str = ""
    sources: tuple[str, ...] = ()
    statistics: str = ""


def require_jinja2() -> None:
    """Raise an error before the work if a page cannot be rendered.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    late_imports.required("jinja2", "--report", "report")


def render(template: str, *, title: str, origin: Origin | None, **values: Any) -> str:
    """Return a page as HTML: the template's body within the frame of all pages.

    Args:
        template: name of the body's template.
        title: the heading.
        origin: date and command.
        values: the template's own.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    require_jinja2()
    from markupsafe import Markup

    environment = _environment()
    origin = origin or Origin()
    body = environment.get_template(f"{template}.html.jinja").render(title=title, origin=origin, **values)
    script = environment.get_template("copy.js").render().strip()
    return environment.get_template("page.html.jinja").render(
        title=title,
        origin=origin,
        body=Markup(body),  # escaped already
        headings=[(name, Markup(text)) for name, text in _HEADING.findall(body)],
        script=Markup(script),  # a constant of this package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
    )


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("normcli.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "picture": _picture,
        "printable": printable,
        "points": _points,
        "fixed": _fixed,
        "signed": signed,
        "count": _count,
        "bytes": bytes_text,
        "breakable": _breakable,
    }
    return environment


def number(value: float | None, decimals: int = 4) -> str:
    """Return a statistic with four decimals, or with significant digits where these would hide or exceed it.

    >>> number(0.4870304), number(0.0061234), number(1234.5), number(0.0), number(None), number(-2e-7)
    ('0.4870', '0.006123', '1234.5', '0.0000', '–', '−2e-07')
    """
    if value is None:
        return "–"
    size = abs(value)
    if value == 0 or 0.01 <= size < 100:
        text = f"{value:.{decimals}f}"
    elif 0.0001 <= size < 0.01:
        text = f"{value:.{decimals + 2}f}"
    elif 100 <= size < 1e6:
        text = f"{value:.6g}"
    else:
        text = f"{value:.{decimals}g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def signed(value: float | None, decimals: int = 3) -> str:
    """Return a difference with its sign.

    >>> signed(0.0311), signed(-0.5), signed(0.0), signed(None)
    ('+0.031', '−0.500', '0', '–')
    """
    if value is None:
        return "–"
    if value == 0:
        return "0"
    small = abs(value) < 10.0**-decimals
    return (f"{value:+.2g}" if small else f"{value:+.{decimals}f}").replace("-", "−", 1)


def printable(text: str) -> str:
    """Escape control characters and bytes that are not text; Jinja escapes markup."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _fixed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2,000 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.data or b"").decode()
    return f"data:{picture.kind};base64,{data}"


def _points(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs)


def _breakable(key: str) -> Any:
    """Return the last two parts of a name, escaped, which may break after its separators and not within an ending."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[/\\:])", printable(key))
    text = "".join(parts[-2:])
    pieces = re.split(r"(?<=[/\\:_\- ])", text)
    return Markup("<wbr>").join(escape(piece) for piece in pieces)
