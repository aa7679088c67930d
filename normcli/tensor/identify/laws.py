"""Statistics of a set that a normalizer divides by, and the epsilon that they leave open."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from normcli.tensor.identify.partition import Partition
from normcli.tensor.normalizers.lp import expected_maximum, gauss_constant, hoffer_constant
from normcli.tensor.normalizers.views import Array

# where epsilon is -> the divisor of a set with statistic s
PLACES = {
    "inside": "sqrt(s^2 + eps)",
    "outside": "s + eps",
    "floor": "max(s, eps)",
    "floor of the square": "sqrt(max(s^2, eps))",
}

_LARGEST = 10  # deviations that the formula topk averages


class Statistic(NamedTuple):
    """A statistic of a set.

    Attributes:
        name: std, rms, l1, l2, linf, or a formula of lp_batch_norm.
        centered: of the deviations from the mean, which are also the dividend.
        of: rows of deviations (or elements), the elements themselves -> the statistic of each row.
        variance: biased or unbiased, for std.
        batch_only: tried only where a set is a channel of the batch.
    """

    name: str
    centered: bool
    of: Callable[[Array, Array], Array]
    variance: str | None = None
    batch_only: bool = False


def _std(z: Array, x: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(z * z, axis=1)))


def _unbiased(z: Array, x: Array) -> Array:
    return np.sqrt((z * z).sum(axis=1) / (z.shape[1] - 1)) if z.shape[1] > 1 else np.full(len(z), np.nan)


def _l1(z: Array, x: Array) -> Array:
    return np.asarray(np.abs(z).sum(axis=1))


def _l2(z: Array, x: Array) -> Array:
    return np.asarray(np.sqrt((z * z).sum(axis=1)))


def _power_sum(p: float) -> Callable[[Array, Array], Array]:
    """Return the Lp norm of rows as a statistic."""
    return lambda z, x: np.asarray((np.abs(z) ** p).sum(axis=1) ** (1.0 / p))


def _power_mean(p: float) -> Callable[[Array, Array], Array]:
    """Return (mean |z|^p)^(1/p) of rows as a statistic."""
    return lambda z, x: np.asarray((np.abs(z) ** p).mean(axis=1) ** (1.0 / p))


def _gauss(p: float) -> Callable[[Array, Array], Array]:
    """Return a statistic: the std of a Gaussian that has the mean power p of a set."""
    return lambda z, x: gauss_constant(p) * _power_mean(p)(z, x)


def _linf(z: Array, x: Array) -> Array:
    return np.asarray(np.abs(z).max(axis=1, initial=0.0))


def _hoffer(z: Array, x: Array) -> Array:
    return hoffer_constant(z.shape[1]) * _linf(z, x) if z.shape[1] > 1 else np.full(len(z), np.nan)


def _topk(z: Array, x: Array) -> Array:
    if z.shape[1] < 2:
        return np.full(len(z), np.nan)
    k = min(_LARGEST, z.shape[1])
    largest = np.partition(np.abs(z), z.shape[1] - k, axis=1)[:, -k:]
    return np.asarray(hoffer_constant(z.shape[1]) * largest.mean(axis=1))


STATISTICS = (
    Statistic("std", True, _std, "biased"),
    Statistic("std", True, _unbiased, "unbiased"),
    Statistic("l2", True, _l2),
    *(Statistic(f"lp-gauss p={p}", True, _gauss(p), batch_only=True) for p in (1, 3, 4)),
    *(Statistic(f"lp p={p}", True, _power_mean(p), batch_only=True) for p in (1, 3, 4)),
    Statistic("lp p=inf", True, _linf, batch_only=True),
    Statistic("linf-hoffer", True, _hoffer, batch_only=True),
    Statistic("linf-exact", True, lambda z, x: _linf(z, x) / expected_maximum(z.shape[1]), batch_only=True),
    Statistic("topk", True, _topk, batch_only=True),
    Statistic("santurkar p=1", True, lambda z, x: _power_mean(1)(x, x), batch_only=True),
    Statistic("santurkar p=2", True, lambda z, x: _std(x, x), batch_only=True),
    Statistic("santurkar p=inf", True, lambda z, x: _linf(x, x), batch_only=True),
    Statistic("rms", False, _std),
    Statistic("l2", False, _l2),
    Statistic("l1", False, _l1),
    Statistic("linf", False, _linf),
    *(Statistic(f"l{p}", False, _power_sum(p)) for p in (3, 4)),
    Statistic("std", False, lambda z, x: _std(x - x.mean(axis=1, keepdims=True), x), "biased"),
)


class Epsilon(NamedTuple):
    """The range of epsilon that fits, with its place.

    Attributes:
        low, high: ends; low is 0 where it is too small to see.
        place: a key of PLACES; None where it is too small to see: then `high` is the end inside the root.
        outside_high: the end outside the root, where it is too small to see.
    """

    low: float
    high: float
    place: str | None
    outside_high: float = 0.0

    @property
    def value(self) -> float:
        """Return the simplest number of the range."""
        return simplest(self.low, self.high)

    @property
    def seen(self) -> bool:
        """Return True if the range leaves one round number, or hardly any room."""
        return self.low > 0 and self.high <= 1.6 * self.low and _round_numbers(self.low, self.high) <= 1


def simplest(low: float, high: float) -> float:
    """Return the number of a range with the fewest digits, or the machine epsilon of a type.

    >>> simplest(9.9e-6, 1.02e-5), simplest(1.18e-7, 1.195e-7), simplest(0.0, 1e-8)
    (1e-05, 1.1920928955078125e-07, 0.0)
    """
    if low <= 0 or not math.isfinite(high):
        return max(low, 0.0)
    if not _round_numbers(low, high):
        for eps in (float(np.finfo(kind).eps) for kind in (np.float32, np.float64, np.float16)):
            if low <= eps <= high:
                return eps
    middle = math.sqrt(low) * math.sqrt(high)
    for digits in range(17):
        for value in (middle, low, high):
            if low <= (rounded := float(f"{value:.{digits}e}")) <= high:
                return rounded
    return middle


def _round_numbers(low: float, high: float) -> int:
    """Return the count of one-digit numbers in a range; 2 is any count above 1."""
    if low <= 0:
        return 2
    exponent = math.floor(math.log10(low))
    if high > 100 * low:
        return 2
    numbers = [float(f"{d}e{e}") for e in (exponent, exponent + 1) for d in range(1, 10)]
    return sum(low <= number <= high for number in numbers)


def epsilons(s: Array, low: Array, high: Array, slack: float) -> Iterator[Epsilon]:
    """Yield the ranges of epsilon for which every divisor is in bounds; if none is `seen`, one without a place.

    Args:
        s: statistic of each set.
        low: smallest reciprocal divisor of each set.
        high: largest.
        slack: relative error of the divisor.
    """
    with np.errstate(all="ignore"):
        smallest, largest = (1.0 - slack) / high, (1.0 + slack) / low
        ranges = {
            "inside": _sum_range(s * s, smallest**2, largest**2),
            "outside": _sum_range(s, smallest, largest),
            "floor": _floor_range(s, smallest, largest),
            "floor of the square": _floor_range(s * s, smallest**2, largest**2),
        }
    fits = {place: (a, b) for place, (a, b) in ranges.items() if a <= b}
    if "inside" in fits and fits["inside"][0] <= 0.0:
        yield Epsilon(0.0, fits["inside"][1], None, fits.get("outside", (0.0, 0.0))[1])
        return
    if len(s) == 1 and not any(_round_numbers(a, b) for a, b in fits.values()):
        return  # some epsilon explains any divisor of a single set
    for place, (a, b) in fits.items():
        yield Epsilon(a, b, place)


def _sum_range(s: Array, smallest: Array, largest: Array) -> tuple[float, float]:
    """Return the eps with smallest <= s + eps <= largest for every set."""
    low, high = smallest - s, largest - s
    return max(0.0, float(np.nanmax(low, initial=0.0))), float(np.nanmin(high, initial=np.inf))


def _floor_range(s: Array, smallest: Array, largest: Array) -> tuple[float, float]:
    """Return the eps with smallest <= max(s, eps) <= largest for every set."""
    if (s > largest).any():
        return 1.0, 0.0
    short = smallest[s < smallest]
    if short.size == np.count_nonzero(~np.isnan(s)):
        return 1.0, 0.0  # every set would be divided by the same number, whatever its statistic
    return float(short.max(initial=0.0)), float(np.nanmin(largest, initial=np.inf))


def statistics_of(partition: Partition) -> list[Statistic]:
    """Return the statistics to try on a partition."""
    batch = partition.channel is not None and partition.split is None and 0 in partition.axes
    scaled = 0 not in partition.axes  # Keras' rms_scaling, of its layer normalization
    return [
        one for one in STATISTICS if (batch or not one.batch_only) and (scaled or one.centered or one.name != "std")
    ]
