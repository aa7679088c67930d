"""Batch normalization followed by noise that no later layer can undo."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from normcli.errors import UsageError
from normcli.tensor.normalizers.batch import INITIAL, PRESETS, RunningVar, batch_statistics, exact_state
from normcli.tensor.normalizers.gradients import (
    batch_vjp,
    broadcast_channels,
    fixed_vjp,
    parameter_gradients,
    prepare_running_vjp,
)
from normcli.tensor.normalizers.moments import affine, channel_moments
from normcli.tensor.normalizers.registry import Normalized, State, gradient, normalizer
from normcli.tensor.normalizers.running import Mode, prepare, require_two_values, update_running_stats
from normcli.tensor.normalizers.views import (
    WORKING_COPIES,
    Array,
    Dtype,
    Layout,
    Tensor,
    View,
    current_resources,
    parallel_blocks,
    resources,
)

_LARGEST = 1e100  # of the noise; NumPy draws from no range that float64 overflows


class _Drawn:
    """Numbers for every element (N, C, S), drawn in the order of the samples, from the first again after the last."""

    def __init__(self, state: Any, skip: int, draw: Callable[[np.random.Generator, int], Array]) -> None:
        self._state, self._skip, self._draw = state, skip, draw
        self._generator: np.random.Generator | None = None

    def __getitem__(self, samples: slice) -> Array:
        """Return the numbers of the samples that follow those of the last call, or of the first samples."""
        if samples.start == 0 or self._generator is None:
            bits = np.random.PCG64()
            bits.state = self._state
            self._generator = np.random.Generator(bits.advance(self._skip))
        return self._draw(self._generator, samples.stop - samples.start)


def _noise(
    view: View, seed: int, step: int, n_mu: float, n_sigma: float, r_mu: float, r_sigma: float
) -> tuple[_Drawn, _Drawn]:
    """Return the shift m and the factor s of every element."""
    if not (all(0 <= width <= _LARGEST for width in (n_mu, r_mu, r_sigma)) and 1 <= n_sigma <= _LARGEST):
        raise UsageError(f"n_mu, r_mu and r_sigma must be 0 or more, n_sigma 1 or more, and all at most {_LARGEST:g}")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    draw = np.random.Generator(np.random.PCG64([seed, step]))
    mu = draw.uniform(-n_mu, n_mu, view.rows)[None, :, None]
    sigma = draw.uniform(1.0, n_sigma, view.rows)[None, :, None]
    state = draw.bit_generator.state
    shape = (view.rows, view.length)
    return (
        _Drawn(state, 0, lambda draw, n: draw.uniform(mu - r_mu, mu + r_mu, (n, *shape))),
        # after all of m, of which each takes one step of the generator
        _Drawn(
            state,
            math.prod((view.samples, *shape)),
            lambda draw, n: draw.normal(np.broadcast_to(sigma, (n, *shape)), r_sigma),
        ),
    )


@contextmanager
def _in_order() -> Iterator[None]:
    """Compute blocks one after the other, as the noise is drawn."""
    limits = current_resources()
    with resources(threads=1, memory_limit=limits.memory, allocate=limits.allocate):
        yield


@normalizer(family="batch", state=INITIAL, presets=PRESETS, exact=exact_state)
def noisy_batch_norm(
    x: Tensor,
    *,
    seed: int,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    update_rate: float = 0.1,
    cumulative: bool = False,
    running_var: RunningVar = "unbiased",
    n_mu: float = 0.5,
    n_sigma: float = 1.25,
    r_mu: float = 0.1,
    r_sigma: float = 0.1,
    dtype: Dtype | None = None,
) -> Normalized:
    """Add noise that is not of mean 0 and std 1 after batch normalization.

    Formula:
        y = s * batch_norm(x) + m, per element m ~ U(mu - r_mu, mu + r_mu) and s ~ N(sig, r_sigma),
        per channel mu ~ U(-n_mu, n_mu) and sig ~ U(1, n_sigma); r_sigma is a std; no noise in eval mode.
        Draws from PCG64([seed, batches before this one]) in the order mu (C), sig (C), m, s (N, C, S).
    Paper:
        Santurkar et al. 2018, arXiv 1805.11604, section 2.1 and Algorithm 1
    Axes:
        (N, S), one statistic per channel
    State:
        running_mean, running_var, num_batches_tracked
    Settings:
        seed: start of the random draws; the same seed repeats the noise
        n_mu: bound of the mean shift of a channel
        n_sigma: upper bound of the mean factor of a channel
        r_mu: half width of an element's shift around its channel's
        r_sigma: std of an element's factor around its channel's
    Raises:
        TensorError: fewer than 2 values per channel in training; no state in eval mode.

    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0]])
    >>> noisy_batch_norm(x, seed=1, n_mu=0, n_sigma=1, r_mu=0, r_sigma=0, eps=0).y.ravel().tolist()
    [-1.0, 1.0]
    >>> noisy_batch_norm(x, seed=1).y.ravel().round(3).tolist()
    [-1.387, 1.384]
    """
    view, running, scale, shift = prepare(x, layout, weight, bias, state, mode, INITIAL)
    if mode == "eval":
        scale = scale / np.sqrt(running["running_var"] + eps)
        return Normalized(affine(view, running["running_mean"], scale, shift, dtype), running.state)
    require_two_values(view.samples * view.length)
    moments = channel_moments(view).over(0)
    m, s = _noise(view, seed, running.batches, n_mu, n_sigma, r_mu, r_sigma)
    r = broadcast_channels(scale / np.sqrt(moments.var + eps))
    out = view.allocate(dtype)

    def add_noise(start: int, stop: int) -> None:
        samples = slice(start, stop)
        block = view.block(start, stop).astype(np.float64)
        factor, offset = (p if len(p) == 1 else p[samples] for p in (r, broadcast_channels(shift)))
        y = s[samples] * ((block - broadcast_channels(moments.mean)) * factor + offset) + m[samples]
        view.put(out, start, stop, y)

    with _in_order():
        parallel_blocks(view.samples, view.sample_bytes, add_noise, copies=WORKING_COPIES)
    running = update_running_stats(running, batch_statistics(moments, running_var), update_rate, cumulative)
    return Normalized(out, running.state)


@gradient("noisy_batch_norm", "dx", "dweight", "dbias")
def noisy_batch_norm_vjp(
    x: Tensor,
    dy: Tensor,
    *,
    seed: int,
    layout: Layout | None = None,
    mode: Mode = "train",
    state: State | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    n_mu: float = 0.5,
    n_sigma: float = 1.25,
    r_mu: float = 0.1,
    r_sigma: float = 0.1,
) -> dict[str, Array]:
    """Pull dy back through noisy_batch_norm; in training with the noise of the same seed and step."""
    vjp, running = prepare_running_vjp(x, dy, layout, weight, bias, state, mode, INITIAL)
    view = vjp.view
    if mode == "eval":
        scale = 1.0 / np.sqrt(running["running_var"] + eps)
        return fixed_vjp(x, vjp, running["running_mean"], scale, weight, bias)
    step = running.batches
    require_two_values(view.samples * view.length)
    _, s = _noise(view, seed, step, n_mu, n_sigma, r_mu, r_sigma)
    moments = channel_moments(view).over(0)
    scale = 1.0 / np.sqrt(broadcast_channels(moments.var) + eps)
    with _in_order():
        dbias, dweight = batch_vjp(vjp, moments, scale, noise=s)
    return {"dx": vjp.dx, **parameter_gradients(x, (dweight, dbias), weight, bias)}
