"""Pages of `--report`, with their date and command."""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli.cli.build import say
from normcli.cli.messages import write

if TYPE_CHECKING:
    from normcli.report import Gallery, Origin
    from normcli.summary import Summary

_CREDENTIALS = r"(?<=://)[^/@\s]+@"
_QUERY = r"(://[^\s?]*)\?\S+"


def write_page(path: Path, text: str, *, quiet: bool = True) -> None:
    """Write a page, completely or not at all; "-" is stdout. Unless quiet, a line reports it.

    Raises:
        OutputError: it cannot be written.
    """
    from normcli import storage

    if str(path) == "-":
        write(text)
    else:
        storage.write_file(path, text.encode("utf-8", "backslashreplace"))
        if not quiet:
            say(f"wrote {path}")


def write_summary_page(
    path: Path,
    summary: "Summary",
    title: str,
    origin: "Origin",
    gallery: "Gallery | None" = None,
    failures: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the page of a summary.

    Raises:
        MissingExtraError: jinja2 is not installed.
        OutputError: it cannot be written.
    """
    from normcli.report import render_page

    write_page(path, render_page(summary, title=title, gallery=gallery, failures=failures, origin=origin))


def title_of(source: str) -> str:
    """Return the last part of a path, for a heading.

    >>> title_of("data/photos/"), title_of("s3://me:secret@bucket/train.tar"), title_of("-")
    ('photos', 'train.tar', 'stdin')
    """
    if source == "-":
        return "stdin"
    return Path(without_secrets(source)).name or Path(source).resolve().name or source


def origin_of(sources: Iterable[object] = (), statistics: object = None) -> "Origin":
    """Return date and command of this process for the head of a page, without passwords of URLs.

    SOURCE_DATE_EPOCH sets the date, so that pages can be reproduced.
    """
    from normcli.report import Origin

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC)
    import shlex

    command = shlex.join(["normcli", *(without_secrets(argument) for argument in sys.argv[1:])])
    return Origin(
        created=f"{now.day} {now:%B %Y, %H:%M} UTC",
        command=command,
        sources=tuple(without_secrets(str(source)) for source in sources),
        statistics="" if statistics is None or str(statistics) == "-" else str(statistics),
    )


def without_secrets(text: str) -> str:
    """Return a text without the user, password and query of the URLs in it.

    >>> without_secrets("https://me:secret@host/a.tar?token=1"), without_secrets("a?b")
    ('https://host/a.tar?…', 'a?b')
    """
    return re.sub(_QUERY, r"\1?…", re.sub(_CREDENTIALS, "", text))
