"""Estimates from a random sample of the images, with confidence intervals.

Which images: those whose names hash lowest, so the choice depends on the seed and the names alone. How far off:
images are the units that were drawn, never pixels, so pixels that resemble each other within an image are
accounted for; mean and std are ratios of sums over images (Cochran, Sampling Techniques, 3rd ed., section 6.4).
"""

import hashlib
import heapq
import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from normcli.options.stats import SampleOptions
from normcli.runs.count import IntervalRow
from normcli.sources import FailingSource, Item, Skipped
from normcli.summary import Summary
from normcli.summary.summary import source_channels

_FIRST_CHECKPOINT = 50  # images before the first look at the interval
_GROWTH = 1.2  # of the number read between two looks
_PASS = 20_000  # items in random order that one walk over the listing gives
_PASS_HELD = 256 << 20  # bytes of streamed members among them

Source = Callable[[], Iterator[Item | Skipped]]


@dataclass(frozen=True)
class SamplePlan:
    """The size of a sample: a number, a share, or as many images as a margin requires.

    Attributes:
        number: images to read.
        share: or the share of all images.
        margin: or until the intervals of every channel's mean and std are within it.
        confidence: of the intervals, all of them together.
        seed: of the random choice.
    """

    number: int | None = None
    share: float | None = None
    margin: float | None = None
    confidence: float = 0.99
    seed: int = 0

    @classmethod
    def of(cls, options: SampleOptions) -> "SamplePlan":
        """Return the plan of the options of an estimate."""
        number, share = (None, None) if options.sample is None else options.sample_size()
        return cls(number, share, options.margin, options.confidence, options.seed)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the statistics file records."""
        settings = {"number": self.number, "share": self.share, "margin": self.margin}
        return {**{k: v for k, v in settings.items() if v is not None}, "seed": self.seed}


def rank(key: str, seed: int) -> int:
    """The place of a name in the random order: a hash of name and seed, below 2^64."""
    text = key.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8, key=str(seed).encode()[:64]).digest()
    return int.from_bytes(digest, "big")


class Sample:
    """The images that are read, and their number among all.

    Args:
        plan: how many.
        source: walks over the listing, anew with every call.
    """

    def __init__(self, plan: SamplePlan, source: Source) -> None:
        self.plan, self._source = plan, source
        self.of = 0
        self.refused = 0

    def items(self) -> Iterator[Item | Skipped]:
        """Yield the items of the sample, and every item that was skipped or failed in listing."""
        return self._shuffled() if self.plan.margin is not None else self._chosen()

    def _chosen(self) -> Iterator[Item | Skipped]:
        """The lowest ranks, in the order of the listing: two walks, 8 bytes an item."""
        ranks = array("Q", (rank(item.key, self.plan.seed) for item in self._source() if _is_open(item)))
        self.of = len(ranks)
        number = self.plan.number
        if number is None:
            number = math.ceil((self.plan.share or 1) * len(ranks))
        highest = 1 << 64
        if number < len(ranks):
            highest = int(np.partition(np.frombuffer(ranks, np.uint64), number - 1)[number - 1])
        for item in self._source():
            if not _is_open(item):
                self.refused += isinstance(item, Item)
                yield item
            elif rank(item.key, self.plan.seed) <= highest:
                yield item

    def _shuffled(self) -> Iterator[Item | Skipped]:
        """All items by their rank, as many in memory as one pass takes."""
        after = -1
        while True:
            heap: list[tuple[int, int, Item]] = []  # the lowest ranks above `after`, the highest of them first
            memory = count = 0
            dropped = False
            for item in self._source():
                if not isinstance(item, Item) or not _is_open(item):
                    if after < 0:
                        self.refused += isinstance(item, Item)
                        yield item
                    continue
                count += 1
                place = rank(item.key, self.plan.seed)
                if place <= after or (dropped and place >= -heap[0][0]):
                    continue
                heapq.heappush(heap, (-place, count, item))
                memory += getattr(item.load, "memory_bytes", 0)
                while len(heap) > 1 and (len(heap) > _PASS or memory > _PASS_HELD):
                    memory -= getattr(heapq.heappop(heap)[2].load, "memory_bytes", 0)
                    dropped = True
            self.of = count
            for _, _, item in sorted(heap, key=lambda entry: (-entry[0], entry[1])):
                yield item
            if not dropped:
                return
            after = -heap[0][0]


def _is_open(item: Item | Skipped) -> bool:
    return isinstance(item, Item) and not isinstance(item.load, FailingSource)


def checkpoints() -> Iterator[int]:
    """Yield the numbers of inputs after which intervals are checked, for all engines the same: they stop alike."""
    number = float(_FIRST_CHECKPOINT)
    while True:
        yield int(number)
        number *= _GROWTH


class StoppingRule:
    """Sequential stopping rule: ends a run when every interval is within the margin.

    Args:
        sample: what is read.
    """

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._intervals = Intervals(sample.plan.confidence)
        self._checkpoints = checkpoints()
        self._next = next(self._checkpoints)

    def add(self, rows: list[IntervalRow]) -> None:
        """Take in single images."""
        for one in rows:
            self._intervals.add(*one)

    def should_stop(self, inputs: int, images: int, channels: int) -> bool:
        """Return True if every interval is within the margin after so many inputs."""
        margin = self._sample.plan.margin
        if margin is None or inputs < self._next:
            return False
        while self._next <= inputs:
            self._next = next(self._checkpoints)
        widths = self._intervals.widths(images, self._sample.of, channels)
        return widths is not None and max(widths[0] + widths[1]) <= margin

    def report(self, summary: Summary, read: int) -> None:
        """Add the size of the sample and the intervals to a summary."""
        sample, plan = self._sample, self._sample.plan
        widths = self._intervals.widths(read, sample.of, len(summary.channels))
        report: dict[str, Any] = {"read": read, "of": sample.of, "confidence": plan.confidence}
        for name, width in zip(("mean", "std"), widths or (None, None), strict=True):
            values = getattr(summary, name)
            report[f"{name}_interval"] = width and [[v - w, v + w] for v, w in zip(values, width, strict=True)]
        summary.sample = report
        if read == sample.of:  # nothing was left out: this is no estimate
            summary.settings.pop("sample", None)


class Intervals:
    """Confidence intervals of mean and std from single images' weights, means and means of squares."""

    def __init__(self, confidence: float) -> None:
        self._confidence = confidence
        self._rows: dict[int, array[float]] = {}
        self._low, self._high = 0.0, 1.0

    def add(self, weight: float, means: list[float], seconds: list[float], low: float, high: float) -> None:
        """Add one image: its weight, E[x] and E[x^2] per channel, and its range."""
        self._rows.setdefault(len(means), array("d")).extend([weight, *means, *seconds])
        self._low, self._high = min(self._low, low), max(self._high, high)

    def widths(self, read: int, of: int, channels: int) -> tuple[list[float], list[float]] | None:
        """Half-widths for every channel's mean and std; None from fewer than two images.

        Args:
            read: inputs read, including those that failed.
            of: all inputs.
            channels: of the result; gray stands for each colour.
        """
        rows = np.concatenate([_widened(values, count, channels) for count, values in sorted(self._rows.items())])
        number = len(rows)
        if number < 2:
            return None
        weight, mean_of, second_of = rows[:, :1], rows[:, 1 : 1 + channels], rows[:, 1 + channels :]
        total = weight.sum()
        mean = (weight * mean_of).sum(0) / total
        deviation = second_of - 2 * mean * mean_of + mean**2  # E[(x - mean)^2] of each image
        variance = (weight * deviation).sum(0) / total
        left = max(0.0, 1 - read / of)
        error = 1 - self._confidence
        quantile = _student(1 - error / (4 * channels), number - 1)  # two sides, mean and std of each channel
        factor = quantile * math.sqrt(left * number / (number - 1)) / total
        of_mean = factor * np.sqrt(((weight * (mean_of - mean)) ** 2).sum(0))
        of_variance = factor * np.sqrt(((weight * (deviation - variance)) ** 2).sum(0))
        # What was not seen at all has no part in the spread above: a kind of image that makes up ln(1/error)/n
        # of the pixels is missed by all n with probability `error`. It can be as far away as the range allows.
        share = left * math.log(1 / error) * float((weight**2).sum()) / float(total) ** 2
        farthest = np.maximum(mean - self._low, self._high - mean)
        of_mean += share * farthest
        of_variance += share * farthest**2
        std = np.sqrt(variance)
        # sqrt(v + d) - sqrt(v) and sqrt(v) - sqrt(v - d), whichever is wider
        below = std - np.sqrt(np.maximum(variance - of_variance, 0))
        above = np.sqrt(variance + of_variance) - std
        return of_mean.tolist(), np.maximum(below, above).tolist()


def _widened(values: "array[float]", count: int, channels: int) -> np.ndarray[Any, Any]:
    rows = np.frombuffer(values, np.float64).reshape(-1, 1 + 2 * count)
    if count == channels:
        return rows
    source = source_channels(count, channels)
    return rows[:, [0, *(1 + i for i in source), *(1 + count + i for i in source)]]


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's t: Cornish and Fisher's expansion, within 0.1% from 10 degrees of freedom."""
    from statistics import NormalDist  # 1 ms at every start

    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
