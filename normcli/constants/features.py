"""Statistics of vectors by feature, as LeRobot (stats.json) and openpi (norm_stats.json) keep them, checked.

Their quantiles are often averages or extremes of the quantiles of episodes, which are not those of all frames.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from normcli.errors import UsageError
from normcli.summary import Summary
from normcli.summary.distribution import distribution

_PERCENTS = {"q01": "1", "q10": "10", "q50": "50", "q90": "90", "q99": "99"}
_ROWS = ("mean", "std", "min", "max", *_PERCENTS)
_OPENPI = {"state": "observation.state", "actions": "action"}
_CLOSE = 0.01  # of a std: what float32 and bins of a histogram may cost
_NARROW = 1e-3  # of the range: q01 to q99 of a component that hardly ever moves
_MOST_OUTSIDE = 0.02  # of the frames below q01, or above q99, which 0.01 is meant to be


class WrongValue(NamedTuple):
    """One value of a file that is not that of the frames.

    Attributes:
        component: such as "action[0]".
        quantity: "mean", "q01", ...
        stated: by the file.
        computed: from the frames.
        error: bound of the error of `computed`.
        distance: between both, in standard deviations; infinite for a constant component.
    """

    component: str
    quantity: str
    stated: float
    computed: float
    error: float
    distance: float

    @property
    def text(self) -> str:
        """Return the value in one line."""
        bound = f" +- {self.error:.1e}" if self.error else ""
        away = f"{self.distance:.3g} std away" if math.isfinite(self.distance) else "a constant component"
        numbers = f"{self.quantity} is {self.stated:.6g}, of these frames {self.computed:.6g}{bound}"
        return f"{self.component}: {numbers} ({away})"


@dataclass(frozen=True)
class FeatureCheck:
    """The result of a check of statistics by feature.

    Attributes:
        widths: features whose number of components differs, one line each.
        wrong: values that are not those of the frames.
        outside: share of the frames below q01 and above q99 of the file, by component.
        narrow: components that hardly ever move, one line each: a division by q99 - q01 or std is unstable.
        missing: features of the file that were not counted.
    """

    widths: list[str] = field(default_factory=list)
    wrong: list[WrongValue] = field(default_factory=list)
    outside: dict[str, tuple[float, float]] = field(default_factory=dict)
    narrow: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Return True if every value is that of the frames."""
        return not self.widths and not self.wrong

    @property
    def lines(self) -> list[str]:
        """Return the result as text, wrong values first."""
        out = [*self.widths, *(value.text for value in self.wrong)]
        for name, (below, above) in self.outside.items():
            if max(below, above) > _MOST_OUTSIDE:
                out.append(
                    f"{name}: {below:.1%} of the frames are below q01 of the file, {above:.1%} above q99 (1% each)"
                )
        out += self.narrow
        out += [f"not counted here: {', '.join(self.missing)}"] if self.missing else []
        return out

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        wrong = [{key: _finite(value) for key, value in one._asdict().items()} for one in self.wrong]
        return {"right": self.is_right, **vars(self), "wrong": wrong}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_feature_file(path: "str | os.PathLike[str]") -> bool:
    """Return True for a file of statistics by feature."""
    try:
        return bool(read_features(path))
    except UsageError:
        return False


def read_features(path: "str | os.PathLike[str]") -> dict[str, dict[str, list[float]]]:
    """Return the rows of every feature of a stats.json or norm_stats.json; those of pictures are left out.

    Raises:
        UsageError: missing, or not such a file.
    """
    try:
        document = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        document = None
    entries = document.get("norm_stats", document) if isinstance(document, dict) else None
    if not isinstance(entries, dict) or not entries or "schema" in entries:
        raise UsageError(f"{os.fspath(path)}: not a stats.json of LeRobot or a norm_stats.json of openpi")
    features = {}
    for name, entry in entries.items():
        if not (isinstance(entry, dict) and isinstance(entry.get("mean"), list) and isinstance(entry.get("std"), list)):
            raise UsageError(f"{os.fspath(path)}: feature {name!r} has no mean and std")
        rows = {row: entry[row] for row in _ROWS if isinstance(entry.get(row), list)}
        if all(isinstance(v, int | float) for values in rows.values() for v in values):
            features[str(name)] = rows
    return features


def check_feature_values(summary: Summary, features: Mapping[str, Mapping[str, list[float]]]) -> FeatureCheck:
    """Compare the statistics of a file with those of frames.

    Args:
        summary: of vectors whose components are named by feature.
        features: of the file, as `read_features` returns them.

    Raises:
        UsageError: no vectors, or none of the features.
    """
    if summary.unit != "vector":
        raise UsageError("statistics by feature describe vectors, and these are statistics of images")
    places: dict[str, list[int]] = {}
    for place, name in enumerate(summary.channels):
        places.setdefault("vector" if name.isdecimal() else name.partition("[")[0], []).append(place)
    if not set(_OPENPI.values()) & set(features):
        features = {_OPENPI.get(name, name): rows for name, rows in features.items()}
    shared = [name for name in features if name in places]
    if not shared:
        raise UsageError(f"no feature in common: {', '.join(features)} in the file, {', '.join(places)} here")
    result = FeatureCheck(missing=[name for name in features if name not in places])
    extended = summary.with_percentiles([*_PERCENTS.values()])
    values_of_channels = distribution(summary)
    for name in shared:
        rows, of = features[name], places[name]
        if (width := len(rows["mean"])) != len(of) or any(len(row) != width for row in rows.values()):
            result.widths.append(f"{name}: {width} components in the file, {len(of)} here")
            continue
        for own, place in enumerate(of):
            stated = {row: float(values[own]) for row, values in rows.items()}
            result.wrong.extend(_wrong_values(extended, place, stated))
            if "q01" in stated and "q99" in stated:
                levels = values_of_channels[place]
                result.outside[summary.channels[place]] = _share_outside(levels, stated["q01"], stated["q99"])
    for place in range(len(summary.channels)):
        result.narrow.extend(_narrow(extended, place))
    return result


def _wrong_values(summary: Summary, place: int, stated: Mapping[str, float]) -> Iterator[WrongValue]:
    errors = (summary.percentile_details or {}).get("error", {})
    std = summary.std[place]
    for row, value in stated.items():
        if row in _PERCENTS:
            percent = _PERCENTS[row]
            computed, error = summary.percentiles[percent][place], errors.get(percent, [0.0] * (place + 1))[place]
        else:
            known = getattr(summary, row)[place]
            if known is None:
                continue
            computed, error = known, 0.0
        difference = max(abs(value - computed) - error, 0.0)
        rounding = 1e-6 * max(abs(computed), abs(value))
        if difference > _CLOSE * std + rounding or math.isnan(value):
            yield WrongValue(
                summary.channels[place], row, value, computed, error, difference / std if std else math.inf
            )


def _share_outside(levels: Sequence[tuple[float, float]], low: float, high: float) -> tuple[float, float]:
    """Return the shares of values below and above a range; those in the bins of its ends count as inside."""
    total = sum(weight for _, weight in levels) or 1
    low, high = _start_of_bin(low), _start_of_bin(high)
    below = sum(weight for value, weight in levels if value < low)
    return below / total, sum(weight for value, weight in levels if value > high) / total


def _start_of_bin(value: float) -> float:
    """Return a value cut to 8 significant bits, as a histogram of floats knows it.

    >>> _start_of_bin(-98.632), _start_of_bin(0.0)
    (-98.5, 0.0)
    """
    fraction, exponent = math.frexp(value)
    return math.ldexp(math.trunc(fraction * 256), exponent - 8)


def _narrow(summary: Summary, place: int) -> Iterator[str]:
    low, high = summary.min[place], summary.max[place]
    if low is None or high is None:
        return
    width = summary.percentiles["99"][place] - summary.percentiles["1"][place]
    if low == high:
        yield f"{summary.channels[place]}: constant, {low:.6g}"
    elif width <= _NARROW * (high - low):
        yield (
            f"{summary.channels[place]}: nearly constant: q99 - q01 is {width:.3g}, and values go from {low:.6g} to "
            f"{high:.6g} (mean and std normalize it, quantiles do not)"
        )
