"""One image: to stdout, or from stdin."""

import sys
from pathlib import Path
from typing import Any

from normcli.cli import options as o
from normcli.errors import UsageError


def one(sources: list[str], files: Any, output: Path | None, mapping: dict[str, Any], force: bool) -> int:
    """Map one image to stdout, or one from stdin to a file.

    Raises:
        UsageError: several images, no output, or a terminal that would get binary data.
    """
    if len(sources) != 1 or files is not None:
        raise UsageError("-o - writes one image: give one SOURCE")
    if output is None:
        raise UsageError("nowhere to write: give -o -")
    if str(output) == "-" and sys.stdout.isatty():
        raise UsageError("this would write binary data to the terminal: redirect it, as in -o - > image.npy")
    from normcli.runs import apply_one

    if str(output) != "-" and output.is_dir():
        raise UsageError(f"{output} is a folder: from stdin comes one image, name a file")
    o.refuse_outputs(output, force=force)
    data = sys.stdin.buffer.read() if sources == ["-"] else None
    parts = apply_one.apply_one(sources[0], data, **mapping)
    if str(output) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    else:
        apply_one.save(output, parts)
    return 0
