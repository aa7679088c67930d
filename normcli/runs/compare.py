"""Constants checked against statistics, and statistics compared: of files as they are, of sources counted first."""

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from normcli.constants import compare, identify
from normcli.constants.parse_config import Number, as_written, read_constants
from normcli.constants.presets import PRESETS
from normcli.errors import UsageError, unknown
from normcli.options.compare import CheckOptions, CountedOptions
from normcli.options.field import Options, options_of
from normcli.options.shared import DecodeOptions, EngineOptions, InputOptions, ValueOptions
from normcli.options.stats import CountOptions
from normcli.sources.folder import SUFFIXES
from normcli.sources.listing import container, expand
from normcli.storage import is_remote
from normcli.summary import Summary
from normcli.summary.remarks import note_incomplete
from normcli.summary.summary import as_summary

if TYPE_CHECKING:
    from normcli.constants.compare import Difference
    from normcli.constants.features import FeatureCheck
    from normcli.constants.identify import CheckResult
    from normcli.report import Origin

StrPath: TypeAlias = "str | os.PathLike[str]"
Counted: TypeAlias = "Summary | StrPath | Iterable[StrPath]"


def check_features(statistics: Counted, file: StrPath, options: CountedOptions) -> "FeatureCheck":
    """Compare statistics by feature, as LeRobot and openpi keep them, with those of frames; see `check_features`."""
    from normcli.constants.features import check_feature_values, read_features

    return check_feature_values(summary_of(statistics, options), read_features(file))


def is_source(path: str) -> bool:
    """Return True for the path of images, False for that of a statistics file.

    >>> [is_source(path) for path in (".", "s3://bucket/train", "a.tar", "a.png", "stats.json", "-")]
    [True, True, True, True, False, False]
    """
    if path == "-" or path.lower().endswith(".json"):
        return Path(path).is_dir()
    if is_remote(path) or Path(path).is_dir() or container(path) is not None:
        return True
    return Path(path).suffix.lower() in SUFFIXES or next(expand(path)) != path


def summary_of(statistics: Counted, options: CountedOptions, like: Summary | None = None) -> Summary:
    """Return statistics: those passed, those of a file, or those of sources, which are counted.

    Args:
        statistics: a summary, the path of a statistics file, a source, or several sources.
        options: for counting.
        like: statistics to compare with: their recorded settings apply where the options have their default.

    Raises:
        UsageError: several paths, one of them a statistics file, or a value that is no path.
        StatisticsFileError: not a statistics file, or damaged.
        NoInputError: no usable image.
    """
    if isinstance(statistics, Summary):
        note_incomplete(statistics, "statistics")
        return statistics
    if isinstance(statistics, str | os.PathLike):
        if not is_source(os.fspath(statistics)):
            summary = as_summary(statistics)
            note_incomplete(summary, os.fspath(statistics))
            return summary
        statistics = [statistics]
    sources = _paths(statistics)
    from normcli.options.stats import StatsOptions
    from normcli.runs.stats import stats

    for path in sources:
        if not is_source(path) and (path == "-" or path.lower().endswith(".json")):
            raise UsageError(f"{path}: a statistics file cannot be combined with other sources")
    summary = stats(sources, StatsOptions(**_counting(options, like), on_gallery=options.on_gallery))
    if options.on_statistics is not None:
        options.on_statistics(summary)
    return summary


def _paths(statistics: Any) -> list[str]:
    try:
        return [os.fspath(path) for path in statistics]
    except TypeError:
        what = "a Summary, the path of a statistics file, or sources"
        raise UsageError(f"statistics must be {what}, not {statistics!r:.60}") from None


def _counting(options: CountedOptions, like: Summary | None) -> dict[str, Any]:
    """Return the options of `stats`: the recorded settings, overridden by options that are not at their defaults."""
    kinds: tuple[type[Options], ...] = (InputOptions, DecodeOptions, ValueOptions, EngineOptions)
    named = {f.name: f.default for kind in kinds for f in options_of(kind)}
    values = {name: getattr(options, name) for name in named}
    if like is None:
        return values
    return {**values, **recorded_options(like), **{name: v for name, v in values.items() if v != named[name]}}


def recorded_options(summary: Summary) -> dict[str, Any]:
    """Return the options of `stats` that a statistics file records."""
    groups: tuple[type[Options], ...] = (DecodeOptions, ValueOptions, CountOptions)
    names = {f.name for group in groups for f in options_of(group)}
    return {name: value for name, value in summary.settings.items() if name in names}


def check(statistics: Counted, options: CheckOptions) -> "CheckResult":
    """Identify the constants of the options by statistics; see `normcli.check`."""
    return check_summary(summary_of(statistics, options), statistics, options)


def check_summary(summary: Summary, statistics: Counted, options: CheckOptions) -> "CheckResult":
    """Identify the constants of the options by the summary of `statistics`."""
    mean, std, remarks = constants_of(options)
    if options.config is not None:
        count = len(summary.channels)
        mean, std = one_for_all(mean, count), std and one_for_all(std, count)
    try:
        result = identify.check(summary, mean, std, preset=options.preset or "", tolerance=options.tolerance)
    except UsageError as error:
        if options.mean is not None:
            raise
        text = str(error).replace("`", "")  # they were not set as `mean` and `std`
        raise UsageError(f"{options.preset or options.config}: {text}") from None
    name = options.preset or (Path(options.config).name if options.config is not None else "given constants")
    page = partial(_check_page, summary, mean, std, name, _title(statistics), options.tolerance)
    remarks = [*result.remarks, *remarks, *_remarks_on_rasters(statistics, options)]
    return replace(result, remarks=remarks, page=page)


def _check_page(
    summary: Summary,
    mean: tuple[Number, ...],
    std: tuple[Number, ...] | None,
    name: str,
    dataset: str,
    tolerance: float,
    result: "CheckResult",
    title: str,
) -> str:
    from normcli.report.checks import render_check

    sentence = identify.describe_verdict(result, tolerance)
    return render_check(
        summary, result, mean, std, title=title or dataset, name=name, sentence=sentence, origin=_origin()
    )


def _origin() -> "Origin":
    from normcli.report import Origin

    now = datetime.now(UTC)
    return Origin(created=f"{now.day} {now:%B %Y, %H:%M} UTC")


def _title(statistics: Counted, default: str = "these images") -> str:
    """Return the last part of a path, for a heading."""
    if isinstance(statistics, str | os.PathLike):
        return Path(os.fspath(statistics)).name or default
    return default


def _remarks_on_rasters(statistics: Counted, options: CountedOptions) -> list[str]:
    """Return remarks on statistics that GDAL has stored in sources and that are stale; [] for statistics files."""
    if not _is_counted(statistics):
        return []
    from normcli.runs.stored_statistics import stale_statistics

    paths = [statistics] if isinstance(statistics, str | os.PathLike) else statistics
    return stale_statistics(_paths(paths), options.part(InputOptions))


def one_for_all(row: tuple[Number, ...], count: int) -> tuple[Number, ...]:
    """Return one number of a config as one for each channel, as torchvision takes it; other rows as they are."""
    return row * count if len(row) == 1 else row


def constants_of(options: CheckOptions) -> tuple[tuple[Number, ...], tuple[Number, ...] | None, list[str]]:
    """Return the mean and std to check, from the one option that names them, and remarks on where they are from.

    Raises:
        UsageError: an unknown preset, a config without constants, or a value that is no number.
    """
    if options.preset is not None:
        if options.preset not in PRESETS:
            raise unknown("preset", options.preset, PRESETS)
        published = PRESETS[options.preset]
        std = None if published.std is None else as_written("std", published.std)
        return as_written("mean", published.mean), std, []
    if options.config is not None:
        return _from_config(Path(options.config))
    assert options.mean is not None, "the options have checked that"
    return as_written("mean", options.mean), None if options.std is None else as_written("std", options.std), []


def _from_config(path: Path) -> tuple[tuple[Number, ...], tuple[Number, ...] | None, list[str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"`config`: cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    pairs = read_constants(text, str(path))
    first = pairs[0]
    several = f"{path} contains {len(pairs)} different pairs; checked the one at {first.location}"
    return first.mean, first.std, [several] if len(pairs) > 1 else []


def diff(a: Counted, b: Counted, options: CountedOptions) -> "Difference":
    """Compare two sets of statistics; see `normcli.diff`."""
    first, second = compared(a, b, options)
    return with_page(compare.diff(first, second), first, second, (_title(a, "A"), _title(b, "B")))


def with_page(difference: "Difference", first: Summary, second: Summary, titles: tuple[str, str]) -> "Difference":
    """Return a difference that can write its page."""
    return replace(difference, page=partial(_diff_page, first, second, titles))


def _diff_page(
    first: Summary,
    second: Summary,
    names: tuple[str, str],
    difference: "Difference",
    titles: tuple[str, str],
    max_shift: float | None,
) -> str:
    from normcli.report.differences import render_diff

    both = titles[0] or names[0], titles[1] or names[1]
    return render_diff(first, second, difference, titles=both, max_shift=max_shift, origin=_origin())


def compared(a: Counted, b: Counted, options: CountedOptions) -> tuple[Summary, Summary]:
    """Return the statistics of both sides; sources are counted with the settings of a file on the other side."""
    if _is_counted(a):
        second = None if _is_counted(b) else summary_of(b, options)
        first = summary_of(a, options, like=second)
        return first, summary_of(b, options) if second is None else second
    first = summary_of(a, options)
    return first, summary_of(b, options, like=first)


def _is_counted(statistics: Counted) -> bool:
    if isinstance(statistics, str | os.PathLike):
        return is_source(os.fspath(statistics))
    return not isinstance(statistics, Summary)
