"""Schemes that no scale and shift per channel expresses: each returns a function of levels (…,C), with float64 values.

Their outputs cannot be restored. The formulas are in modules of their own, which few runs load.
"""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from normcli.errors import InputError
from normcli.kernels.affine import Values

if TYPE_CHECKING:
    from normcli.schemes.maps import Image

Array = np.ndarray[Any, Any]


class Curve(Protocol):
    """A function of levels (…,C), with float64 values of the same shape."""

    def __call__(self, levels: Array, /) -> Array: ...


def nyul(
    image: "Image",
    *,
    over: str = "case",
    lo: float = 1.0,
    hi: float = 99.0,
    eps: float = 1e-5,
    landmarks: tuple[Values, ...],
    percentiles: tuple[Values, ...],
) -> Curve:
    """Map percentiles of each case to landmarks of the statistics' cases, from 0 to 100 (Nyul; TorchIO).

    A case is a group of the statistics: a volume with `stats --group-by label`. Invalid samples (--nodata 0, masks) do
    not count, and are mapped like all others.

    Args:
        image: its names and unit.
        over: "case", or "image" where each image is a case.
        lo: percentile that is the lowest landmark.
        hi: percentile that is the highest landmark.
        eps: width, in levels as stored, below which a segment between two percentiles is constant.
        landmarks: per channel.
        percentiles: of the case, per channel, in levels as stored or, with scale tags, in their units.
    """
    from normcli.schemes.nyul import Segments

    return Segments(np.array(percentiles), np.array(landmarks), eps)


def reinhard(image: "Image", *, mask: str = "none", mean: Values, std: Values, zero_std: str = "error") -> Curve:
    """Map each RGB image to mean and std of the statistics in L*a*b*, from 0 to 1 (Reinhard; torchstain).

    The statistics are of `stats --color lab`, of a target image or of a dataset.

    Args:
        image: its pixels (N,3) of RGB levels.
        mask: "tissue" counts pixels with an L* below 80, in the image and (`stats --color lab-tissue`) in the target.
        mean: of L*, a* and b*.
        std: of L*, a* and b*.
        zero_std: treatment of an image in which one of them is constant.
    """
    from normcli.schemes.maps import centered, divisors
    from normcli.schemes.reinhard import ColorTransfer, moments

    assert image.pixels is not None
    if image.pixels.shape[1] != 3:
        raise InputError("channels", f"reinhard maps RGB, not {image.pixels.shape[1]} channels (--color rgb)")
    white = image.full()
    own_mean, own_std = moments(image.pixels, white, tissue=mask == "tissue")
    to_unit = centered(own_mean, divisors(own_std, ("L*", "a*", "b*"), zero_std, "std"))
    scale = tuple(s * target for s, target in zip(to_unit.scale, std, strict=True))
    shift = tuple(t * target + m for t, target, m in zip(to_unit.shift, std, mean, strict=True))
    return ColorTransfer(to_unit._replace(scale=scale, shift=shift), white)


CURVES = frozenset({"nyul", "reinhard"})
