"""Images whose samples are all 0, which `-O skip_empty=yes` leaves out."""

from dataclasses import replace
from typing import Any

import numpy as np

from normcli import images
from normcli.errors import InputError
from normcli.options.shared import DecodeOptions

EMPTY = "all-zero"  # reason of skipped inputs


def decode_content(data: Any, reading: DecodeOptions, *, turn: bool = True) -> images.Decoded:
    """Decode an image that is not empty.

    Args:
        data: an encoded image, or an array.
        reading: the options.
        turn: as for `images.decode`.

    Raises:
        InputError: `EMPTY` where all samples are 0, whether or not 0 is nodata; else as `images.decode`.
    """
    if isinstance(data, np.ndarray):
        _check(data)
        return images.decode(data, reading, turn=turn)
    if reading.scale_offset == "values":  # 0 as stored may be another value
        _check(images.decode(data, replace(reading, nodata="none", scale_offset="none")).pixels)
        return images.decode(data, reading, turn=turn)
    try:
        image = images.decode(data, reading, turn=turn)
    except InputError as error:
        if error.reason == "nodata":  # 0 may be
            _check(images.decode(data, replace(reading, nodata="none")).pixels)
        raise
    _check(image.pixels)
    return image


def _check(samples: Any) -> None:
    if not samples.any():
        raise InputError(EMPTY, "every sample is 0 (-O skip_empty=yes)")
