"""Images as L*a*b*: `color` lab and lab-tissue."""

import numpy as np

from normcli.errors import InputError
from normcli.images.convert import Decoded, row_slices
from normcli.kernels.lab import BRIGHTEST_TISSUE, lab_of
from normcli.options.shared import DecodeOptions

NAMES = ("L", "a", "b")


def make_lab(image: Decoded, reading: DecodeOptions) -> None:
    """Turn the pixels of an image to L*a*b* in float32; with "lab-tissue" those of L* from 80 are invalid.

    Raises:
        InputError: neither gray nor RGB, or floats, whose white is unknown.
    """
    height, width, channels = image.pixels.shape
    if channels not in (1, 3) or image.mode.startswith("bands"):
        raise InputError("unsupported", f"L*a*b* requires gray or RGB, not {channels} channels")
    if image.pixels.dtype.kind == "f" or image.scales:
        raise InputError("no-range", "L*a*b* requires levels of 8 or 16 bits, not floats or scaled samples")
    white = float(image.full_scale or np.iinfo(image.pixels.dtype).max)
    lab = np.empty((height, width, 3), np.float32)
    for rows in row_slices(lab):
        lab[rows] = lab_of(np.broadcast_to(image.pixels[rows], lab[rows].shape), white)
    valid = None if image.valid is None else np.asarray(image.valid.all(axis=2))
    if reading.color == "lab-tissue":
        tissue = np.less(lab[:, :, 0], BRIGHTEST_TISSUE)
        valid = tissue if valid is None else valid & tissue
    image.valid = None if valid is None else np.broadcast_to(valid[:, :, None], lab.shape)
    image.pixels, image.is_owned, image.full_scale, image.names = lab, True, None, NAMES
