"""Image suffixes of names: dropped where an image becomes an image, unless two names would be one."""

import logging
from collections.abc import Iterator

from normcli.runs.names import InputLister, NamedItem
from normcli.sources import Skipped
from normcli.sources.filter import SUFFIXES

log = logging.getLogger("normcli.apply")

SAME_FORMAT = {".png": (".png",), ".tif": (".tif", ".tiff")}


class SuffixCollisions:
    """The names that would be equal without their image suffixes, as hashes.

    Names are compared without all of their image suffixes, so that a name that keeps its own (a.jpg + .png) is
    never that of another (a.jpg.jpg without one, + .png).
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._colliding: set[int] = set()
        self._folders: set[str] = set()
        self._example = ""

    def add(self, name: str) -> None:
        """Take a name, and its folders, of which a file cannot have the name."""
        folder = name.rpartition("/")[0]
        while folder and folder not in self._folders:
            self._folders.add(folder)
            if image_suffix(folder):
                self._count(folder)
            folder = folder.rpartition("/")[0]
        self._count(name)

    def _count(self, name: str) -> None:
        key = hash(_bare(name))
        if key in self._seen:
            self._colliding.add(key)
            self._example = self._example or name
        self._seen.add(key)

    def report(self) -> None:
        """Log how many names keep their suffixes."""
        if count := len(self._colliding):
            names = "name is" if count == 1 else "names are"
            log.warning(
                "%d %s shared by several images: they keep the suffix of the source (%s)", count, names, self._example
            )

    def shorten(self, name: str) -> str:
        """Return a name without its image suffix, or as it is where that would collide."""
        return name if hash(_bare(name)) in self._colliding else name.removesuffix(image_suffix(name))

    def restore(self, name: str, source: str, suffix: str) -> str:
        """Return the name of the file to restore: that of the source where the format is the same."""
        if hash(_bare(name)) in self._colliding:
            return name + suffix
        own = image_suffix(name)
        original = own or image_suffix(source)
        return name.removesuffix(own) + (original if original.lower() in SAME_FORMAT[suffix] else suffix)

    def shortened(self, listed: InputLister) -> InputLister:
        """Return a lister whose names are short; all names have been added."""

        def short(*, names_only: bool = False) -> Iterator[NamedItem | Skipped]:
            for entry in listed(names_only=names_only):
                yield entry._replace(name=self.shorten(entry.name)) if isinstance(entry, NamedItem) else entry

        return short


def image_suffix(name: str) -> str:
    """Return the suffix of an image's name; "" for any other.

    >>> image_suffix("a/b.JPG"), image_suffix("a.png/b"), image_suffix(".png")
    ('.JPG', '', '')
    """
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return base[dot:] if dot > 0 and base[dot:].lower() in SUFFIXES else ""


def _bare(name: str) -> str:
    while suffix := image_suffix(name):
        name = name.removesuffix(suffix)
    return name
