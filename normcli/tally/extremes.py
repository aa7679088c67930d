"""Extremes that can be subtracted: as many of the smallest values as a later subtraction may need."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

KEPT_EXTREMES = 1024


class ExtremeValues:
    """The smallest values of a set, up to a fixed number of them; can be added and subtracted.

    Attributes:
        values: count of each value in the set.
        bound: values above it are unknown; None while every value is known.
    """

    def __init__(self, values: Iterable[float] = (), bound: float | None = None) -> None:
        self.values, self.bound = Counter(values), bound
        self._total = self.values.total()

    def add_value(self, value: float) -> None:
        """Add one value; the set may have twice as many until `trim`."""
        if self.bound is None or value <= self.bound:
            self.values[value] += 1
            self._total += 1
            if self._total > 2 * KEPT_EXTREMES:
                self.trim()

    def trim(self) -> None:
        """Keep no more values than the fixed number, and none above the bound."""
        room, kept = KEPT_EXTREMES, Counter[float]()
        for value, count in sorted(self.values.items()):
            if count <= 0:
                continue
            if self.bound is not None and value > self.bound:
                break
            if room == 0:
                self.bound = max(kept)
                break
            kept[value] = min(count, room)
            room -= kept[value]
            if kept[value] < count:
                self.bound = value
                break
        self.values, self._total = kept, KEPT_EXTREMES - room

    def add(self, other: "ExtremeValues", sign: int = 1) -> None:
        """Add or subtract values; the bound is the lower of both, or lower still where too many are known."""
        bounds = [b for b in (self.bound, other.bound) if b is not None]
        bound = min(bounds, default=None)
        if sign == 1 and bound == self.bound:
            for value, count in other.values.items():
                if bound is None or value <= bound:
                    self.values[value] += count
                    self._total += count
            if self._total > 2 * KEPT_EXTREMES:
                self.trim()
            return
        self.trim()
        other.trim()
        for value, count in other.values.items():
            self.values[value] += sign * count
        self.bound = min((b for b in (self.bound, other.bound) if b is not None), default=None)
        self.trim()

    def first(self) -> float | None:
        """Return the smallest value, or None if it is not known."""
        return min(self.values, default=None)

    def state(self) -> dict[str, Any]:
        """Return the values and the bound as JSON values."""
        self.trim()
        return {"values": sorted(self.values.elements()), "bound": self.bound}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ExtremeValues":
        """Rebuild from `state`."""
        bound = state["bound"]
        values = [float(v) + 0.0 for v in state["values"]]
        if not all(math.isfinite(v) for v in [*values, *([] if bound is None else [bound])]):
            raise ValueError("extremes that are not finite")
        return cls(values, bound)
