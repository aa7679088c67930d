"""Estimates from a random sample of the images, with confidence intervals.

Which images: those whose names hash lowest, so the choice depends on the seed and the names alone. The sizes of all
images are read from their headers, since a few large ones can hold most of the pixels: see `runs.intervals`.
"""

import hashlib
import heapq
import math
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from normcli.options.shared import DecodeOptions
from normcli.options.stats import SampleOptions
from normcli.runs.count import IntervalRow
from normcli.runs.image_sizes import SizeClasses, measure
from normcli.runs.intervals import Intervals
from normcli.sources import FailingSource, Item, Skipped
from normcli.summary import Summary

_FIRST_CHECKPOINT = 50  # images before the first look at the interval
_GROWTH = 1.2  # of the number read between two looks
_PASS = 20_000  # items in random order that one walk over the listing yields
_PASS_HELD = 256 << 20  # bytes of streamed members among them

Source = Callable[[], Iterator[Item | Skipped]]


class SamplePlan(NamedTuple):
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
    """Return the place of a name in the random order: a hash of name and seed, below 2^64."""
    text = key.encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8, key=str(seed).encode()[:64]).digest()
    return int.from_bytes(digest, "big")


class Sample:
    """The images that are read, and their number among all.

    Args:
        plan: size of the sample.
        source: walks over the listing, anew with every call.
        reading: decoding of images, whose size after resizing and cropping counts.

    Attributes:
        of: number of images that could be read.
        sizes: of all of them, by their headers; complete when the first item comes.
    """

    def __init__(self, plan: SamplePlan, source: Source, reading: DecodeOptions) -> None:
        self.plan, self._source, self._reading = plan, source, reading
        self.of = 0
        self.sizes = SizeClasses()
        self.refused = 0

    def items(self) -> Iterator[Item | Skipped]:
        """Yield the items of the sample, and every item that was skipped or failed in listing."""
        return self._shuffled() if self.plan.margin is not None else self._chosen()

    def _chosen(self) -> Iterator[Item | Skipped]:
        """Yield the items of the lowest ranks, in the order of the listing: two walks, 8 bytes an item."""
        ranks = array("Q", (rank(item.key, self.plan.seed) for item in self._measured()))
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

    def _measured(self) -> Iterator[Item]:
        """Yield the items that can be read, and take in their sizes."""
        return measure((item for item in self._source() if _is_open(item)), self.sizes, self._reading)  # type: ignore[misc]

    def _shuffled(self) -> Iterator[Item | Skipped]:
        """Yield all items by their rank, as many in memory as one pass takes."""
        for _ in self._measured():
            pass
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
        sample: items to read.
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
        widths = self._intervals.widths(images, self._sample.of, channels, self._sample.sizes)
        return widths is not None and max(widths[0] + widths[1]) <= margin

    def report(self, summary: Summary, read: int) -> None:
        """Add the size of the sample and the intervals to a summary."""
        sample, plan = self._sample, self._sample.plan
        widths = self._intervals.widths(read, sample.of, len(summary.channels), sample.sizes)
        report: dict[str, Any] = {"read": read, "of": sample.of, "confidence": plan.confidence}
        for name, width in zip(("mean", "std"), widths or (None, None), strict=True):
            values = getattr(summary, name)
            report[f"{name}_interval"] = width and [[v - w, v + w] for v, w in zip(values, width, strict=True)]
        summary.sample = report
        if read == sample.of:  # nothing was left out: this is no estimate
            summary.settings.pop("sample", None)
