"""Paths of both kinds: local, and remote, which have "://" in them."""

import base64
import re
import stat

# s3://bucket/key, and chains such as simplecache::s3://bucket/key, which are rejected
is_remote = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]*://").match


def file_kind(mode: int) -> str:
    """Return the name of a kind of file from its mode.

    >>> import stat
    >>> file_kind(stat.S_IFIFO)
    'FIFO'
    """
    kinds = (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "FIFO"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "character device"),
        (stat.S_ISBLK, "block device"),
        (stat.S_ISREG, "regular file"),
    )
    return next((name for test, name in kinds if test(mode)), "special file")


def path_fields(path: str) -> dict[str, str]:
    """Return a path for JSON: "path", and "path_b64" with its bytes where they are not UTF-8.

    >>> path_fields("a.png")
    {'path': 'a.png'}
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = path.encode("utf-8", "surrogateescape")
        return {"path": raw.decode("utf-8", "replace"), "path_b64": base64.b64encode(raw).decode()}
    return {"path": path}
