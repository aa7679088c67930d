"""Confidence intervals of mean and std of a sample of images.

Images are the units that were drawn, never pixels, so pixels that resemble each other within an image are accounted
for; mean and std are ratios of sums over images (Cochran, Sampling Techniques, 3rd ed., section 6.4). Images differ in
size, and brightness may go by size: so the spread is that within classes of size, whose pixels are known from the
headers of all images (section 5.3), and the interval reaches from the mean of the sample to the weighted mean of the
classes and beyond.
"""

import math
from array import array
from typing import Any, NamedTuple

import numpy as np

from normcli.runs.image_sizes import SizeClass, SizeClasses, class_of
from normcli.summary.summary import source_channels

Array = np.ndarray[Any, Any]

_FEW = 6  # images of a class below which their own spread tells nothing
_UNSEEN = 1.5  # times ln(1/error): a kind of which one image was seen is as uncertain as one that was not


class Intervals:
    """Confidence intervals of mean and std from single images' weights, means and means of squares.

    Args:
        confidence: of all intervals together.
    """

    def __init__(self, confidence: float) -> None:
        self._confidence = confidence
        self._rows: dict[int, array[float]] = {}
        self._low, self._high = 0.0, 1.0

    def add(
        self,
        weight: float | list[float],
        means: list[float],
        seconds: list[float],
        low: float,
        high: float,
        pixels: int | None = None,
    ) -> None:
        """Add one image: its weights, E[x] and E[x^2] per channel, its range, and its pixels (default: its weight)."""
        weights = weight if isinstance(weight, list) else [weight] * len(means)
        size = max(weights) if pixels is None else pixels
        self._rows.setdefault(len(means), array("d")).extend([size, *weights, *means, *seconds])
        self._low, self._high = min(self._low, low), max(self._high, high)

    def widths(
        self, read: int, of: int, channels: int, sizes: SizeClasses | None = None
    ) -> tuple[list[float], list[float]] | None:
        """Return half-widths for every channel's mean and std; None from fewer than two images.

        Args:
            read: inputs read, including those that failed.
            of: all inputs.
            channels: of the result; gray stands for each color.
            sizes: of all inputs; None where all are of one class.
        """
        rows = np.concatenate([_widened(values, count, channels) for count, values in sorted(self._rows.items())])
        if len(rows) < 2:
            return None
        if read >= of:
            return [0.0] * channels, [0.0] * channels
        weights, means, seconds = rows[:, 1 : 1 + channels], rows[:, 1 + channels : -channels], rows[:, -channels:]
        if (weights == weights[:, :1]).all():
            return self._of_channels((rows[:, 0], weights[:, :1], means, seconds), of, channels, sizes)
        each: tuple[list[float], list[float]] = [], []
        for c in range(channels):  # an image counts only where it has a valid pixel
            seen = weights[:, c] > 0
            if np.count_nonzero(seen) < 2:
                return None
            columns = [column[seen, c : c + 1] for column in (weights, means, seconds)]
            own = self._of_channels((rows[seen, 0], *columns), of, channels, sizes)
            each[0].extend(own[0])
            each[1].extend(own[1])
        return each

    def _of_channels(
        self, columns: tuple[Array, Array, Array, Array], of: int, channels: int, sizes: SizeClasses | None
    ) -> tuple[list[float], list[float]]:
        """Return half-widths for channels of equal weights, of `channels` whose confidence is joint.

        Args:
            columns: of every image its pixels (N), its weight (N,1), E[x] and E[x^2] of these channels (N,K).
            of: all inputs.
            channels: number of channels of the result.
            sizes: of all inputs.
        """
        pixels, weight, mean_of, second_of = columns
        total = weight.sum()
        mean = (weight * mean_of).sum(0) / total
        deviation = second_of - 2 * mean * mean_of + mean**2  # E[(x - mean)^2] of each image
        variance = (weight * deviation).sum(0) / total
        error = 1 - self._confidence
        strata = _strata(pixels, weight[:, 0], of, sizes)
        budget = _UNSEEN * math.log(1 / error)
        share = unseen_share(strata, budget)
        farthest = np.maximum(mean - self._low, self._high - mean)
        quantile = _normal(1 - error / (4 * channels))  # two sides, mean and std of each channel
        of_mean = _width(strata, weight, mean_of, mean, farthest, quantile) + share * farthest
        of_variance = _width(strata, weight, deviation, variance, farthest**2, quantile) + share * farthest**2
        of_variance += _shift(strata, weight, mean_of, mean) ** 2
        std = np.sqrt(variance)
        # sqrt(v + d) - sqrt(v) and sqrt(v) - sqrt(v - d), whichever is wider
        below = std - np.sqrt(np.maximum(variance - of_variance, 0))
        above = np.sqrt(variance + of_variance) - std
        return of_mean.tolist(), np.maximum(below, above).tolist()


class Stratum(NamedTuple):
    """One class of sizes.

    Attributes:
        share: of its images among all pixels.
        images: their number.
        members: rows of those that were read.
        largest: share of its largest image among all pixels.
    """

    share: float
    images: int
    members: Array
    largest: float

    @property
    def left(self) -> float:
        """Return the share of its images that were not read."""
        return max(0.0, 1 - len(self.members) / max(self.images, 1))


def _strata(pixels: Array, weight: Array, of: int, sizes: SizeClasses | None) -> list[Stratum]:
    """Return the classes of sizes, with the rows of each."""
    if sizes is None:
        concentrated = len(weight) * float((weight**2).sum()) / float(weight.sum()) ** 2
        return [Stratum(1.0, of, np.arange(len(weight)), concentrated / of)]
    classes = np.array([class_of(int(p)) for p in pixels.tolist()])
    known = {**sizes.classes}
    for number in set(classes.tolist()) - set(known):  # an image of another size than its header says
        own = pixels[classes == number]
        known[number] = SizeClass(len(own), int(own.sum()), int(own.max()))
    if sizes.unknown:
        largest = max(entry.largest for entry in known.values())
        known[_UNKNOWN] = SizeClass(sizes.unknown, sizes.unknown * largest, largest)
    entries = []
    for number, entry in sorted(known.items()):
        members = np.flatnonzero(classes == number)
        density = float(weight[members].sum() / pixels[members].sum()) if len(members) else 1.0
        entries.append((entry, members, entry.pixels * density))
    total = sum(part for _, _, part in entries) or 1.0
    return [
        Stratum(part / total, max(entry.images, len(members)), members, part / total * entry.largest / entry.pixels)
        for entry, members, part in entries
        if part
    ]


_UNKNOWN = -1  # the class of images whose header says no size


def unseen_share(strata: list[Stratum], budget: float) -> float:
    """Return the largest share of pixels of a kind of image of which the sample need not hold one.

    An image of a class of which a part r was read is missed with probability 1 - r: the sum of -log(1 - r) over all
    images of the kind is within the budget, the logarithm of the error. The kind hides where it has most pixels.

    >>> round(unseen_share([Stratum(1.0, 10_000, np.arange(100), 1e-4)], 5.0), 4)
    0.0497
    >>> unseen_share([Stratum(0.5, 100, np.arange(99), 0.005), Stratum(0.5, 3, np.arange(0), 0.2)], 5.0)
    0.505
    """
    share = 0.0
    for stratum in sorted(strata, key=lambda s: s.largest / -math.log(s.left or 1e-300) if s.left < 1 else math.inf)[
        ::-1
    ]:
        unread = stratum.images - len(stratum.members)
        if not len(stratum.members):
            share += stratum.share
        elif unread:
            hidden = min(unread, int(budget / -math.log(stratum.left)))
            budget += hidden * math.log(stratum.left)
            share += min(hidden * stratum.largest, stratum.share)
    return min(share, 1.0)


def _width(
    strata: list[Stratum], weight: Array, values: Array, average: Array, farthest: Array, quantile: float
) -> Array:
    """Return the half-width of the interval of the mean, without the share of images of kinds that were not sampled."""
    squares = np.zeros_like(average)
    for stratum in strata:
        number = len(stratum.members)
        if not number:
            continue  # its pixels are among those that were not seen
        own, of_own = weight[stratum.members], values[stratum.members]
        if number < _FEW:
            spread = farthest * math.sqrt(stratum.left / number) * np.ones_like(average)
        else:
            center = (own * of_own).sum(0) / own.sum()
            of_ratio = ((own * (of_own - center)) ** 2).sum(0) * number / (number - 1) * stratum.left
            # the quantile of Student's t for its number of images, in units of the normal's
            spread = np.sqrt(of_ratio) / own.sum() * _student(quantile, number - 1) / quantile
        squares += (stratum.share * spread) ** 2
    return _shift(strata, weight, values, average) + quantile * np.sqrt(squares)


def _shift(strata: list[Stratum], weight: Array, values: Array, average: Array) -> Array:
    """Return how far the mean of the classes, each by its pixels, is from the mean of the sample."""
    if len(strata) == 1:
        return np.zeros_like(average)
    shifted = np.zeros_like(average)
    for stratum in strata:
        own = weight[stratum.members]
        center = (own * values[stratum.members]).sum(0) / own.sum() if len(own) else average
        shifted += stratum.share * center
    return np.asarray(np.abs(shifted - average))


def _widened(values: "array[float]", count: int, channels: int) -> Array:
    rows = np.frombuffer(values, np.float64).reshape(-1, 1 + 3 * count)
    if count == channels:
        return rows
    source = source_channels(count, channels)
    return rows[:, [0, *(1 + block * count + i for block in range(3) for i in source)]]


def _normal(probability: float) -> float:
    from statistics import NormalDist  # 1 ms at every start

    return NormalDist().inv_cdf(probability)


def _student(z: float, freedom: int) -> float:
    """Return Student's quantile for the normal's, z: Cornish and Fisher's expansion, within 0.1% from 10 degrees."""
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
