"""Facts about single images, kept in a temporary table on disk while a run counts them, and summed at the end.

A million images take about 120 MB of temporary disk and a few MB of memory, so that the memory of a run with a report
does not grow with the number of images. Exact answers - the most frequent size, every copy - need all rows: a sketch in
memory would miss copies that are far apart.
"""

import logging
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from normcli.report.facts import STEPS, Copies, CopyFacts, ImageFacts

log = logging.getLogger("normcli.stats")

_SIZES = 12  # most frequent sizes that a report names
_LABELS = 60  # classes
_SETS, _NAMES = 40, 8  # sets of copies, and names in each
_CACHE_KIB = 8192


class ImageRow(NamedTuple):
    """Facts of one image.

    Attributes:
        key: its name.
        label: its class, or None.
        width, height: in pixels, upright and before --resize.
        bytes: of the encoded image.
        digest: the first 128 bits of SHA-256 of these bytes.
    """

    key: str
    label: str | None
    width: int
    height: int
    bytes: int
    digest: int


class ImageTable:
    """A temporary table of all images so far; without room for it, the facts are left out of the report."""

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        try:
            # no name: a file in the temporary folder that SQLite removes; it exists only once the cache is full
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = OFF")
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._connection.execute(
                "CREATE TABLE images (id INTEGER PRIMARY KEY, name BLOB, label BLOB, width INTEGER, height INTEGER,"
                " bytes INTEGER, digest BLOB)"
            )
            self._connection.execute("BEGIN")  # never committed: one transaction costs least
        except sqlite3.Error as error:
            self._give_up(error)

    def add(self, rows: Iterable[ImageRow]) -> None:
        """Append the images of one batch."""
        if self._connection is None:
            return
        values = (
            (_bytes(r.key), _bytes(r.label), r.width, r.height, r.bytes, r.digest.to_bytes(16, "big")) for r in rows
        )
        try:
            self._connection.executemany("INSERT INTO images VALUES (NULL, ?, ?, ?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Remove the table."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def facts(self) -> ImageFacts | None:
        """Return the sums over all images; None without an image, or without room for the table."""
        if self._connection is None:
            return None
        try:
            return self._facts(self._connection)
        except sqlite3.Error as error:
            self._give_up(error)
            return None

    def _give_up(self, error: sqlite3.Error) -> None:
        log.warning("sizes, classes and copies are left out of the report: temporary table: %s", error)
        self.close()

    def _facts(self, table: sqlite3.Connection) -> ImageFacts | None:
        images, total = table.execute("SELECT count(*), sum(bytes) FROM images").fetchone()
        if not images:
            return None
        grid: Counter[tuple[int, int]] = Counter()
        aspects: Counter[int] = Counter()
        areas: Counter[int] = Counter()
        sizes: list[tuple[int, int, int]] = []
        distinct = 0
        ranked = "SELECT width, height, count(*) AS n FROM images GROUP BY width, height ORDER BY n DESC, width, height"
        for width, height, count in table.execute(ranked):
            distinct += 1
            sizes += [(width, height, count)] * (len(sizes) < _SIZES)
            grid[_bin(width), _bin(height)] += count
            aspects[_bin(width / height)] += count
            areas[_bin(width * height)] += count
        file_sizes: Counter[int] = Counter()
        for size, count in table.execute("SELECT bytes, count(*) FROM images GROUP BY bytes"):
            file_sizes[_bin(max(size, 1))] += count
        labels, distinct_labels = _labels(table)
        return ImageFacts(
            images=images,
            sizes=sizes,
            distinct_sizes=distinct,
            widths=_ends_and_median(table.execute(_COUNTED.format("width")), images),
            heights=_ends_and_median(table.execute(_COUNTED.format("height")), images),
            grid=dict(sorted(grid.items())),
            aspects=dict(sorted(aspects.items())),
            areas=dict(sorted(areas.items())),
            file_sizes=dict(sorted(file_sizes.items())),
            bytes=total,
            labels=labels,
            distinct_labels=distinct_labels,
            copies=_copies(table),
        )


_COUNTED = "SELECT {0}, count(*) FROM images GROUP BY {0} ORDER BY {0}"


def _labels(table: sqlite3.Connection) -> tuple[list[tuple[str, int]], int]:
    """Return the largest classes with their number of images, and the number of classes."""
    (distinct,) = table.execute("SELECT count(DISTINCT label) FROM images").fetchone()
    ranked = "SELECT label, count(*) AS n FROM images WHERE label IS NOT NULL GROUP BY label ORDER BY n DESC, label"
    rows = table.execute(f"{ranked} LIMIT {_LABELS}")
    return [(_text(label), count) for label, count in rows], distinct


def _copies(table: sqlite3.Connection) -> CopyFacts:
    """Return the sets of images with the same bytes, those of several classes first."""
    sets = repeated = conflicts = 0
    largest: list[tuple[int, bytes, int, int]] = []
    grouped = (
        "SELECT count(*) AS n, digest, width, height, count(DISTINCT label), min(id) AS first FROM images"
        " GROUP BY digest, width, height HAVING n > 1 ORDER BY count(DISTINCT label) > 1 DESC, n DESC, first"
    )
    for count, digest, width, height, labels, _ in table.execute(grouped):
        sets += 1
        repeated += count - 1
        conflicts += labels > 1
        if len(largest) < _SETS:
            largest.append((count, digest, width, height))
    keys: dict[tuple[bytes, int, int], list[str]] = {row[1:]: [] for row in largest}
    labels_of: dict[tuple[bytes, int, int], dict[str, None]] = {row[1:]: {} for row in largest}
    marks = ", ".join("?" * len(largest))
    members = f"SELECT digest, width, height, name, label FROM images WHERE digest IN ({marks}) ORDER BY id"
    for *place, name, label in table.execute(members, [row[1] for row in largest]) if largest else ():
        names = keys.get((place[0], place[1], place[2]))
        if names is None:  # the same bytes in another shape
            continue
        if len(names) < _NAMES:
            names.append(_text(name))
        classes = labels_of[place[0], place[1], place[2]]
        if label is not None and len(classes) < _NAMES:
            classes[_text(label)] = None
    copies = [Copies(images=row[0], keys=keys[row[1:]], labels=list(labels_of[row[1:]])) for row in largest]
    return CopyFacts(largest=copies, sets=sets, repeated=repeated, conflicts=conflicts)


def _ends_and_median(counted: Iterator[tuple[int, int]], images: int) -> tuple[int, int, int]:
    """Return smallest, lower median and largest of counted values in rising order."""
    smallest, median, value, below = 0, 0, 0, 0
    for value, count in counted:
        smallest = smallest or value
        if below <= (images - 1) // 2 < below + count:
            median = value
        below += count
    return smallest, median, value


def _bin(value: float) -> int:
    """Return the number of eighths of an octave, rounded: values around 1 have bin 0."""
    return round(STEPS * math.log2(value))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
