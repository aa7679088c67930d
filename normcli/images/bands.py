"""Bands of a decoded image: their selection, and the names and scales that the composition counts."""

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded
from normcli.options.shared import DecodeOptions


def select_bands(image: Decoded, selection: str) -> None:
    """Keep some bands of a decoded image, in the order of `selection`: names, or numbers from 1, between commas.

    Raises:
        InputError: no such band.
    """
    count = image.pixels.shape[2]
    colors = {1: ("L",), 3: ("R", "G", "B")}.get(count, ())
    names = image.names[:count] or (() if image.mode.startswith("bands") else colors)
    positions: list[int] = []
    for part in selection.split(","):
        if names.count(part) > 1:
            raise InputError("bands", f"several bands are named {part}: --bands takes their numbers")
        number = int(part) if part.isdecimal() and len(part) < 6 else 0
        if part not in names and not 1 <= number <= count:
            known = f": they are {', '.join(names)}" if any(names) else f" among {count}"
            raise InputError("bands", f"no band {part}{known}")
        positions.append(names.index(part) if part in names else number - 1)
    if len(set(positions)) < len(positions):
        raise InputError("bands", f"--bands {selection} selects a band twice")
    image.pixels = np.ascontiguousarray(image.pixels[:, :, positions])
    if image.valid is not None:
        image.valid = np.ascontiguousarray(image.valid[:, :, positions])
    own = names or [str(i + 1) for i in range(count)]
    image.names = (*(own[i] for i in positions), *image.names[count:])
    if image.scales:
        image.scales = (*(image.scales[i] for i in positions), *image.scales[count:])


def align_bands(image: Decoded, reading: DecodeOptions) -> None:
    """Set the names and scales of channels by those of the stored bands; apply the scales under `scale_offset` values.

    Raises:
        InputError: gray of bands whose scales differ.
    """
    channels = image.pixels.shape[2]
    if reading.color == "gray" and len(image.names or image.scales) > channels + 1:
        image.names = ()
        if len(set(image.scales[:3])) > 1:
            raise InputError(
                "scale", "bands of different scales have no common gray (--scale-offset none ignores the scales)"
            )
    if image.names:
        own = (*image.names, "A")[:channels]
        image.names = own if len(own) == channels and len({*own} - {""}) == len(own) - own.count("") else ()
    if image.scales:
        image.scales = (*image.scales, (1.0, 0.0))[:channels]
    if image.scales and reading.scale_offset == "values":
        factors, offsets = np.array(image.scales).T
        image.pixels, image.scales = image.pixels * factors + offsets, ()


def band_notes(image: Decoded) -> list[str]:
    """Return the notes on names and scales of bands, which the composition counts; [] for an image without any."""
    notes = []
    if image.names:
        filled = [name or str(number) for number, name in enumerate(image.names, 1)]
        notes.append(f"names:{','.join(filled)}")
    if image.scales:
        notes.append(f"scale:{','.join(f'{scale!r}*x{offset:+}' for scale, offset in image.scales)}")
    return notes
