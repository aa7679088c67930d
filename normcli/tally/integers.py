"""Counts of 8-bit and 16-bit pixels: histograms, and the values of single images.

Values of single images and their sums are the conventions behind many published constants.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from operator import add, sub
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normcli.kernels.kernel import address_of, as_pairs, contiguous
from normcli.tally.exact import run_length_decode, run_length_encode

if TYPE_CHECKING:
    from normcli.tally.small_images import SmallImageBuffer

Array = np.ndarray[Any, Any]


class ImageMoments(NamedTuple):
    """Statistics of one image, per channel, in levels as stored.

    A channel without a valid sample has weight 0, and NaN everywhere else.

    Attributes:
        weights: number of valid pixels, or the sum of their weights.
        mean: mean.
        std: population standard deviation.
        low: smallest value.
        high: largest value.
    """

    weights: list[int]
    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]


class CountedImage(NamedTuple):
    """Counts of one image by its bucket, for its group.

    Attributes:
        weights: (1) number of pixels, or the sum of their weights; (C) where it differs between channels.
        sums: (C,2) sums of values and of squares, in the bucket's units.
        histogram: (C,bins) of the bucket; None where no group needs it.
        values: per-image values of float images; those of integer images follow from the sums.
        moments: mean, std and range, where they were asked for.
    """

    weights: Array
    sums: Array
    histogram: Array | None
    values: "PerImage | None" = None
    moments: ImageMoments | None = None


class PerImage:
    """Sums over images of per-image values: the conventions behind many published constants.

    Every value is stored as an integer multiple of 2^-bits. Values of integer images, and stds, are float64, rounded
    once from exact integers; the others of float images are exact to half a multiple, since they may cancel in a sum.
    """

    mean: list[int]
    std: list[int]
    sample_std: list[int]
    variance: list[int]
    square: list[int]  # of the mean: what a std with equal weights needs
    scatter: list[int] | None  # pixels times variance; None where older files lack it

    SUMS = ("mean", "std", "sample_std", "variance", "square", "scatter")
    ROWS = ("counted", "sampled", *SUMS)

    def __init__(
        self,
        channels: int,
        bits: int,
        images: int = 0,
        counted: list[int] | None = None,
        sampled: list[int] | None = None,
        **sums: list[int] | None,
    ) -> None:
        self.channels, self.bits, self.images = channels, bits, images
        self.counted = counted or [0] * channels  # images with a valid pixel in the channel
        self.sampled = sampled or [0] * channels  # with two and more: one pixel has no N-1 std
        for name in self.SUMS:
            setattr(self, name, sums.get(name, [0] * channels))

    @property
    def known(self) -> tuple[str, ...]:
        """Return the names of the sums that are known: all, or without `scatter`."""
        return self.SUMS if self.scatter is not None else self.SUMS[:-1]

    def add(self, other: "PerImage", sign: int = 1) -> None:
        """Add the sums of other images, or subtract them with sign -1."""
        self.images += sign * other.images
        if other.scatter is None:
            self.scatter = None
        for name in (*self.ROWS[:2], *self.known):
            setattr(self, name, [*map(add if sign == 1 else sub, getattr(self, name), getattr(other, name))])

    def state(self) -> dict[str, Any]:
        """Return the sums as JSON values; large integers as text, which no reader rounds."""
        sums = {name: [str(v) for v in getattr(self, name)] for name in self.known}
        counted = {} if set(self.counted) == {self.images} else {"counted": self.counted}
        return {"bits": self.bits, "images": self.images, **counted, "sampled": one_if_equal(self.sampled), **sums}

    def is_valid(self, limit: int) -> bool:
        """Return True if these can be sums over images whose values stay below `limit`."""
        levels = [n * limit << self.bits for n in self.counted]
        below = all(abs(v) <= n for name in ("mean", "std") for v, n in zip(getattr(self, name), levels, strict=True))
        spreads = all(v >= 0 for name in ("std", "sample_std", "variance") for v in getattr(self, name))
        spreads = spreads and all(v >= 0 for v in self.scatter or ())
        rising = all(0 <= s <= n <= self.images for s, n in zip(self.sampled, self.counted, strict=True))
        return rising and self.images <= sum(self.counted) and below and spreads

    @classmethod
    def from_state(cls, channels: int, bits: int, state: Mapping[str, Any]) -> "PerImage":
        """Rebuild from `state`."""
        names = cls.SUMS if "scatter" in state else cls.SUMS[:-1]
        sums: dict[str, Any] = {name: [int(v) for v in state[name]] for name in names}
        if any(len(v) != channels for v in sums.values()) or state["bits"] != bits:
            raise ValueError("per-image sums of another number of channels or another scale")
        images = int(state["images"])
        counted, sampled = per_channel(state.get("counted", images), channels), per_channel(state["sampled"], channels)
        return cls(channels, bits, images, counted, sampled, **{"scatter": None, **sums})


def one_if_equal(values: list[int]) -> int | list[int]:
    """Return counts per channel as the state contains them: one number where all channels have the same.

    >>> one_if_equal([4, 4]), one_if_equal([4, 3])
    (4, [4, 3])
    """
    return values[0] if len({*values}) == 1 else values


def per_channel(entry: Any, channels: int) -> list[int]:
    """Return counts per channel, from the result of `one_if_equal`.

    Raises:
        ValueError: counts of another number of channels.
    """
    values = [int(v) for v in entry] if isinstance(entry, list) else [int(entry)] * channels
    if len(values) != channels:
        raise ValueError("counts of another number of channels")
    return values


IMAGE_BITS = 64  # per-image values are stored in units of 2^-64 of a level
_BINS = {"uint8": 256, "uint16": 65536}


class Integers:
    """Pixels of 8 or 16 bits: a histogram per channel, from which everything pooled follows.

    Args:
        channels: number of channels.
        dtype: "uint8" or "uint16".
        unit: weight of a pixel that counts fully: 1, or 255 or 65535 where pixels count by their alpha.

    Attributes:
        invalid: per channel, the weight of the pixels that do not count in it.
        gathers: small images can be counted together: see `is_small`.
    """

    def __init__(self, channels: int, dtype: str, unit: int = 1) -> None:
        self.channels, self.dtype, self.unit = channels, dtype, unit
        self._histogram: Array = np.zeros((channels, _BINS[dtype]), np.int64)
        self._images = ImageRows(channels, IMAGE_BITS, unit)
        self._small: SmallImageBuffer | None = None  # images not yet in any of them
        self.invalid = [0] * channels
        self.gathers = dtype == "uint8" and channels in _MODES

    def count(self, pixels: Array, weights: Array | None, own: Array | None = None) -> tuple[Array, Array]:
        """Add one image (H,W,C); return its weight (1), and its sums (C,2) of values and of squares.

        Args:
            pixels: of the bucket's dtype.
            weights: (H,W) of the same dtype, or None.
            own: zeros (C,bins) that receive the image's histogram, or None.

        Raises:
            Exception: there is no memory to count it; nothing of it is added.
        """
        if weights is None and own is None:
            sums = np.empty((self.channels, 2), np.int64)
            added = self._append(np.array([pixels.shape[0] * pixels.shape[1]]), sums)
            try:
                _count(pixels, self._histogram, sums)
            except Exception:
                self._images.take_back()
                raise
            return added
        own = np.zeros_like(self._histogram) if own is None else own
        weight, sums = count_one(pixels, weights, own)
        added = self._append(np.array([weight]), sums)
        self._histogram += own
        return added

    def count_plain(self, pixels: Array) -> None:
        """Add one image (H,W,C), C-contiguous, of uint8 and at most 4 channels, as `count` does."""
        channels = self.channels
        call = _scratch.calls.get(channels) or _bound_call(channels)
        if call is None:
            self.count(pixels, None)
            return
        sums = np.empty((1, channels, 2), np.int64)
        self._images.append(_weight(pixels.shape[0] * pixels.shape[1]), sums)
        try:
            call.count(pixels, self._histogram, sums)
        except Exception:
            self._images.take_back()
            raise

    def _append(self, weights: Array, sums: Array) -> tuple[Array, Array]:
        self._images.append(weights[None], sums[None])
        return weights, sums

    def bins(self) -> Array:
        """Return zeros (C,bins) for the histogram of one image."""
        return np.zeros_like(self._histogram)

    def count_later(self, images: list[bytes]) -> None:
        """Add samples of images of one size for which `is_small` is true, where their own sums are not needed.

        Raises:
            Exception: there is no memory to count the images that wait; none of them is added.
        """
        if self._small is None:
            from normcli.tally.small_images import SmallImageBuffer

            self._small = SmallImageBuffer(self.channels)
        if self._small.add(images):
            try:
                self._flush_small()
            except Exception:
                self._small.take_back(images)
                raise

    def _flush_small(self) -> None:
        if self._small:
            histogram, images = self._small.flush()
            self._histogram += histogram
            for weights, sums in images:
                self._images.append(weights, sums)

    @property
    def histogram(self) -> Array:
        """Return the count of each value of each channel (C,bins)."""
        self._flush_small()
        return self._histogram

    def count_histogram(self, histogram: Array, sums: Array, invalid: list[int]) -> tuple[Array, Array]:
        """Add one image by its histogram (C,bins), sums (C,2) and invalid pixels; return its weights (C) and sums."""
        self._histogram += histogram
        self.invalid = [a + b for a, b in zip(self.invalid, invalid, strict=True)]
        return self._append(histogram.sum(axis=1), sums)

    def moments(self, counted: Array, sums: Array, pixels: Array, weights: Array | None) -> ImageMoments:
        """Return mean, std and range of the image that `count` just added with the weight `counted`."""
        mean, std, *_ = image_values(counted[None], sums[None], self.unit)
        seen = pixels if weights is None else pixels[weights > 0][:, None]
        # rows first: along the last axis of three NumPy takes 6.2 ms for 400 x 530 pixels, so 0.06 ms
        low, high = (bound(axis=0) for bound in (seen.min, seen.max))
        low, high = low.min(axis=0).astype(float).tolist(), high.max(axis=0).astype(float).tolist()
        return ImageMoments(counted.tolist() * self.channels, mean[0].tolist(), std[0].tolist(), low, high)

    @property
    def per_image(self) -> PerImage:
        """Return sums over images of per-image values, including images counted since the last access."""
        self._flush_small()
        return self._images.flushed()

    def add(self, other: "Integers", sign: int = 1) -> None:
        """Add the counts of other images, or subtract them with sign -1."""
        self.invalid = [a + sign * b for a, b in zip(self.invalid, other.invalid, strict=True)]
        if sign == 1:
            self._histogram += other.histogram
            self._images.add(other._images)
        else:
            self._histogram -= other.histogram
            self.per_image.add(other.per_image, sign)

    @property
    def images(self) -> int:
        """Return the number of images."""
        return self._images.images + len(self._small or ())

    @property
    def weights(self) -> list[int]:
        """Return the number of valid pixels per channel, times `unit`."""
        return [int(total) for total in self.histogram.sum(axis=1)]

    def sums(self, channel: int) -> tuple[int, int]:
        """Return sum and sum of squares of a channel's values, weighted, as Python integers."""
        return sums_of(self.histogram[channel])

    def range(self, channel: int) -> tuple[int, int] | None:
        """Return smallest and largest value of a channel; None if no sample is valid in it."""
        bins = np.flatnonzero(self.histogram[channel])
        return (int(bins[0]), int(bins[-1])) if len(bins) else None

    def is_valid(self) -> bool:
        """Return True if the counts can be those of images; false after a wrong subtraction."""
        weights, images = self.weights, self.per_image
        pixels = {weight + left_out for weight, left_out in zip(weights, self.invalid, strict=True)}
        counted = (self.histogram >= 0).all() and len(pixels) == 1 and min(self.invalid) >= 0
        some = [weight > 0 for weight in weights] == [n > 0 for n in images.counted]
        return bool(counted and some and images.is_valid(_BINS[self.dtype]))

    def is_empty(self) -> bool:
        """Return True if no image is left after subtraction."""
        return self.images == 0 and not self.histogram.any()

    def state(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "channels": self.channels,
            "dtype": self.dtype,
            "unit": self.unit,
            **({"invalid": self.invalid} if any(self.invalid) else {}),
            "histogram": [run_length_encode(row) for row in self.histogram.tolist()],
            "per_image": self.per_image.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Integers":
        """Rebuild from `state`."""
        channels, dtype, unit = len(state["histogram"]), state["dtype"], state["unit"]
        if channels != state["channels"] or dtype not in _BINS or unit not in (1, 255, 65535):
            raise ValueError("histograms of another number of channels, depth or weight")
        one = cls(channels, dtype, unit)
        one.histogram[:] = [run_length_decode(row, _BINS[one.dtype]) for row in state["histogram"]]
        one.invalid = per_channel(state.get("invalid", 0), channels)
        one._images.sums = PerImage.from_state(one.channels, IMAGE_BITS, state["per_image"])
        return one


@lru_cache(maxsize=256)
def _weight(pixels: int) -> Array:
    """Return the weights (1,1) of one image: most images have one of few sizes."""
    return np.array([[pixels]])


_MOST_ROWS = 1024  # arrays that wait, where images are added one by one


class ImageRows:
    """Sums over images of per-image values; images wait in rows, whose values are computed many at once.

    Attributes:
        sums: of the images that wait no longer.
    """

    def __init__(self, channels: int, bits: int, unit: int) -> None:
        self.sums = PerImage(channels, bits)
        self._unit = unit
        self._rows: list[tuple[Array, Array]] = []
        self._waiting = 0  # number of images in these rows

    def append(self, weights: Array, sums: Array) -> None:
        """Add images by their weights, (B,1) or (B,C), and sums of values and of squares (B,C,2)."""
        waiting = self._waiting + len(weights)
        self._rows.append((weights, sums))
        self._waiting = waiting

    def take_back(self) -> None:
        """Remove the images that were appended last."""
        self._waiting -= len(self._rows.pop()[0])

    def add(self, other: "ImageRows") -> None:
        """Add the images of another one."""
        self._rows += other._rows
        self._waiting += other._waiting
        if other.sums.images:
            self.sums.add(other.sums)
        if len(self._rows) > _MOST_ROWS:
            self.flushed()

    @property
    def images(self) -> int:
        """Return the number of images; below 0 after subtracting images that were not in it."""
        return self.sums.images + self._waiting

    def flushed(self) -> PerImage:
        """Return the sums of all images."""
        if self._rows:
            each = [row[0] for row in self._rows]
            width = max(row.shape[1] for row in each)  # 1 unless a channel has fewer valid pixels than another
            weights = np.concatenate(each if width == 1 else [np.broadcast_to(w, (len(w), width)) for w in each])
            values = image_values(weights, np.concatenate([row[1] for row in self._rows]), self._unit)
            self._rows.clear()
            self._waiting = 0
            self.sums.images += len(weights)
            several = weights > self._unit
            for c in range(self.sums.channels):
                self.sums.counted[c] += int(np.count_nonzero(weights[:, c % width]))
                self.sums.sampled[c] += int(np.count_nonzero(several[:, c % width]))
            rows = [v * several if name == "sample_std" else v for name, v in zip(PerImage.SUMS, values, strict=True)]
            for name, added in zip(self.sums.known, _scaled_sums(np.stack(rows), self.sums.bits), strict=False):
                setattr(self.sums, name, [*map(add, getattr(self.sums, name), added)])
        return self.sums


def _scaled_sums(values: Array, bits: int) -> list[list[int]]:
    """Return sums (N,C) over images of values (N,B,C), 0 or more, each in units of 2^-bits with the rest cut off.

    >>> _scaled_sums(np.array([[[0.75], [1.5]]]), 1)
    [[4]]
    """
    if values.shape[1] * float(values.max()) < 1 << 62 and bits > 32:
        above = np.floor(values)  # three parts that fit in int64, of which no rounding takes anything
        rest = np.ldexp(values - above, 32)
        middle = np.floor(rest)
        below = np.ldexp(rest - middle, bits - 32)
        parts = [part.astype(np.int64).sum(axis=1).tolist() for part in (above, middle, below)]
        return [
            [(a << bits) + (b << bits - 32) + c for a, b, c in zip(*row, strict=True)]
            for row in zip(*parts, strict=True)
        ]
    whole = np.ldexp(values, bits)
    return [[sum(map(int, column)) for column in row.T.tolist()] for row in whole]


def image_values(weights: Array, sums: Array, unit: int) -> tuple[Array, ...]:
    """Return per-image mean, std, N-1 std, variance, squared mean and scatter (B,C), from exact integers.

    n*q - s*s is exact: in int64 where it fits, else in Python's integers. Then follow one float64
    division and one square root, which IEEE 754 rounds alike on every machine. All are 0 where n is.
    """
    n, s, q = weights, sums[:, :, 0], sums[:, :, 1]
    if int(weights.max()) * int(q.max()) < 1 << 62:
        spread = (n * q - s * s).astype(np.float64)
    else:
        spread = (n.astype(object) * q.astype(object) - s.astype(object) ** 2).astype(np.float64)
    n_ = np.maximum(n, 1).astype(np.float64)
    roots = np.sqrt(spread)
    pairs = n_ * np.maximum(n - unit, 1).astype(np.float64)
    mean = s.astype(np.float64) / n_
    return mean, roots / n_, roots / np.sqrt(pairs), spread / (n_ * n_), mean * mean, spread / (n_ * float(unit))


def count_one(pixels: Array, weights: Array | None, own: Array) -> tuple[int, Array]:
    """Add one image (H,W,C), or no pixel at all, to a histogram (C,bins); return its weight and sums (C,2)."""
    if weights is not None:
        return _count_weighted(pixels, weights, own)
    sums = np.zeros((pixels.shape[2], 2), np.int64)
    if pixels.size:
        _count(pixels, own, sums)
    return pixels.shape[0] * pixels.shape[1], sums


def _count(pixels: Array, histogram: Array, sums: Array) -> None:
    """Add one integer image to a histogram (C,bins) and fill in its sums (C,2)."""
    from normcli.kernels.histograms import count_bytes, count_integers

    def fallback() -> None:
        own = _histogram_by_numpy(pixels)
        sums[:] = own @ _powers(own.shape[1])
        histogram[:] += own  # last, when nothing can fail any more

    def byte_arguments() -> tuple[Array, ...]:
        flat = pixels.reshape(-1)
        return flat, as_pairs(flat), histogram, sums, *tables()

    if pixels.dtype == np.uint8 and pixels.shape[2] <= 4:
        count_bytes.call_or(fallback, byte_arguments)
    else:
        count_integers.call_or(fallback, lambda: (contiguous(pixels).reshape(-1), histogram, sums))


class _BoundCall:
    """A call of `count_bytes` with memory that a thread keeps: 4 us less an image than through `Kernel`."""

    def __init__(self, histogram: Array, sums: Array, function: Callable[..., None], values: list[Any]) -> None:
        self._histogram, self._sums, self._function = histogram, sums[None], function
        self._address, self._kept = values[5], values[6:]  # behind those of pixels and pairs

    def count(self, pixels: Array, histogram: Array, sums: Array) -> None:
        """Add one image (H,W,C), its pairs as `as_pairs` has them, to a histogram (C,256); fill in its sums (1,C,2)."""
        if histogram is not self._histogram:
            self._histogram, self._address = histogram, address_of(histogram)
        address, size = address_of(pixels), pixels.size
        pairs = size // 12 if address % 2 == 0 and sys.byteorder == "little" else 0
        self._function(address, size, address, pairs, 6, self._address, *self._kept)
        sums[:] = self._sums


def _bound_call(channels: int) -> _BoundCall | None:
    """Return the call for images of so many channels, in memory of this thread; None until the kernel is loaded."""
    from normcli.kernels.histograms import count_bytes

    no_pixels, sums = np.empty(0, np.uint8), np.empty((channels, 2), np.int64)
    histogram = np.empty((channels, 256), np.int64)
    bound = count_bytes.bound(no_pixels, as_pairs(no_pixels), histogram, sums, *tables())
    if bound is None:
        return None
    call = _scratch.calls[channels] = _BoundCall(histogram, sums, *bound)
    return call


def is_small(pixels: Array) -> bool:
    """Return True for an image (H,W,C) that is counted together with others: alone, a call costs more than it."""
    return pixels.size <= MOST_SMALL and pixels.dtype.char == "B" and pixels.shape[2] in _MODES


_MODES = {1: "L", 3: "RGB"}


def histogram_of(samples: "bytes | Array", channels: int) -> Array:
    """Compute the histogram (C,256) of interleaved samples of one or three channels, by Pillow.

    >>> histogram_of(bytes([0, 255, 255]), 3)[:, 255].tolist()
    [0, 1, 1]
    """
    from PIL import Image  # 6 ms, which the kernels do without

    mode = _MODES[channels]
    image = Image.frombuffer(mode, (len(samples) // channels, 1), samples, "raw", mode, 0, 1)
    return np.array(image.histogram(), np.int64).reshape(channels, 256)


def _histogram_by_numpy(pixels: Array) -> Array:
    """Return the histogram (C,bins) of one image."""
    channels = pixels.shape[2]
    own: Array
    if pixels.dtype == np.uint8 and pixels.size <= _SMALL:
        bins = _scratch.bins[: pixels.size]
        np.add(pixels.reshape(-1), _offsets(channels)[: pixels.size], out=bins)
        own = np.bincount(bins, minlength=channels * 256).reshape(channels, 256)
    elif pixels.dtype == np.uint8 and channels in (1, 3):
        flat = pixels.reshape(-1)  # Pillow holds a pixel in 4 bytes: not a complete large image at once
        own = np.zeros((channels, 256), np.int64)
        for at in range(0, flat.size, _STRIP * channels):
            own += histogram_of(flat[at : at + _STRIP * channels], channels)
    else:
        levels = _BINS[pixels.dtype.name]
        own = np.zeros((channels, levels), np.int64)
        rows = max(1, _STRIP // pixels.shape[1])  # bincount makes int64 of what it counts
        for top in range(0, len(pixels), rows):
            for c in range(channels):
                own[c] += np.bincount(pixels[top : top + rows, :, c].reshape(-1), minlength=levels)
    return own


def _count_weighted(pixels: Array, weights: Array, histogram: Array) -> tuple[int, Array]:
    """Add one weighted image to a histogram (C,bins); return its weight, and sums (C,2) in Python integers.

    At 16 bits a weighted square has 48 bits: 33,000 bright pixels overflow an int64.
    """
    from normcli.kernels import histograms as loops

    own = np.zeros_like(histogram)
    flat = contiguous(pixels).reshape(-1)
    if not loops.count_weighted.try_call(flat, contiguous(weights).reshape(-1), own):
        for c in range(pixels.shape[2]):
            np.add.at(own[c], pixels[:, :, c].reshape(-1), weights.reshape(-1).astype(np.int64))
    histogram += own
    return int(own[0].sum()), np.array([sums_of(row) for row in own], dtype=object)


def sums_of(row: Array) -> tuple[int, int]:
    """Return sum and sum of squares of the values that a histogram's row counts, as Python integers."""
    bins = np.flatnonzero(row)
    total = squares = 0
    for value, count in zip(bins.tolist(), row[bins].tolist(), strict=True):
        total += value * count
        squares += value * value * count
    return total, squares


_STRIP = 1 << 20  # pixels
MOST_SMALL = 104 * 104 * 3  # samples, at most 2^15: see small_floats. From 40,000 on, an image alone is faster
_SMALL = 10_000  # samples; below it NumPy's bincount is faster than Pillow's histogram (8 us against 14 for 32x32)


class _Scratch(threading.local):
    """Reused memory of this thread: 24 KB of fresh memory take 14 us to be faulted in."""

    def __init__(self) -> None:
        self.bins = np.empty(_SMALL, np.int64)
        self.tables = np.empty((3, 1 << 16), np.uint8), np.empty((6, 256), np.uint32)
        self.calls: dict[int, _BoundCall] = {}  # by channels


_scratch = _Scratch()


def tables() -> tuple[Array, Array]:
    """Return memory of this thread for `count_bytes`: uint8 (3,65536) and uint32 (6,256)."""
    return _scratch.tables


@cache
def _offsets(channels: int) -> Array:
    """Return for each of `_SMALL` interleaved samples the first of the 256 bins of its channel."""
    return np.resize(np.arange(channels) * 256, _SMALL)


@cache
def _powers(bins: int) -> Array:
    """Return values and their squares (bins,2)."""
    values = np.arange(bins, dtype=np.int64)
    return np.stack([values, values * values], axis=1)
