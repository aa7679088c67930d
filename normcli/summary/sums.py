"""Sums and differences of summaries: the statistics of one pass over the same images."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from normcli.errors import NoInputError, StatisticsFileError, UsageError
from normcli.summary.file import NO_DIGEST
from normcli.summary.settings_diff import describe_differences, differing_settings
from normcli.summary.shards import merge_shards
from normcli.summary.summary import Summary, SummarySource, as_summary


def merge(
    *statistics: SummarySource | Iterable[SummarySource],
    minus: SummarySource | Iterable[SummarySource] = (),
    force: bool = False,
    weights: Sequence[float] | None = None,
) -> Summary:
    """Add statistics without loss, and subtract others; with weights, mix them.

    The result is bit for bit that of one pass over the same images. It is incomplete (`complete` is False) where
    inputs failed, shards are missing, or anything was forced; see `shards` and `forced`.

    Args:
        statistics: summaries or paths of statistics files to add, one by one or as an iterable.
        minus: a summary or path, or several, to subtract; their images must be part of the sum.
        force: merge although settings differ (those of the first source are used), or a shard or the same images
            come twice. What was forced is recorded in `forced`.
        weights: one for each of the statistics: the result is their mixture, whatever their sizes. It has no counts,
            so it cannot be merged or subtracted, and records itself in its settings.

    Returns:
        The summary of the sum, or of the mixture.

    Raises:
        UsageError: settings differ, a shard or the same images come twice, the images subtracted are not part of the
            sum, there is nothing to merge, or a mixture among them.
        NoInputError: no image is left.
        StatisticsFileError: a file that is missing or damaged.

    >>> import numpy as np
    >>> from normcli.tally import Tally
    >>> def summary_of(value):
    ...     tally = Tally()
    ...     _ = tally.count(np.full((2, 2, 1), value, np.uint8))
    ...     return Summary.of(tally, {"color": "auto", "alpha": "drop", "max_value": None}, {})
    >>> both = merge(summary_of(0), summary_of(255))
    >>> both.images, both.mean
    (2, [0.5])
    """
    from normcli.tally import Tally

    sources = [one for entry in statistics for one in _each(entry)]
    if not sources:
        raise UsageError("nothing to merge")
    subtrahends = _each(minus)
    added, subtracted = [as_summary(source) for source in sources], [as_summary(source) for source in subtrahends]
    conflicts = _conflicts(added, subtracted, [*map(_name, sources, range(1, len(sources) + 1))])
    if conflicts and not force:
        raise UsageError(next(iter(conflicts.values())))
    if weights is not None:
        if subtracted:
            raise UsageError("`minus` cannot be combined with weights: a mixture has no counts")
        from normcli.summary.mixture import mix

        for summary in added:
            _verified_tally(summary)
        mixture = mix(added, weights, _merge_provenance(added))
        mixture.forced = sorted({*mixture.forced, *conflicts})
        return mixture
    forced = {*conflicts}.union(*(summary.forced for summary in (*added, *subtracted)))
    shards = None if "shards" in conflicts else merge_shards(_shards(added), _shards(subtracted))
    total = Tally()
    for summary in added:
        total.add(_verified_tally(summary))
    for summary in subtracted:
        total.add(_verified_tally(summary), -1)
        if not total.is_valid():
            raise UsageError("cannot subtract: these images are not part of the sum")
    if subtracted and not total.buckets:
        raise NoInputError("no image is left: all of them were subtracted")
    provenance = _merge_provenance([*added, *subtracted])
    return Summary.of(total, added[0].settings, provenance, shards=shards, forced=sorted(forced))


def _each(given: SummarySource | Iterable[SummarySource]) -> list[SummarySource]:
    """Return one summary or path, or several, as a list."""
    one = isinstance(given, Summary | str | os.PathLike) or not isinstance(given, Iterable)
    return [given] if one else list(given)  # type: ignore[list-item, arg-type]


def _conflicts(added: Sequence[Summary], subtracted: Sequence[Summary], names: Sequence[str]) -> dict[str, str]:
    """Return every reason not to merge: the entry of `forced`, and the error message."""
    conflicts: dict[str, str] = {}
    for other in (*added[1:], *subtracted):
        differences = differing_settings(added[0].settings, other.settings)
        message = f"settings differ: {describe_differences(differences)} (`force` merges them anyway)"
        conflicts |= {f"settings.{key}": message for key in differences if f"settings.{key}" not in conflicts}
    try:
        merge_shards(_shards(added), _shards(subtracted))
    except UsageError as error:
        conflicts["shards"] = str(error)
    seen: dict[str, str] = {}
    for summary, name in zip(added, names, strict=True):
        digest = str(summary.inputs.get("digest", NO_DIGEST))
        if summary.shards is not None or digest == NO_DIGEST:  # two shards may well hold copies of one image
            continue
        if digest in seen:
            conflicts["images"] = (
                f"{seen[digest]} and {name} are of the same images, which would count double (`force` adds them anyway)"
            )
        seen[digest] = name
    return conflicts


def _shards(summaries: Sequence[Summary]) -> list[dict[str, Any] | None]:
    return [summary.shards for summary in summaries]


def _name(source: SummarySource, position: int) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else f"statistics {position}"


def _verified_tally(summary: Summary) -> Any:
    """Return the tally of a summary, once its numbers agree with it."""
    tally = summary.tally
    try:
        again = Summary.of(tally, summary.settings, {})
    except (ValueError, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise StatisticsFileError(f"damaged statistics: {error}") from None
    if (again.mean, again.std, again.images) != (summary.mean, summary.std, summary.images):
        raise StatisticsFileError("damaged statistics: the numbers do not follow from the state")
    return tally


def _merge_provenance(summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return the versions of all summaries, once each; stamps and digests belong to single runs."""
    versions: dict[str, set[str]] = {}
    for summary in summaries:
        for key, value in summary.provenance.items():
            if key not in ("digest", "stamp"):
                versions.setdefault(key, set()).update(str(value).split(", "))
    return {key: ", ".join(sorted(values)) for key, values in versions.items()}
