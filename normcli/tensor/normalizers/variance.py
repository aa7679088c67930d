"""Mean-variance normalization: an operator without parameters."""

from typing import Any

import numpy as np

from normcli.tensor.normalizers.axes import Axes, axis_numbers
from normcli.tensor.normalizers.gradients import prepare_rows_vjp
from normcli.tensor.normalizers.moments import affine, channel_moments
from normcli.tensor.normalizers.registry import gradient, normalizer
from normcli.tensor.normalizers.running import require_two_values
from normcli.tensor.normalizers.views import Array, Dtype, Layout, Tensor, channel_axis, channels, normalize, tokens


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


@gradient("mean_variance_norm", "dx")
def mean_variance_norm_vjp(
    x: Tensor, dy: Tensor, *, layout: Layout | None = None, axes: Axes | None = None, eps: float = 1e-9
) -> dict[str, Array]:
    """Pull dy back through mean_variance_norm: dx; 0 if all elements are equal."""
    if axes is None:
        channel = channel_axis(x, layout)
        over = tuple(a for a in range(len(x.shape)) if a != channel)
    else:
        if layout is not None:
            channel_axis(x, layout)
        over = axis_numbers(axes, len(x.shape))
    pair, dx = prepare_rows_vjp(x, dy, over)
    if axes is None:
        require_two_values(pair.view.samples * pair.view.length)

    def pull(samples: slice, x: Array, g: Array) -> None:
        z = x - x.mean(axis=2, keepdims=True)
        std = np.sqrt((z * z).mean(axis=2, keepdims=True))
        s = std + eps
        along = (g * z).mean(axis=2, keepdims=True)
        slope = np.where(std > 0, along / (np.where(std > 0, std, 1.0) * s * s), 0.0)
        pair.view.put(dx, samples.start, samples.stop, (g - g.mean(axis=2, keepdims=True)) / s - z * slope)

    pair.blocks(pull)
    return {"dx": dx}
