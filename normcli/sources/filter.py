"""Names inside sources: which are wanted, which are hostile."""

import re
from collections.abc import Callable
from fnmatch import translate

from normcli.options.images import InputOptions
from normcli.sources.item import Item, Skipped, failed_item

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".heic", ".heif"),
        *(".jp2", ".j2k", ".jpx", ".j2c", ".jpf"),
    }
)
_SUSPECT = re.compile(r"[\\:\0]")


class PathFilter:
    """Which paths are wanted: by suffix or `include`, and not by `exclude`."""

    def __init__(self, listing: InputOptions) -> None:
        self._include = _compiled(listing.include_patterns)
        self._exclude = _compiled(listing.exclude_patterns)

    def excluded(self, path: str) -> bool:
        """Say whether `exclude` names it."""
        return self._exclude is not None and self._exclude(path) is not None

    def reject_reason(self, path: str, name: str) -> tuple[str, str] | None:
        """Reason and message for a path that is not wanted."""
        if self._include is None:
            if name[name.rfind(".") :].lower() not in SUFFIXES or "." not in name:
                return "not-an-image-name", "its suffix is not an image's (--include takes it)"
        elif self._include(path) is None:
            return "not-included", "matches no --include"
        if self.excluded(path):
            return "excluded", "matches --exclude"
        return None

    def member(self, archive: str, name: str) -> Item | Skipped | str:
        """What a member of an archive is to be: its key where it is wanted, else what to report of it."""
        if name.startswith("__MACOSX/") or "/__MACOSX/" in name:
            return Skipped(f"{archive}/{name}", "macos-metadata", "what macOS adds to archives, not an image")
        if hostile(name):
            return failed_item(f"{archive}/{name}", "hostile-name", "its name leads out of the archive")
        while name.startswith("./"):
            name = name[2:]
        key = f"{archive}/{name}"
        why_not = self.reject_reason(key, name[name.rfind("/") + 1 :])
        return key if why_not is None else Skipped(key, *why_not)


def hostile(name: str) -> bool:
    r"""Say whether a member's name is absolute, climbs out, or is none: nothing honest is called that.

    >>> [hostile(n) for n in ("a/b.jpg", "./a..b/c.jpg", "/etc/passwd", "a/../../b.png", "C:\\x.png", "a\0.png", "")]
    [False, False, True, True, True, True, True]
    """
    if name[:1] not in ("", "/") and ".." not in name and _SUSPECT.search(name) is None:
        return False  # nearly every name
    parts = re.split(r"[/\\]", name)
    return not name or parts[0] == "" or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:[/\\]", name) is not None


def folder_of(name: str) -> str | None:
    """The folder that a member lies in, which is its class; None at the top.

    >>> folder_of("./train/cat/1.jpg"), folder_of("1.jpg")
    ('train/cat', None)
    """
    while name.startswith("./"):
        name = name[2:]
    return name.rpartition("/")[0] or None


def _compiled(patterns: tuple[str, ...]) -> Callable[[str], re.Match[str] | None] | None:
    """One regular expression for globs: a pattern without / meets the name alone, ** any folders."""
    if not patterns:
        return None
    alternatives = []
    for pattern in patterns:
        glob = translate(pattern)
        alternatives.append(glob if pattern.startswith("/") else rf"(?s:.*/)?{glob}")
    return re.compile("|".join(alternatives)).fullmatch
