"""Calibration of ImageJ in the description of a TIFF: a function from stored to calibrated values.

Keys and rules are those of ij.io.FileOpener and ij.measure.Calibration of ImageJ 1.54: `cf` is the number of a
function, `c0` to `c4` are its coefficients, `vunit` is the unit of its values, without which no function applies.
"""

import math
import re
from typing import Literal, NamedTuple

from normcli.errors import InputError

START = "ImageJ="
_STRAIGHT_LINE, _LAST, _UNCALIBRATED_OD = 0, 13, 21  # in between are functions that need coefficients
_FUNCTIONS = {
    1: "a polynomial",
    2: "a polynomial",
    3: "a polynomial",
    4: "an exponential",
    5: "a power",
    6: "a logarithm",
    7: "a function of Rodbard",
    8: "a gamma variate",
    9: "a logarithm",
    10: "a function of Rodbard",
    11: "an exponential",
    12: "a Gaussian",
    13: "an exponential",
    _UNCALIBRATED_OD: "optical density",
}
_COEFFICIENTS = ("c0", "c1", "c2", "c3", "c4")
_LINE = re.compile(r"^[ \t]*(cf|c[0-4]|vunit|zeroclip)[ \t]*[=:][ \t]*([^\r\n\0]*)", re.MULTILINE)
_NOT_PLAIN = re.compile(r"[^ -~]")
_REMEDY = "(--scale-offset none ignores it)"


class Samples(NamedTuple):
    """Properties of the stored samples of a TIFF that decide which values they have in ImageJ.

    Attributes:
        bits: of a sample.
        is_signed: they are signed integers.
        colors: decoding subtracts the samples of "white-zero" from the highest level; those of "palette" are indexes.
    """

    bits: int
    is_signed: bool = False
    colors: Literal["white-zero", "gray", "palette", "color"] = "gray"


def calibration_lines(description: str) -> str:
    r"""Return the description of an image that has no more than the calibration of another; "" where it has none.

    >>> calibration_lines("ImageJ=1.54f\nimages=6\nslices=6\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n")
    'ImageJ=\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n'
    """
    lines = _LINE.findall(description) if description.startswith(START) else []
    return f"{START}\n" + "".join(f"{key}={_NOT_PLAIN.sub('', value)}\n" for key, value in lines) if lines else ""


def linear_calibration(description: str, samples: Samples) -> tuple[float, float] | None:
    r"""Return the scale and offset of decoded samples by the calibration of ImageJ; None if it has none.

    Args:
        description: of the TIFF.
        samples: properties of its samples; those that ImageJ reads as floats or as 8-bit RGB have no calibration.

    Raises:
        InputError: another function than a straight line, a slope of 0, or one for indexes of a palette.

    >>> linear_calibration("ImageJ=1.54f\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n", Samples(16))
    (1.0, -32768.0)
    """
    if not description.startswith(START) or samples.bits > 16 or (samples.bits <= 8 and samples.colors == "color"):
        return None
    keys = dict(_LINE.findall(description))
    function, (offset, scale) = _function(keys)
    if function is None:
        return None
    if function != _STRAIGHT_LINE:
        raise InputError("scale", f"its ImageJ calibration is {_FUNCTIONS[function]}, which is not read {_REMEDY}")
    if keys.get("zeroclip", "").strip() == "true" and min(offset, scale) < 0:
        raise InputError("scale", f"its ImageJ calibration is cut at 0, which is not read {_REMEDY}")
    line = f"{offset:g} + {scale:g} x"
    if samples.is_signed and samples.bits == 16:
        offset += 32768 * scale  # ImageJ adds 32768 to them as it opens the file
    if not (math.isfinite(scale) and math.isfinite(offset)) or scale == 0:
        raise InputError("scale", f"its ImageJ calibration is {line} {_REMEDY}")
    if (scale, offset) == (1.0, 0.0):
        return None
    if samples.colors == "white-zero":
        offset, scale = offset + scale * ((1 << max(8, samples.bits)) - 1), -scale
        if (scale, offset) == (1.0, 0.0):  # as decoding does
            return None
    if samples.colors == "palette":
        raise InputError("scale", f"its ImageJ calibration is of the indexes of its palette {_REMEDY}")
    return scale, offset


def _function(keys: dict[str, str]) -> tuple[int | None, tuple[float, float]]:
    """Return the number of the function, or None, and its first two coefficients."""
    coefficients: list[float] = []
    for key in _COEFFICIENTS:
        value = _number(keys.get(key))
        if value is None:
            break
        coefficients.append(value)
    number = _number(keys.get("cf", "0"))
    function = int(number) if number is not None and math.isfinite(number) else _STRAIGHT_LINE
    if "vunit" not in keys:
        return None, (0.0, 1.0)
    if len(coefficients) >= 2 and _STRAIGHT_LINE <= function <= _LAST:
        return function, (coefficients[0], coefficients[1])
    return (function if function == _UNCALIBRATED_OD else None), (0.0, 1.0)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
