"""Lines for people on stderr, and data on stdout."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normcli.summary import Summary


def printable(text: str) -> str:
    r"""Make a name safe to print: control characters and bytes that are no text are escaped.

    >>> print(printable("a\tb"), printable("caf\udce9"))
    a\tb caf\udce9
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def warn(summary: "Summary") -> None:
    """Write every warning and remark to stderr, one line each."""
    from normcli.summary.remarks import remarks

    for line in remarks(summary):
        say(f"note: {line}")


def warn_failures(summary: "Summary") -> None:
    """Write to stderr how many inputs failed and why; nothing where none did."""
    if summary.failed:
        from normcli.summary.remarks import reasons

        say(f"{summary.failed:,} input{'s' * (summary.failed != 1)} failed: {reasons(summary.failures)}")


def say(line: str) -> None:
    """Write one line to stderr, whatever bytes a file name in it holds."""
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(printable(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def document(keys: dict[str, Any]) -> None:
    """Write a JSON object to stdout, one line a key."""
    import json

    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in keys.items())
    write("{\n" + ",\n".join(lines) + "\n}\n")


def write(text: str) -> None:
    """Write data to stdout."""
    sys.stdout.write(text)
