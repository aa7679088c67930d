"""Counting of Python objects: one array after the other, or all samples of an iterable.

The counts are those of `stats`: a `Counter` adds and merges them, and `count` is `stats` with samples for files.
"""

import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from normcli import images
from normcli.errors import InputError, NoInputError, UsageError, in_python, naming_parameters
from normcli.options.field import make, parse_level
from normcli.options.samples import CounterOptions, IterableOptions
from normcli.options.shared import DecodeOptions
from normcli.options.stats import StatsOptions
from normcli.runs.count import Failure, PartialResult, WorkerOptions, count_batch, merge
from normcli.runs.stats import settings_of, stats
from normcli.sources import Item, samples
from normcli.sources.samples import Dataset as Dataset
from normcli.summary import Summary
from normcli.summary.conventions import check_shared_channels


class Counter:
    """Exact counts of images that Python code has at hand, one array or batch at a time.

    The state is that of `normcli stats` over the same arrays, bit for bit, in any order and however they are split over
    counters. Counters add, pickle, and may be used by several threads. They read each array once, so percentiles
    of float images and vectors have 8 significant bits; `exact_percentiles` of `count` and `stats` makes them exact.

    >>> import numpy as np
    >>> counter = Counter()
    >>> counter.add(np.zeros((8, 8, 3), np.uint8)), counter.add(np.full((2, 8, 8, 3), 255, np.uint8))
    (1, 2)
    >>> counter.summary().images, counter.summary().mean[0]
    (3, 0.6666666666666666)

    Args:
        keywords: layout, max_value, nan, color, alpha, resize, ...: those of `normcli.stats` for decoding and values,
            and `layout`, the axes of arrays.

    Raises:
        UsageError: an option's value that is not allowed.
    """

    def __init__(self, **keywords: Any) -> None:
        self._options = make(CounterOptions, "Counter", keywords)
        self._worker = _worker_of(self._options)
        self._result = PartialResult()
        self._lock = threading.Lock()

    @naming_parameters
    def add(
        self, image: Any, *, key: str | None = None, group: str | None = None, weight: Any = None, mask: Any = None
    ) -> int:
        """Count an image or a batch.

        Args:
            image: array (H,W), (H,W,C), (C,H,W) or a batch (N,...), of uint8, uint16, other integers or float; with
                layout "nc" vectors (N,C), (T,C) or (C); a torch tensor on the CPU; a Pillow image; or the bytes of an
                image file.
            key: name for errors; by default its number.
            group: the group that it belongs to, if any.
            weight: weights of pixels, (H,W) or (N,H,W), of the image's unsigned type: 0 is none, 255 or 65535 full, as
                an alpha channel with alpha="weight".
            mask: bool or integers, (H,W) or with the axes of the image: a sample counts where it is not 0. A batch has
                a batch of masks.

        Returns:
            The number of images counted, or of vectors.

        Raises:
            InputError: an image that `normcli stats` would fail; nothing of a batch is counted then.
            UsageError: axes that the sizes leave open, or other channels than before.
        """
        result = self._count(image, key, group, weight, mask)
        if result.failures:
            failure = result.failures[0]
            raise InputError(failure.reason, f"{failure.key}: {failure.message}")
        self._merge(result)
        return result.inputs

    def _count(self, image: Any, key: str | None, group: str | None, weight: Any, mask: Any) -> PartialResult:
        name = str(self._result.inputs) if key is None else key
        pictures = list(samples.images_of(image, self._options.layout))
        if self._options.layout == "nc":
            start = self._result.inputs if key is None else 0
            pictures = [one._replace(path=key or "", first=start) for one in pictures]
        items: list[Any] = [Item(name, samples.ArrayInMemory(one), group) for one in pictures]
        worker = self._worker if group is None else self._worker._replace(group_by="label")
        if weight is None and mask is None:
            return count_batch(worker, items)
        if self._options.has_geometry or self._options.layout == "nc":
            raise UsageError("`mask` and `weight` cannot be combined with `resize`, `center_crop` or vectors")
        from normcli.runs.array_masks import ArrayMask, split

        is_batch = len(items) != 1 or getattr(image, "ndim", 0) == getattr(pictures[0], "ndim", 0) + 1
        each = zip(*(split(value, len(items), is_batch) for value in (mask, weight)), strict=True)
        pairs = zip(items, each, strict=True)
        return merge([count_batch(worker._replace(mask=ArrayMask(*one)), [item]) for item, one in pairs])

    def merge(self, other: "Counter") -> None:
        """Add the counts of another counter.

        Raises:
            UsageError: other options, or other channels.
        """
        if other._options != self._options:
            raise UsageError("counters with other options cannot be added")
        self._merge(other._result)

    def __add__(self, other: "Counter") -> "Counter":
        total = Counter(**self._options.as_dict())
        total.merge(self)
        total.merge(other)
        return total

    def __iadd__(self, other: "Counter") -> "Counter":
        self.merge(other)
        return self

    @property
    def images(self) -> int:
        """Return the number of images counted."""
        return self._result.tally.images

    @property
    def failures(self) -> list[Failure]:
        """Return the samples that `collate` could not count."""
        return [one._replace(message=in_python(one.message)) for one in self._result.failures]

    @naming_parameters
    def summary(self) -> Summary:
        """Return the statistics of everything counted so far.

        Raises:
            NoInputError: nothing was counted.
        """
        with self._lock:
            if not self._result.tally.buckets:
                raise NoInputError("nothing was counted")
            groups = "label" if self._result.tally.groups else None
            settings = settings_of(_stats_options(self._options, group_by=groups), None, None)
            return Summary.of(self._result.tally, settings, images.versions())

    @naming_parameters
    def collate(self, batch: list[Any]) -> "Counter":
        """Return a counter of a batch of samples: the `collate_fn` of a torch DataLoader, called in its workers.

        A sample that cannot be counted is one of the `failures`, named by its number in the batch.

        for part in DataLoader(dataset, batch_size=64, num_workers=4, collate_fn=counter.collate):
            counter += part

        >>> import numpy as np
        >>> Counter().collate([np.zeros((8, 8, 3), np.uint8), (np.ones((8, 8), np.uint8), "label")]).images
        2
        """
        part = Counter(**self._options.as_dict())
        for sample in batch:
            part._merge(part._count(samples.image_in(sample, None), None, None, None, None))
        return part

    def _merge(self, result: PartialResult) -> None:
        kinds = {**result.kinds, **self._result.kinds}
        if len(kinds) > 1:
            composition = self._result.tally.composition + result.tally.composition
            check_shared_channels(kinds, {"color": self._options.color}, composition)
        with self._lock:
            self._result.add(result)

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self._options, "state": self._result.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._options = state["options"]
        self._worker = _worker_of(self._options)
        self._result = PartialResult.from_state(state["state"])
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Counter({self.images:,} image{'s' * (self.images != 1)})"


def _worker_of(options: CounterOptions) -> WorkerOptions:
    return WorkerOptions(
        reading=options.part(DecodeOptions),
        nan=options.nan,
        max_value=parse_level(options.max_value),
    )


def count(data: Dataset, options: IterableOptions) -> Summary:
    """Count all samples of an iterable; see `normcli.count`."""
    run = _stats_options(
        options,
        group_by=options.group_by,
        workers=options.workers,
        engine="threads" if options.workers > 1 else "serial",
        max_failures=options.max_failures,
        on_failure=options.on_failure,
        on_progress=options.on_progress,
        output=None if options.output is None else os.fsdecode(options.output),
        force=options.force,
        exact_percentiles=options.exact_percentiles,
    )
    listed = partial(samples.read, data, options.key, options.layout, labels=options.group_by is not None)
    if options.exact_percentiles and isinstance(data, Iterator):
        raise UsageError(
            "`exact_percentiles` reads the data twice, and an iterator ends after once: pass a list or a dataset"
        )
    if not options.partial:
        return stats([], run, listed(), again=listed)
    from normcli.sources.stoppable import StoppableItems

    with StoppableItems(listed()) as stoppable:
        return stats([], run, stoppable)


def _stats_options(options: CounterOptions, **more: Any) -> StatsOptions:
    shared = {name: getattr(options, name) for name in options.declared if name in StatsOptions.declared}
    return StatsOptions(**{**shared, **more})
