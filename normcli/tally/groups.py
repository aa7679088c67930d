"""Counts of a group of images: sums and short histograms, so that a thousand classes of 16-bit images stay small."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from normcli.tally.exact import FLOAT_BITS, run_length_decode
from normcli.tally.floats import bin_values, bins_of
from normcli.tally.integers import IMAGE_BITS, CountedImage, ImageRows, PerImage, one_if_equal, per_channel

Array = np.ndarray[Any, Any]
Key = tuple[int, str, int]

# bins that are stored together: all of integers; of floats one power of two, since photographs use few of them
_PAGES = {"uint8": 256, "uint16": 1280, "float": 128}


@cache
def levels_of(dtype: str) -> Array:
    """Return the smallest value of each bin of a group's histogram: 8 significant bits.

    >>> int(levels_of("uint8")[-1]), len(levels_of("uint16")), levels_of("uint16")[254:260].tolist()
    (255, 1280, [254, 255, 256, 258, 260, 262])
    """
    if dtype == "float":
        return bin_values()
    octaves = [np.arange(128, 256) << shift for shift in range(1, 9 if dtype == "uint16" else 1)]
    return np.concatenate([np.arange(256), *octaves])


class GroupHistogram:
    """Pixels by their 8 significant bits (C,bins), of which only the pages in use are stored."""

    def __init__(self, channels: int, dtype: str) -> None:
        self.channels, self.dtype, self._size = channels, dtype, _PAGES[dtype]
        self.pages: dict[int, Array] = {}

    def count(self, own: Array) -> None:
        """Add one image's histogram in the bins of its bucket: (C,256) of 8-bit images, else (C,65536)."""
        short = np.add.reduceat(own, levels_of("uint16"), axis=1) if self.dtype == "uint16" else own
        self._add_rows(short)

    def count_columns(self, columns: Sequence[Array]) -> None:
        """Add the values of each channel, floats of any number, without a histogram of all bins."""
        for c, column in enumerate(columns):
            bins = bins_of(column)
            for page in np.unique(bins // self._size).tolist():
                inside = bins[bins // self._size == page] - page * self._size
                self._page(page)[c] += np.bincount(inside, minlength=self._size)

    def add(self, other: "GroupHistogram", sign: int) -> None:
        """Add the histogram of other images, or subtract it with sign -1; pages left empty are dropped."""
        for page, counts in other.pages.items():
            own = self._page(page)
            own += sign * counts
            if not own.any():
                del self.pages[page]

    def rows(self) -> Array:
        """Return the histogram (C,bins)."""
        rows = np.zeros((self.channels, len(levels_of(self.dtype)) // self._size, self._size), np.int64)
        for page, counts in self.pages.items():
            rows[:, page] = counts
        return rows.reshape(self.channels, -1)

    def is_valid(self, weights: list[int]) -> bool:
        """Return True if the channels count pixels of these weights."""
        rows = self.rows()
        return bool((rows >= 0).all() and (rows.sum(axis=1) == weights).all())

    def state(self) -> list[list[int]]:
        """Return the rows as `run_length_encode` writes them, without a look at each of 65,536 bins."""
        return [_encode(row) for row in self.rows()]

    def read(self, state: list[list[int]]) -> None:
        """Add the counts of a `state`."""
        bins = len(levels_of(self.dtype))
        self._add_rows(np.array([run_length_decode(row, bins) for row in state], np.int64))

    def _add_rows(self, rows: Array) -> None:
        pages = rows.reshape(self.channels, -1, self._size)
        used = [0] if pages.shape[1] == 1 else np.flatnonzero(pages.any(axis=(0, 2))).tolist()
        for page in used:
            self._page(page)[:] += pages[:, page]

    def _page(self, page: int) -> Array:
        if page not in self.pages:
            self.pages[page] = np.zeros((self.channels, self._size), np.int64)
        return self.pages[page]


def _encode(row: Array) -> list[int]:
    out: list[int] = []
    end = 0
    bins = np.flatnonzero(row)
    for bin_, count in zip(bins.tolist(), row[bins].tolist(), strict=True):
        out += [end - bin_, count] if bin_ > end else [count]
        end = bin_ + 1
    return out


class Sums:
    """Counts over the images of one bucket; attributes as the bucket's.

    Attributes:
        channels, dtype, unit: the bucket's.
        weights: per channel, number of valid pixels times `unit`.
        total: per channel, sum of values; of floats in units of 2^-1074.
        squares: per channel, sum of squares; of floats in units of 2^-2148.
        counts: histogram of 8 significant bits.
        images_: per-image values.
    """

    def __init__(self, channels: int, dtype: str, unit: int) -> None:
        self.channels, self.dtype, self.unit = channels, dtype, unit
        self.weights = [0] * channels
        self.total = [0] * channels
        self.squares = [0] * channels
        self.counts = GroupHistogram(channels, dtype)
        self._images = ImageRows(channels, FLOAT_BITS if dtype == "float" else IMAGE_BITS, unit)

    def count(self, image: CountedImage) -> None:
        """Add one image."""
        self._add_weights(image.weights.tolist() * (self.channels // len(image.weights)), 1)
        for c, (total, squares) in enumerate(image.sums.tolist()):
            self.total[c] += total
            self.squares[c] += squares
        assert image.histogram is not None, "a group needs the histogram of every image"
        self.counts.count(image.histogram)
        if image.values is not None:
            self._images.sums.add(image.values)
        else:
            self._images.append(image.weights[None], image.sums[None])

    def count_columns(self, columns: Sequence[Array], sums: tuple[list[int], ...], images: PerImage) -> None:
        """Add images of one pixel by their values; see `Group.count_columns`."""
        weights, total, squares = sums
        self._add_weights(weights, 1)
        self.total = [a + b for a, b in zip(self.total, total, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, squares, strict=True)]
        self.counts.count_columns(columns)
        self._images.sums.add(images)

    def _add_weights(self, weights: list[int], sign: int) -> None:
        self.weights = [a + sign * b for a, b in zip(self.weights, weights, strict=True)]

    def add(self, other: "Sums", sign: int = 1) -> None:
        """Add the counts of other images, or subtract them with sign -1."""
        self._add_weights(other.weights, sign)
        for c in range(self.channels):
            self.total[c] += sign * other.total[c]
            self.squares[c] += sign * other.squares[c]
        self.counts.add(other.counts, sign)
        self.per_image.add(other.per_image, sign)

    @property
    def per_image(self) -> PerImage:
        """Return sums over images of per-image values."""
        return self._images.flushed()

    @property
    def images(self) -> int:
        """Return the number of images."""
        return self._images.images

    @property
    def histogram(self) -> Array:
        """Return the pixels of each bin (C,bins); `levels_of` has the values of the bins."""
        return self.counts.rows()

    def sums(self, channel: int) -> tuple[Fraction, Fraction]:
        """Return sum and sum of squares of a channel's values, weighted."""
        bits = FLOAT_BITS if self.dtype == "float" else 0
        return Fraction(self.total[channel], 1 << bits), Fraction(self.squares[channel], 1 << 2 * bits)

    def range(self, channel: int) -> None:
        """Return None: the extremes of groups are not counted."""

    def is_empty(self) -> bool:
        """Return True if no image is left after subtraction."""
        return self.images == 0 and not any(self.squares)

    def is_valid(self) -> bool:
        """Return True if these can be counts of images."""
        spread = all(w * q >= t * t for w, t, q in zip(self.weights, self.total, self.squares, strict=True))
        limit = {"uint8": 1 << 8, "uint16": 1 << 16}.get(self.dtype, 1 << 512)
        images = self.per_image
        complete = self.counts.is_valid(self.weights) and images.is_valid(limit)
        enough = all(w >= n and (w > 0) == (n > 0) for w, n in zip(self.weights, images.counted, strict=True))
        return spread and complete and images.images >= 0 and enough

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON values; large integers as text."""
        return {
            "channels": self.channels,
            "dtype": self.dtype,
            "unit": self.unit,
            "weight": one_if_equal(self.weights),
            "total": [str(v) for v in self.total],
            "squares": [str(v) for v in self.squares],
            "histogram": self.counts.state(),
            "per_image": self.per_image.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Sums":
        """Rebuild from `state`."""
        total, squares = [int(v) for v in state["total"]], [int(v) for v in state["squares"]]
        rows = (total, squares, state["histogram"])
        if any(len(row) != state["channels"] for row in rows) or state["unit"] not in (1, 255, 65535):
            raise ValueError("a group's sums of another number of channels or weight")
        if state["dtype"] not in ("uint8", "uint16", "float"):
            raise ValueError("a group's sums of another depth")
        one = cls(len(total), state["dtype"], state["unit"])
        one.weights, one.total, one.squares = per_channel(state["weight"], len(total)), total, squares
        one.counts.read(state["histogram"])
        one._images.sums = PerImage.from_state(one.channels, one._images.sums.bits, state["per_image"])
        return one


class Group:
    """Counts of one group, by bucket."""

    def __init__(self) -> None:
        self.parts: dict[Key, Sums] = {}

    @property
    def images(self) -> int:
        """Return the number of images."""
        return sum(part.images for part in self.parts.values())

    def count(self, key: Key, image: CountedImage) -> None:
        """Add one image."""
        self._part(key).count(image)

    def count_columns(self, key: Key, columns: Sequence[Array], sums: tuple[list[int], ...], images: PerImage) -> None:
        """Add images of one float pixel.

        Args:
            key: of their bucket.
            columns: values of each channel.
            sums: weights, sums of values and of squares of each channel, in the bucket's units.
            images: their per-image values.
        """
        self._part(key).count_columns(columns, sums, images)

    def add(self, other: "Group", sign: int = 1) -> None:
        """Add another group's images, or subtract them; parts left empty are dropped."""
        for key, part in other.parts.items():
            own = self._part(key)
            own.add(part, sign)
            if own.is_empty():
                del self.parts[key]

    def is_valid(self) -> bool:
        """Return True if these can be counts of images."""
        return all(part.is_valid() for part in self.parts.values())

    def _part(self, key: Key) -> Sums:
        if key not in self.parts:
            self.parts[key] = Sums(*key)
        return self.parts[key]

    def state(self) -> list[dict[str, Any]]:
        """Return the counts as JSON values, in the order of the buckets."""
        return [part.state() for _, part in sorted(self.parts.items())]

    @classmethod
    def from_state(cls, state: list[Mapping[str, Any]]) -> "Group":
        """Rebuild from `state`."""
        group = cls()
        for entry in state:
            part = Sums.from_state(entry)
            group._part((part.channels, part.dtype, part.unit)).add(part)
        if group.images < 1:
            raise ValueError("a group without images")
        return group
