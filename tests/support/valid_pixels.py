"""Images with a mask per channel, and the state of their counts from fractions and the definition of each key."""

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from normcli.tally.exact import run_length_encode, sqrt_fraction

Array = np.ndarray[Any, Any]
Masked = tuple[Array, Array]  # pixels and validity (H,W,C)

DTYPES = ["uint8", "uint16", "float32", "float64"]


@st.composite
def masked_images(draw: st.DrawFn, dtype: str | None = None, least: int = 1) -> list[Masked]:
    """Draw images of one dtype and number of channels, each with a mask per channel and at least one valid sample."""
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    channels = draw(st.sampled_from([1, 2, 3, 5]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    out = []
    for _ in range(draw(st.integers(least, 6))):
        shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)), channels)
        if dtype.startswith("u"):
            pixels = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
        else:
            pixels = (rng.standard_normal(shape) * 10.0 ** draw(st.integers(-30, 30))).astype(dtype)
            pixels[rng.random(shape) < draw(st.sampled_from([0, 0.3]))] = np.nan
        valid = rng.random(shape) < draw(st.sampled_from([0.2, 0.7, 1]))
        valid[:, :, rng.random(channels) < draw(st.sampled_from([0, 0.4]))] = False
        if not (valid & np.isfinite(pixels)).any():
            pixels[0, 0, -1], valid[0, 0, -1] = 7, True
        out.append((pixels, valid))
    return out


def samples(picture: Masked, channel: int) -> list[Fraction]:
    pixels, valid = picture
    return [Fraction(v) for v in pixels[:, :, channel][valid[:, :, channel]].tolist() if math.isfinite(v)]


def one(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else values


def bin_of(value: Fraction, dtype: str) -> int:
    if dtype.startswith("u"):
        return int(value)
    upper = int(np.float32(float(value)).view(np.uint32)) >> 16
    return 0xFFFF - upper if upper >> 15 else upper | 0x8000


def reference_state(pictures: list[Masked]) -> dict[str, Any]:
    """Return the state of the only bucket, from fractions and the definition of each key."""
    dtype = pictures[0][0].dtype.name
    integer, channels = dtype.startswith("u"), pictures[0][0].shape[2]
    bits = 64 if integer else 1074
    bins = 256 if dtype == "uint8" else 65536
    columns = [[v for picture in pictures for v in samples(picture, c)] for c in range(channels)]
    histogram = []
    for column in columns:
        counts = Counter(bin_of(v, dtype) for v in column)
        histogram.append(run_length_encode([counts[i] for i in range(bins)]))
    hidden = [[~valid[:, :, c] for _, valid in pictures] for c in range(channels)]
    invalid = [sum(int(mask.sum()) for mask in masks) for masks in hidden]
    names = ("mean", "std", "sample_std", "variance", "square", "scatter")
    sums = {name: [0] * channels for name in names}
    counted, sampled = [0] * channels, [0] * channels
    for picture, c in itertools.product(pictures, range(channels)):
        values = samples(picture, c)
        n, s, q = len(values), sum(values), sum(v * v for v in values)
        if not n:
            continue
        counted[c] += 1
        sampled[c] += n > 1
        spread = n * q - s * s
        if integer:
            mean, root = float(Fraction(s) / n), math.sqrt(float(spread))
            of_sample = root / math.sqrt(float(n) * (n - 1)) if n > 1 else 0.0
            row = [mean, root / n, of_sample, float(spread) / (float(n) * n), mean * mean, float(spread) / n]
            exact = [int(Fraction(v) * 2**bits) for v in row]
        else:
            stds = (
                sqrt_fraction(Fraction(spread, n * n)),
                sqrt_fraction(Fraction(spread, n * (n - 1))) if n > 1 else 0.0,
            )
            precise = [Fraction(s) / n, *map(Fraction, stds), Fraction(spread) / n**2, (Fraction(s) / n) ** 2]
            precise.append(Fraction(spread) / n)
            exact = [math.floor(v * 2**bits + Fraction(1, 2)) for v in precise]
        for name, value in zip(names, exact, strict=True):
            sums[name][c] += value
    per_image: dict[str, Any] = {"bits": bits, "images": len(pictures)}
    if set(counted) != {len(pictures)}:
        per_image["counted"] = counted
    per_image |= {"sampled": one(sampled), **{name: [str(v) for v in row] for name, row in sums.items()}}
    head: dict[str, Any] = {"channels": channels, "dtype": dtype if integer else "float"}
    left_out = {"invalid": invalid} if any(invalid) else {}
    if integer:
        return {**head, "unit": 1, **left_out, "histogram": histogram, "per_image": per_image}
    size = sum(pixels.shape[0] * pixels.shape[1] for pixels, _ in pictures)
    lowest, highest = [], []
    for c in range(channels):
        each = [values for picture in pictures if (values := samples(picture, c))]
        lowest.append({"values": sorted(float(min(values)) for values in each), "bound": None})
        highest.append({"values": sorted(0.0 - float(max(values)) for values in each), "bound": None})
    return {
        **head,
        "pixels": one([len(column) for column in columns]),
        **left_out,
        "not_finite": one([size - len(column) - n for column, n in zip(columns, invalid, strict=True)]),
        "histogram": histogram,
        "total": [str(int(sum(column) * 2**1074)) for column in columns],
        "squares": [str(int(sum(v * v for v in column) * 2**2148)) for column in columns],
        "lowest": lowest,
        "highest": highest,
        "per_image": per_image,
    }
