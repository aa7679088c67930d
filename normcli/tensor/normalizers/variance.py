"""Mean-variance normalization: an operator without parameters."""

from typing import Any

import numpy as np

from normcli.tensor.normalizers.axes import Axes, axis_numbers
from normcli.tensor.normalizers.moments import affine, channel_moments
from normcli.tensor.normalizers.registry import normalizer
from normcli.tensor.normalizers.running import require_two_values
from normcli.tensor.normalizers.views import Dtype, Layout, Tensor, channel_axis, channels, normalize, tokens


@normalizer(family="batch", presets={"onnx": {}})
def mean_variance_norm(
    x: Tensor,
    *,
    layout: Layout | None = None,
    axes: Axes | None = None,
    eps: float = 1e-9,
    dtype: Dtype | None = None,
) -> Any:
    """Subtract the mean and divide by the std; no parameters, no running statistics (MVN).

    Formula:
        y = (x - mean) / (sqrt(var) + eps); var is biased
    Paper:
        none; the operator MeanVarianceNormalization of ONNX, MVN of Caffe
    Axes:
        (N, S), one statistic per channel; or the axes given
    Settings:
        axes: axis numbers such as 0,2,3 [default: all but C]
        eps: added to the std
    Raises:
        TensorError: fewer than 2 values in a statistic.

    >>> import numpy as np
    >>> mean_variance_norm(np.array([[1.0, 10.0], [3.0, 50.0]])).round(4).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    """
    if axes is None:
        view = channels(x, layout)
        require_two_values(view.samples * view.length)
        moments = channel_moments(view).over(0)
        return affine(view, moments, 1.0 / (np.sqrt(moments.var) + eps), 0.0, dtype)
    if layout is not None:
        channel_axis(x, layout)
    return normalize(tokens(x, axis_numbers(axes, len(x.shape))), None, None, eps, dtype, eps_outside=True)
