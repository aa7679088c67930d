"""EXIF orientation: 1 to 8, the eight ways to turn and mirror a picture."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# orientation -> (rows and columns swapped, then rows from below, then columns from the right)
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(pixels: Array, orientation: int) -> Array:
    """Turn stored pixels (H,W,C) the way they are meant to be seen.

    >>> upright(np.array([[[1], [2]]]), 6)[:, :, 0].tolist()
    [[1], [2]]
    """
    swap, rows, columns = _TURNS[orientation]
    if swap:
        pixels = pixels.swapaxes(0, 1)
    turned = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(turned)


def as_stored(pixels: Array, orientation: int) -> Array:
    """Undo `upright`."""
    swap, rows, columns = _TURNS[orientation]
    turned = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(turned.swapaxes(0, 1) if swap else turned)
