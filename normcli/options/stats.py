"""Options of `stats`."""

import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

from normcli.errors import UsageError
from normcli.options.field import Options, is_plain_line, option, parse_labels, parse_shard, python_only
from normcli.options.printing import PercentileOptions, check_weights
from normcli.options.shared import (
    GEOMETRY,
    DecodeOptions,
    EngineOptions,
    FailureOptions,
    InputOptions,
    PathOptions,
    ValueOptions,
)

StrPath = str | os.PathLike[str]


class CountOptions(Options):
    """Selection, grouping and weights of pixels."""

    panel = "Counting"

    group_by: str | None = option(
        "Report statistics per group as well. folder, label: by class folder or the label of the container; "
        "axis:NAME: by the position of a plane on an axis of an array, such as axis:Z or axis:level; "
        "REGEX: by its match, or its first group's, in the path.",
        metavar="folder|label|axis:NAME|REGEX",
        complete=("folder", "label", "axis:Z", "axis:T"),
    )
    weight: Literal["pixel", "image", "group", "case"] = option(
        "Weight every pixel, every image or every group (of --group-by) equally in mean and std. case: every group "
        "equally in the percentiles too, as nnU-Net samples its cases; --group-by is label then, unless it is set.",
        "pixel",
    )
    mask_dir: StrPath | None = option(
        "Make pixels invalid where a mask is 0; DIR holds one mask image per image under the same relative path, or "
        "one NIfTI label volume per NIfTI volume. A resize or crop applies to masks too, by nearest.",
        metavar="DIR",
    )
    labels: str | int | Iterable[int] | None = option(
        "Values of the masks that make a pixel valid: a list such as 1,2, or >N for values above N (default: >0); "
        "requires --mask-dir.",
        metavar="'>N'|N[,N...]",
        parse=parse_labels,
    )
    shard: str | tuple[int, int] | None = option(
        "Process part I of N, for job arrays; `normcli merge` adds the parts.",
        metavar="I/N",
        panel="Run",
        parse=parse_shard,
    )

    def _check(self) -> None:
        super()._check()
        if self.group_by not in (None, "folder", "label"):
            try:
                re.compile(str(self.group_by))
            except re.error as error:
                raise UsageError(
                    f"`group_by`: {self.group_by!r} is neither folder, label nor a regular expression ({error})"
                ) from None
            if not is_plain_line(self.group_by):
                raise UsageError(
                    f"`group_by`: {self.group_by!r} contains control characters (write them as \\n, \\x1b)"
                )
        if self.weight == "case" and self.group_by is None:
            self._set("group_by", "label")
        if self.weight == "group" and self.group_by is None:
            raise UsageError("`weight` group requires `group_by`")

    @property
    def part_of(self) -> tuple[int, int] | None:
        """Return `shard` as (I, N)."""
        return parse_shard(self.shard)


class SampleOptions(Options):
    """Size of the sample of an estimate."""

    panel = "Estimates"

    sample: str | int | None = option("Estimate from a random sample of N images, or P% of them.", metavar="N|P%")
    margin: float | None = option(
        "Read images in random order until the intervals of mean and std are within +-T of the value that maps to 1.",
        metavar="T",
    )
    confidence: float = option(
        "Joint confidence level of the reported intervals, from 0.5 to below 1.", 0.99, metavar="C", hidden=True
    )
    seed: int = option("Random seed for --sample and --margin.", 0, metavar="N", hidden=True)

    def _check(self) -> None:
        super()._check()
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"`confidence`: must be at least 0.5 and below 1, such as 0.99, not {self.confidence}")
        if self.sample is not None and self.margin is not None:
            raise UsageError("`sample` cannot be combined with `margin`")
        if self.margin is not None and not 0 < self.margin < 1:
            raise UsageError(f"`margin`: must be between 0 and 1 (the value that maps to 1.0), not {self.margin}")
        if self.sample is not None:
            self._set("sample", str(self.sample))
            self.sample_size()

    def sample_size(self) -> tuple[int | None, float | None]:
        """Return the sample's size as a number of images or a share of all images; the other is None.

        Raises:
            UsageError: neither a positive number nor a share.
        """
        text = str(self.sample)
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if 0 < share <= 1:
                    return None, share
            elif int(text) > 0:
                return int(text), None
        except ValueError:
            pass
        raise UsageError(f"`sample`: must be a number of images, or a share such as 10%, not {text!r}")

    @property
    def is_estimate(self) -> bool:
        """Return True if not every image is read."""
        return self.sample is not None or self.margin is not None


class CheckpointOptions(Options):
    """Files that a run keeps next to its output."""

    panel = "Run"

    resume: bool = option(
        "Resume an interrupted run; requires -o, and saves progress in OUTPUT.checkpoint until the run completes.",
        False,
    )
    incremental: bool = option(
        "Reread only files that are new or changed since the run that wrote OUTPUT; requires -o, and keeps per-file "
        "results in OUTPUT.cache, also those of an interrupted run.",
        False,
    )


class StatsOptions(
    InputOptions,
    DecodeOptions,
    ValueOptions,
    CountOptions,
    SampleOptions,
    EngineOptions,
    FailureOptions,
    CheckpointOptions,
    PercentileOptions,
    PathOptions,
):
    """All options of `stats`."""

    output: StrPath | None = option(
        "Write the statistics file; - is stdout.", metavar="FILE", flags=("-o", "--output"), panel="Output"
    )
    exact_percentiles: bool = option(
        "Make percentiles exact by reading the images again: those of float images, and of groups of 16-bit images, "
        "which are otherwise known to 8 significant bits.",
        False,
        panel="Output",
        hidden=True,
    )
    provenance: bool = option(
        "Record time, host and command line in the statistics file.", False, panel="Output", hidden=True
    )
    force: bool = option("Overwrite existing output files.", False, flags=("-f", "--force"), panel="Output")
    on_image: Callable[[dict[str, Any]], None] | None = python_only(
        "Called with a dictionary of every image's own statistics, in order."
    )
    on_gallery: Callable[[Any], None] | None = python_only(
        "Called at the end with the pictures, sizes, classes and copies that a report shows."
    )
    on_resume: Callable[[int], None] | None = python_only(
        "Called at the end of a resumed run with the number of inputs that the earlier run had read."
    )
    on_update: Callable[[Any], None] | None = python_only(
        "Called at the end of an incremental run with the numbers of files reused, new, changed and removed."
    )

    def _check(self) -> None:
        super()._check()
        if self.any_set(*GEOMETRY):
            self.check_geometry()
        if self.color.startswith("lab"):
            self.check_lab()
        if self.weight != "pixel" and self.is_estimate:
            raise UsageError(f"`weight` {self.weight} cannot be combined with `sample` or `margin`")
        if self.labels is not None and self.mask_dir is None:
            raise UsageError("`labels` requires `mask_dir`")
        if self.percentiles is not None:
            check_weights(self.weight, self.alpha == "weight", self.percentile_method)
        if self.exact_percentiles:
            self._check_exact()
        if self.resume and self.margin is not None:
            raise UsageError("`resume` cannot be combined with `margin`; use `sample`")
        if self.resume and self.on_gallery is not None:
            raise UsageError("`resume` cannot be combined with `report`; run `normcli show --report` afterwards")
        self._check_checkpoint()
        if self.incremental:
            self._check_incremental()

    def _check_exact(self) -> None:
        if self.shard is not None:
            raise UsageError(
                "`exact_percentiles` cannot be combined with `shard`: the values to look for depend on all "
                "parts (run it over all sources, or `show --percentiles` on the merged file, which prints the bounds)"
            )
        if self.is_estimate:
            raise UsageError("`exact_percentiles` cannot be combined with `sample` or `margin`")
        if self.weight not in ("pixel", "case"):
            raise UsageError(f"`exact_percentiles` cannot be combined with `weight` {self.weight}")
        check_weights(self.weight, self.alpha == "weight", self.percentile_method)

    def _check_checkpoint(self) -> None:
        for name in ("resume", "incremental"):
            if getattr(self, name) and (self.output is None or str(self.output) == "-"):
                raise UsageError(f"`{name}` requires `output`: a file next to which progress is stored")

    def _check_incremental(self) -> None:
        if self.is_estimate:
            raise UsageError("`incremental` cannot be combined with `sample` or `margin`")
        if self.shard is not None:
            raise UsageError("`incremental` cannot be combined with `shard`")
        if self.on_image is not None:
            raise UsageError("`incremental` cannot be combined with `per_image`, which needs every image")
        if self.on_gallery is not None:
            raise UsageError("`incremental` cannot be combined with `report`; run `normcli show --report` afterwards")
