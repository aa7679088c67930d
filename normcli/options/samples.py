"""Options of `count` and `Counter`, which take Python objects in place of files."""

import os
from collections.abc import Callable
from typing import Any, Literal

from normcli.errors import UsageError
from normcli.options.field import option, python_only
from normcli.options.printing import PercentileOptions
from normcli.options.shared import DecodeOptions, FailureOptions, ValueOptions


class CounterOptions(DecodeOptions, ValueOptions):
    """All options of `Counter`."""

    layout: Literal["auto", "nhwc", "nchw", "nhw", "hwc", "chw", "hw", "nc"] = option(
        "Axes of arrays: n images, h rows, w columns, c channels; auto: recognized by the sizes, with the channels "
        "of torch tensors first; nc: vectors, (N,C), (T,C) or a single one (C).",
        "auto",
    )

    def _check(self) -> None:
        super()._check()
        if self.color.startswith("lab"):
            self.check_lab()


class IterableOptions(CounterOptions, FailureOptions, PercentileOptions):
    """All options of `count`."""

    panel = "Input"

    key: str | int | None = option(
        "Name or position of the image in samples that are mappings or tuples (default: image, img, pixel_values, ... "
        "of a mapping, the first member of a tuple)."
    )
    group_by: Literal["label"] | None = option("Report statistics per label as well.")
    workers: int = option(
        "Number of threads that call dataset[index]; it must allow more than one. Anything without an index is "
        "iterated over by the caller's thread.",
        1,
        minimum=1,
    )
    partial: bool = option(
        "Return the statistics of what was counted when Ctrl-C stops the run, with one failure, interrupted.", False
    )
    exact_percentiles: bool = option(
        "Make percentiles of float images and vectors exact by reading the data again, which must not be an iterator; "
        "they are otherwise known to 8 significant bits.",
        False,
    )
    output: str | os.PathLike[str] | None = option("Write the statistics file.")
    force: bool = option("Overwrite an existing statistics file.", False)
    on_progress: Callable[[Any], None] | None = python_only(
        "Called after every batch with an object that has `inputs` and `bytes`, the numbers of that batch."
    )

    def _check(self) -> None:
        super()._check()
        if self.exact_percentiles and self.partial:
            raise UsageError(
                "`exact_percentiles` cannot be combined with `partial`: it reads the data to the end, twice"
            )
