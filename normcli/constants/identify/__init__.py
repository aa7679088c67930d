"""Identify constants: the convention, range, channel order or mistake that explains them, from a dataset's statistics.

Every convention in every range and order is a hypothesis that predicts the constants; the constants are compared with
all of them.

    match      equal within the rounding of their digits
    close      within the tolerance: another split, subset, decoder or preprocessing
    uncertain  within the tolerance, and more than one convention or order explains them about as well
    mistake    this dataset's numbers in the wrong place: exchanged, repeated, variance for std, …
    none       no hypothesis is near

The distance is the largest, over channels, of |mean - predicted mean| / std and |log(std / predicted std)|.

"About as well" is judged by the data: the spread of the images' own stds, which is
sqrt(root_mean_image_variance^2 - mean_of_image_stds^2), is the standard error of a mean of image stds over another
sample of as many images. Where a publication documents its convention, that decides what data cannot.
"""

from normcli.constants.identify.matching import FAMILIES, TOLERANCE, check, describe_verdict, sampling_error
from normcli.constants.identify.result import CheckResult

__all__ = ["FAMILIES", "TOLERANCE", "CheckResult", "check", "describe_verdict", "sampling_error"]
