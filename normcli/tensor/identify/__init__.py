"""Identification of a normalizer from its input and output.

A normalizer of the common kind is `y = weight * (x - mean) * r + bias`, where mean and r belong to sets of elements.
Every element of y was rounded, so it bounds r from both sides; the bounds of a set meet only for the right sets,
centering, weight and order of rounding, and r then bounds epsilon for each statistic and each place it can have.
All candidates within the bounds fit alike; none is chosen for being closer.
"""

from normcli.tensor.identify.results import Fit, Identification, Near, Open
from normcli.tensor.identify.search import identify

__all__ = ["Fit", "Identification", "Near", "Open", "identify"]
