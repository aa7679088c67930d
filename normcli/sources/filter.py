"""Names inside sources: which are selected, and which are unsafe."""

import re

from normcli.options.images import InputOptions
from normcli.sources.item import Item, Skipped, failed_item
from normcli.sources.patterns import compile_patterns, path_below

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".heic", ".heif"),
        *(".jp2", ".j2k", ".jpx", ".j2c", ".jpf"),
    }
)
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_MAC = "macos-metadata", "metadata that macOS adds, not an image"
_HIDDEN = "hidden", "a hidden file (--include with its name reads it)"
_SUSPECT = re.compile(r"[\\:\0]")


class PathFilter:
    """Selects paths of a source: by suffix or `include`, and not by `exclude`."""

    def __init__(self, listing: InputOptions, source: str) -> None:
        self._source = source
        self._include = compile_patterns(listing.include_patterns)
        self._exclude = compile_patterns(listing.exclude_patterns)
        # hidden files are passed over unless a pattern names them
        self._with_hidden = any("/." in f"/{glob}" for glob in listing.include_patterns)

    def folder_reason(self, name: str) -> tuple[str, str] | None:
        """Return reason and message for a folder that is not walked: hidden, or of the system; None for others."""
        if name in SYSTEM_FOLDERS:
            return _MAC if name == "__MACOSX" else ("system-folder", "a folder of the system, not of the dataset")
        if name.startswith(".") and not self._with_hidden:
            return "hidden", "a hidden folder (--include with its name, such as '.hidden/*', reads it)"
        return None

    def excluded(self, path: str) -> bool:
        """Return whether `exclude` matches a path."""
        return self._exclude is not None and self._exclude(path_below(self._source, path)) is not None

    def reject_reason(self, path: str, name: str) -> tuple[str, str] | None:
        """Return reason and message for a path that is not selected; None for one that is."""
        if name.startswith("."):
            if name.startswith("._"):
                return _MAC
            if not self._with_hidden:
                return _HIDDEN
        if self._include is None:
            if name[name.rfind(".") :].lower() not in SUFFIXES or "." not in name:
                if name.lower().endswith(".npy"):
                    return "not-an-image-name", "an array (--include '*.npy' reads each as one image)"
                return "not-an-image-name", "not an image extension (use --include to read it)"
        elif self._include(path_below(self._source, path)) is None:
            return "not-included", "matches no --include"
        if self.excluded(path):
            return "excluded", "matches --exclude"
        return None

    def member(self, archive: str, name: str) -> Item | Skipped | str:
        """Return the key of an archive's member that is selected, else the failed or skipped input to report."""
        if is_unsafe(name):
            return failed_item(f"{archive}/{name}", "unsafe-name", "its name leads out of the archive")
        while name.startswith("./"):
            name = name[2:]
        key = f"{archive}/{name}"
        if "__MACOSX" in name or "/." in f"/{name}" or "@" in name or "$" in name:
            for folder in name.split("/")[:-1]:
                if (rejected := self.folder_reason(folder)) is not None:
                    return Skipped(key, *rejected)
        rejected = self.reject_reason(key, name[name.rfind("/") + 1 :])
        return key if rejected is None else Skipped(key, *rejected)


def is_unsafe(name: str) -> bool:
    r"""Return whether a member's name is absolute, leads out of its archive, or is empty.

    >>> [is_unsafe(n) for n in ("a/b.jpg", "./a..b/c.jpg", "/etc/passwd", "a/../../b.png", "C:\\x.png", "a\0.png", "")]
    [False, False, True, True, True, True, True]
    """
    if name[:1] not in ("", "/") and ".." not in name and _SUSPECT.search(name) is None:
        return False  # nearly every name
    parts = re.split(r"[/\\]", name)
    return not name or parts[0] == "" or ".." in parts or "\0" in name or re.match(r"[A-Za-z]:[/\\]", name) is not None


def folder_of(name: str) -> str | None:
    """Return the folder of a member, which is its class; None at the top.

    >>> folder_of("./train/cat/1.jpg"), folder_of("1.jpg")
    ('train/cat', None)
    """
    while name.startswith("./"):
        name = name[2:]
    return name.rpartition("/")[0] or None
