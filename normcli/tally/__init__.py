"""Exact, mergeable counts of images.

A tally contains integers only, and adding two tallies adds their integers. So no result depends on the order of
files, or on workers, shards or containers; subtraction undoes addition; the empty tally is the identity.

The names are loaded on first use: `exact`, with which a statistics file is shown, needs no NumPy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normcli.tally.floats import Floats
    from normcli.tally.integers import ImageMoments, Integers, PerImage
    from normcli.tally.tally import DIGEST_MODULUS, Bucket, Tally, bucket_dtype

_HOME = {
    "Floats": "floats",
    "Integers": "integers",
    "ImageMoments": "integers",
    "PerImage": "integers",
    **dict.fromkeys(("DIGEST_MODULUS", "Bucket", "Tally", "bucket_dtype"), "tally"),
}

__all__ = [
    "DIGEST_MODULUS",
    "Bucket",
    "Floats",
    "ImageMoments",
    "Integers",
    "PerImage",
    "Tally",
    "bucket_dtype",
]


def __getattr__(name: str) -> Any:
    """Load a name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'normcli.tally' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"normcli.tally.{_HOME[name]}"), name)
    globals()[name] = value  # the next access takes 30 ns
    return value
