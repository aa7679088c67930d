"""Numbers as text: four decimals, and more where they would hide the number."""

import math
from collections.abc import Iterable, Sequence

_DECIMALS = 4


def decimals_for(values: Iterable[float | None]) -> int:
    """Return the decimals that show four digits of the smallest number below 0.01, and four in any other case.

    >>> decimals_for([0.4870, 0.2772]), decimals_for([0.0061, 0.0043]), decimals_for([0.0])
    (4, 6, 4)
    """
    sizes = [abs(v) for v in values if v is not None and v != 0 and math.isfinite(v)]
    smallest = min(sizes, default=1.0)
    return _DECIMALS if smallest >= 0.01 else min(9, 3 - math.floor(math.log10(smallest)))


def number(value: float | None, decimals: int = _DECIMALS) -> str:
    """Return a statistic with some decimals, or four digits where they would hide it; "-" for None.

    >>> number(0.13251), number(1234567.0), number(0.00001234), number(None), number(0.0061, 6)
    ('0.1325', '1234567.0000', '1.234e-05', '-', '0.006100')
    """
    if value is None:
        return "-"
    if value != 0 and abs(value) < 10.0 ** (1 - decimals) and abs(value) < 0.001:
        return f"{value:.4g}"
    if abs(value) >= 1e7:
        return f"{value:.6e}"
    return f"{value:.{decimals}f}"


def numbers(values: Sequence[float | None], decimals: int = _DECIMALS) -> str:
    """Return numbers side by side."""
    return " ".join(number(value, decimals) for value in values)
