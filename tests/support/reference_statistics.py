"""A slow, independent twin of the counting: big integers and fractions on decoded arrays, no histogram."""

import math
from collections.abc import Iterable
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def root(square: Fraction) -> float:
    """Compute a square root to 60 digits, rounded once."""
    with localcontext() as context:
        context.prec = 60
        return float((Decimal(square.numerator) / Decimal(square.denominator)).sqrt())


def sums(image: Array, channel: int) -> tuple[int, int, int]:
    """Return number, sum and sum of squares of one channel in Python's integers."""
    values = image[:, :, channel].ravel().astype(object)
    return len(values), int(values.sum()), int((values * values).sum())


def statistics(images: Iterable[Array], channels: int) -> dict[str, Any]:
    """Return mean and std in every convention, scaled to 0-1; gray images repeat their channel."""
    rows = []  # per image, per channel: n, sum, squares, white
    for image in images:
        white = 255 if image.dtype == np.uint8 else 65535
        per_channel = [sums(image, min(c, image.shape[2] - 1)) for c in range(channels)]
        rows.append([(n, s, q, white) for n, s, q in per_channel])
    out: dict[str, Any] = {"pooled_population": [], "pooled_sample": []}
    image_stds: dict[str, list[float | None]] = {"mean_of_image_stds": [], "mean_of_image_sample_stds": []}
    image_stds |= {"root_mean_image_variance": [], "pooled_within_images": []}
    means, image_means = [], []
    for c in range(channels):
        column = [row[c] for row in rows]
        number = sum(n for n, _, _, _ in column)
        total = sum((Fraction(s, w) for _, s, _, w in column), Fraction())
        squares = sum((Fraction(q, w * w) for _, _, q, w in column), Fraction())
        spread = squares - total * total / number
        means.append(float(total / number))
        out["pooled_population"].append(root(spread / number))
        out["pooled_sample"].append(root(spread / (number - 1)) if number > 1 else None)
        variances = [(Fraction(q, n) - Fraction(s, n) ** 2) / (w * w) for n, s, q, w in column]
        image_means.append(math.fsum(s / n / w for n, s, _, w in column) / len(column))
        image_stds["mean_of_image_stds"].append(math.fsum(map(root, variances)) / len(column))
        sampled = [root(v * n / (n - 1)) for v, (n, _, _, _) in zip(variances, column, strict=True) if n > 1]
        image_stds["mean_of_image_sample_stds"].append(math.fsum(sampled) / len(sampled) if sampled else None)
        image_stds["root_mean_image_variance"].append(root(sum(variances, Fraction()) / len(column)))
        # Orfeo ToolBox: sum of var_i (n_i - 1), var_i with divisor n_i - 1, over N - M
        within = sum((v * n for v, (n, _, _, _) in zip(variances, column, strict=True)), Fraction())
        freedom = number - len(column)
        image_stds["pooled_within_images"].append(root(within / freedom) if freedom else None)
    return {"mean": means, "image_mean": image_means, **out, **image_stds}


def histogram(images: Iterable[Array], channel: int, bins: int) -> list[int]:
    """Return the counts of the values of one channel."""
    counts = [0] * bins
    for image in images:
        values, numbers = np.unique(image[:, :, channel], return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            counts[value] += number
    return counts
