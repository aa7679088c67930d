"""Weighted mixtures: the statistics of a distribution that draws from several datasets with given probabilities.

A mixture has no counts, whatever the sizes of the datasets: mean = sum w m, std^2 = sum w (s^2 + m^2) - mean^2, and
percentiles are those of the weighted histograms (inverted CDF). It is recorded in the settings, and nothing that needs
counts takes it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from normcli.errors import UsageError
from normcli.summary.cases import stored_percentiles
from normcli.summary.file import NO_DIGEST
from normcli.summary.percentiles import columns_of_summary
from normcli.summary.summary import Summary
from normcli.tally.exact import sqrt_fraction

_PERCENTILES = ("0.5", "1", "5", "10", "25", "50", "75", "90", "95", "99", "99.5")


def mix(parts: Sequence[Summary], weights: Sequence[float], provenance: Mapping[str, Any]) -> Summary:
    """Return the mixture of some statistics.

    Args:
        parts: with counts, of the same settings.
        weights: one each, positive; they are divided by their sum.
        provenance: versions.

    Raises:
        UsageError: wrong weights, other channels, or statistics that no mixture can be made of.
        StatisticsFileError: damaged counts.
    """
    if len(weights) != len(parts):
        raise UsageError(f"`weights`: {len(weights)} for {len(parts)} statistics: one each is required")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UsageError("`weights`: must be positive numbers")
    _check(parts)
    exact = [Fraction(weight) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    mean, std = zip(*(_moments(parts, shares, c) for c in range(len(parts[0].channels))), strict=True)
    percentiles, errors = _percentiles(parts, [float(share) for share in shares])
    known = not any(any(row) for row in errors.values())
    details = {"method": "inverted_cdf", "requested": [], "exact": known, **({} if known else {"error": errors})}
    record = [
        {"weight": float(share), "images": part.images, "digest": str(part.inputs.get("digest", ""))}
        for share, part in zip(shares, parts, strict=True)
    ]
    dtypes = sorted({str(bucket.get("dtype")) for part in parts for bucket in part.state["buckets"]})
    first = parts[0]
    invalid = [
        sum(numbers) for numbers in zip(*(part.invalid or [0] * len(first.channels) for part in parts), strict=True)
    ]
    pixels = [sum(numbers) for numbers in zip(*(part.pixels_of for part in parts), strict=True)]
    return Summary(
        complete=all(part.complete for part in parts),
        images=sum(part.images for part in parts),
        failed=sum(part.failed for part in parts),
        skipped=sum(part.skipped for part in parts),
        pixels=pixels[0] if len({*pixels}) == 1 else pixels,
        invalid=invalid if any(invalid) else [],
        channels=first.channels,
        max_value=first.max_value,
        convention=first.convention,
        range=first.range,
        channel_order=first.channel_order,
        mean=list(mean),
        std=list(std),
        min=_extremes([part.min for part in parts], min),
        max=_extremes([part.max for part in parts], max),
        percentiles=percentiles,
        percentile_details=details,
        conventions={"pooled_population": {"mean": list(mean), "std": list(std)}},
        composition=_added([part.composition for part in parts]),
        failures=_added([part.failures for part in parts]),
        skips=_added([part.skips for part in parts]),
        forced=sorted({entry for part in parts for entry in part.forced}),
        settings={**first.settings, "mixture": record},
        provenance={**provenance, "digest": NO_DIGEST},
        inputs={"composition": {}, "failed": {}, "skipped": {}, "digest": NO_DIGEST},
        state=_without_counts(dtypes, len(first.channels)),
    )


def _without_counts(dtypes: Sequence[str], channels: int) -> dict[str, Any]:
    """Return a state that has the types of the values, and no counts."""
    buckets = [{"dtype": dtype, "channels": channels, "histogram": [], "per_image": {}} for dtype in dtypes]
    return {"buckets": buckets}


def _check(parts: Sequence[Summary]) -> None:
    for part in parts:
        if "mixture" in part.settings:
            raise UsageError("a mixture has no counts, so no other mixture can be made of it: mix its parts at once")
        if part.convention != "pooled_population" or part.shards is not None or "scale" in part.composition:
            raise UsageError("a mixture requires complete statistics in which every pixel has the same weight")
        alike = (part.channels, part.max_value, part.range) == (parts[0].channels, parts[0].max_value, parts[0].range)
        if not alike:
            here, there = (f"{', '.join(one.channels)} in {one.range}" for one in (part, parts[0]))
            raise UsageError(f"channels differ: {here}, and {there}")
        if any(math.isnan(value) for value in part.mean):
            raise UsageError("a channel without a valid pixel has no mixture")


def _moments(parts: Sequence[Summary], shares: Sequence[Fraction], channel: int) -> tuple[float, float]:
    """Return mean and std of a channel of the mixture, each rounded once."""
    pairs = [
        (share, Fraction(part.mean[channel]), Fraction(part.std[channel]))
        for share, part in zip(shares, parts, strict=True)
    ]
    mean = sum((share * m for share, m, _ in pairs), Fraction(0))
    second = sum((share * (s * s + m * m) for share, m, s in pairs), Fraction(0))
    return float(mean), sqrt_fraction(max(second - mean * mean, Fraction(0)))


def _percentiles(
    parts: Sequence[Summary], shares: Sequence[float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return percentiles and the bounds of their errors, by name and channel."""
    columns = [dict(columns_of_summary(part, part.tally, {}))[None] for part in parts]
    values: dict[str, list[float]] = {name: [] for name in _PERCENTILES}
    errors: dict[str, list[float]] = {name: [] for name in _PERCENTILES}
    percents = [float(name) for name in _PERCENTILES]
    for channel in zip(*columns, strict=True):
        ends = [stored_percentiles(channel, shares, end, percents) for end in ("printed", "low", "high")]
        for i, name in enumerate(_PERCENTILES):
            printed, low, high = (row[i] for row in ends)
            values[name].append(printed)
            errors[name].append(max(printed - low, high - printed))
    return values, errors


def _extremes(rows: Sequence[Sequence[float | None]], pick: Any) -> list[float | None]:
    return [None if None in values else pick(values) for values in zip(*rows, strict=True)]


def _added(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of nested counts."""
    out: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in counts for key in one):
        values = [one[key] for one in counts if key in one]
        nested = isinstance(values[0], Mapping)
        out[key] = dict(sum((Counter(value) for value in values), Counter())) if nested else sum(values)
    return out


def describe_mixture(settings: Mapping[str, Any]) -> str:
    """Return a mixture as text; "" where there is none.

    >>> describe_mixture({"mixture": [{"weight": 0.7, "images": 4}, {"weight": 0.3, "images": 9}]})
    'mixture 0.7 : 0.3'
    """
    record = settings.get("mixture")
    return f"mixture {' : '.join(format(part['weight'], '.6g') for part in record)}" if record else ""
