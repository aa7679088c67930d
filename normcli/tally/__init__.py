"""Exact, mergeable counts of images.

A tally contains integers only, and adding two tallies adds their integers. So no result depends on the order of
files, or on workers, shards or containers; subtraction undoes addition; the empty tally is the identity.
"""

from normcli.tally.floats import Floats
from normcli.tally.integers import Integers
from normcli.tally.per_image import ImageMoments, PerImage
from normcli.tally.tally import DIGEST_MODULUS, Bucket, Tally, bucket_dtype, digest

__all__ = [
    "DIGEST_MODULUS",
    "Bucket",
    "Floats",
    "ImageMoments",
    "Integers",
    "PerImage",
    "Tally",
    "bucket_dtype",
    "digest",
]
