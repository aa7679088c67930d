"""CIE L*a*b* of sRGB under D65, and back: L* from 0 to 100, in float64.

The matrix and the white point are those of scikit-image and torchstain (ITU-R BT.709 primaries to six digits); the
formulas are CIE 15:2004, 8.2.1, with the constants 0.008856 and 7.787 rounded as both libraries have them. Sums are
written out, so that no library of linear algebra changes their order.
"""

from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_TO_RGB = np.linalg.inv(_TO_XYZ)
_WHITE = (0.95047, 1.0, 1.08883)
BRIGHTEST_TISSUE = 80.0  # L* of StainTools' LuminosityThresholdTissueLocator: 0.8 of white


def lab_of(levels: Array, white: float) -> Array:
    """Return L*, a* and b* (…,3) of sRGB levels (…,3) from 0 to `white`.

    >>> lab_of(np.array([[255, 255, 255], [255, 0, 0]], np.uint8), 255).round(1).tolist()
    [[100.0, -0.0, 0.0], [53.2, 80.1, 67.2]]
    """
    if levels.dtype.kind == "u":
        linear = _linear_levels(levels.dtype.itemsize * 8, white)[levels]
    else:
        linear = _linear(levels.astype(np.float64) / white)
    x, y, z = (
        _cube_root(plane / reference) for plane, reference in zip(_product(_TO_XYZ, linear), _WHITE, strict=True)
    )
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)], axis=-1)


def rgb_of(lab: Array) -> Array:
    """Return sRGB (…,3), limited to 0-1, of L*, a* and b* (…,3).

    >>> rgb_of(lab_of(np.array([[0, 128, 255]], np.uint8), 255)).round(6).tolist() == [[0.0, 0.501961, 1.0]]
    True
    """
    y = (lab[..., 0] + 16.0) / 116.0
    parts = y + lab[..., 1] / 500.0, y, y - lab[..., 2] / 200.0
    planes = [_cube(part) * reference for part, reference in zip(parts, _WHITE, strict=True)]
    linear = np.stack(_product(_TO_RGB, np.stack(planes, axis=-1)), axis=-1)
    bright = linear > 0.0031308
    curved = 1.055 * np.power(np.where(bright, linear, 1.0), 1 / 2.4) - 0.055
    return np.clip(np.where(bright, curved, linear * 12.92), 0.0, 1.0)


@lru_cache(maxsize=4)
def _linear_levels(bits: int, white: float) -> Array:
    table = _linear(np.arange(1 << bits) / white)
    table.flags.writeable = False
    return table


def _linear(values: Array) -> Array:
    """Return the linear intensity of sRGB values (IEC 61966-2-1)."""
    bright = values > 0.04045
    return np.where(bright, np.power((np.where(bright, values, 1.0) + 0.055) / 1.055, 2.4), values / 12.92)


def _product(matrix: Array, values: Array) -> list[Array]:
    a, b, c = values[..., 0], values[..., 1], values[..., 2]
    return [row[0] * a + row[1] * b + row[2] * c for row in matrix]


def _cube_root(values: Array) -> Array:
    return np.where(values > 0.008856, np.cbrt(values), 7.787 * values + 16.0 / 116.0)


def _cube(values: Array) -> Array:
    return np.where(values > 0.2068966, values * values * values, (values - 16.0 / 116.0) / 7.787)
