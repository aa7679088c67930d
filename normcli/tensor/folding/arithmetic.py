"""Linear layers and the affine maps of norms, in float64: weight and bias of one folded into the other."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from normcli.errors import TensorError
from normcli.tensor.files import Array

_PATCHES = 4096  # of a tensor on which a fold is checked
_NOISE = 4e-16  # of a sum in float64, for each term


@dataclass(frozen=True)
class NormMap:
    """A norm in eval mode, y = scale * x + shift for each channel.

    Attributes:
        name: of the layer.
        scale: one number for each channel.
        shift: one number for each channel.
        running: the norm has running statistics, so that its scale is known completely.
    """

    name: str
    scale: Array
    shift: Array
    running: bool

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return int(self.scale.size)


@dataclass(frozen=True)
class Linear:
    """A linear layer, a convolution or an embedding, and the folds that were made in it.

    Attributes:
        name: of the layer.
        weight: as it is stored.
        bias: one number for each output; None where the layer has none.
        transposed: the input channels are the first axis of the weight.
        before: norms that were folded from before the layer, in the order of the data.
        after: norms that were folded from behind it; None is mean-centering.
    """

    name: str
    weight: Array
    bias: Array | None
    transposed: bool
    before: tuple[NormMap, ...] = field(default=())
    after: tuple[NormMap | None, ...] = field(default=())

    @property
    def taps(self) -> int:
        """Return the number of elements of a kernel."""
        return math.prod(self.weight.shape[2:])

    @property
    def kind(self) -> str:
        """Return the name of the layer."""
        if self.weight.ndim == 2:
            return "embedding or transposed linear layer" if self.transposed else "linear layer"
        return "transposed convolution" if self.transposed else "convolution"

    def groups(self, inputs: int | None = None, outputs: int | None = None) -> int:
        """Return the number of groups that a number of channels on one side implies; 0 for none."""
        first, second = self.weight.shape[:2]
        known, axis = (outputs, first) if self.transposed else (inputs, first)
        if known is None or self.weight.ndim == 2:
            return 1
        groups, rest = divmod(known, second)
        return groups if groups and not rest and not axis % groups else 0

    def outputs(self, groups: int) -> int:
        """Return the number of output channels."""
        return int(self.weight.shape[1] * groups if self.transposed else self.weight.shape[0])

    def by_group(self, groups: int) -> Array:
        """Return the weight as (groups, outputs of a group, inputs of a group, taps)."""
        first, second = self.weight.shape[:2]
        table = self.weight.reshape(groups, first // groups, second, self.taps)
        return table.swapaxes(1, 2) if self.transposed else table

    def from_groups(self, table: Array) -> Array:
        """Return a weight of its shape from the form of `by_group`."""
        return (table.swapaxes(1, 2) if self.transposed else table).reshape(self.weight.shape)


def fold_after(layer: Linear, norm: NormMap) -> Linear:
    """Fold a norm that follows a layer into its weight and bias.

    Raises:
        TensorError: the layer has not as many outputs as the norm has channels.
    """
    groups = layer.groups(outputs=norm.channels)
    if not groups or layer.outputs(groups) != norm.channels:
        raise TensorError(
            f"{layer.name} ({layer.kind} {layer.weight.shape}) and {norm.name} ({norm.channels} channels) do not pair"
        )
    scale = norm.scale.reshape(groups, -1, 1, 1)
    weight = layer.from_groups(layer.by_group(groups) * scale)
    bias = norm.shift if layer.bias is None else layer.bias * norm.scale + norm.shift
    return replace(layer, weight=weight, bias=bias, after=(*layer.after, norm))


def fold_before(layer: Linear, norm: NormMap) -> Linear:
    """Fold a norm that precedes a layer into its weight and bias.

    Raises:
        TensorError: the layer has not as many inputs as the norm has channels.
    """
    groups = 1 if layer.transposed else layer.groups(inputs=norm.channels)
    inputs = layer.weight.shape[0] if layer.transposed else layer.weight.shape[1] * groups
    if not groups or inputs != norm.channels:
        raise TensorError(
            f"{norm.name} ({norm.channels} channels) and {layer.name} ({layer.kind} {layer.weight.shape}) do not pair"
        )
    scale, shift = (values.reshape(groups, 1, -1, 1) for values in (norm.scale, norm.shift))
    table = layer.by_group(groups)
    bias = layer.bias
    if norm.shift.any():
        added = (table * shift).sum(axis=(2, 3)).reshape(-1)
        bias = added if bias is None else bias + added
    return replace(layer, weight=layer.from_groups(table * scale), bias=bias, before=(*layer.before, norm))


def center(layer: Linear, norm: NormMap) -> Linear:
    """Subtract from weight and bias their means over the outputs, so that the outputs have the mean 0.

    Raises:
        TensorError: the layer has not as many outputs as the norm has channels.
    """
    groups = layer.groups(outputs=norm.channels)
    if groups != 1 or layer.outputs(1) != norm.channels:
        raise TensorError(
            f"{layer.name} ({layer.kind} {layer.weight.shape}) and {norm.name} ({norm.channels} channels) do not pair"
        )
    table = layer.by_group(1)
    bias = None if layer.bias is None else layer.bias - layer.bias.mean()
    weight = layer.from_groups(table - table.mean(axis=1, keepdims=True))
    return replace(layer, weight=weight, bias=bias, after=(*layer.after, None))


@dataclass(frozen=True)
class Change:
    """The difference that a fold makes to the output of a layer.

    Attributes:
        largest: absolute difference on the patches.
        relative: the same as a share of the largest output.
        bound: the most that rounding can change for inputs as large as the largest of the patches.
    """

    largest: float
    relative: float
    bound: float


def measure(original: Linear, exact: Linear, weight: Array, bias: Array | None, patches: Array, groups: int) -> Change:
    """Compare a folded layer, rounded, with the unfolded layers, both in float64.

    Args:
        original: before all folds.
        exact: after them, not rounded.
        weight: of the folded layer, rounded.
        bias: of the folded layer, rounded.
        patches: inputs (N, channels, taps), as they come to the first of the layers.
        groups: of the layer.
    """
    x = patches
    for norm in exact.before:
        x = x * norm.scale[:, None] + norm.shift[:, None]
    y = _apply(original, original.bias, x, groups)
    for step in exact.after:
        y = y - y.mean(axis=1, keepdims=True) if step is None else y * step.scale[:, None] + step.shift[:, None]
    rounded = replace(exact, weight=weight.astype(np.float64))
    rounded_bias = None if bias is None else bias.astype(np.float64)
    folded = _apply(rounded, rounded_bias, patches, groups)
    largest, top = float(np.abs(folded - y).max(initial=0.0)), float(np.abs(y).max(initial=0.0))
    reach = float(np.abs(patches).max(initial=0.0))
    error = np.abs(rounded.by_group(groups) - exact.by_group(groups)).sum(axis=2)
    size = np.abs(exact.by_group(groups)).sum(axis=2)
    taps = slice(None) if original.transposed else None  # a transposed convolution: each tap is an output
    per_output = [values if taps is not None else values.sum(axis=2, keepdims=True) for values in (error, size)]
    exact_bias = np.zeros(y.shape[1]) if exact.bias is None else exact.bias
    shift = np.zeros(y.shape[1]) if rounded_bias is None else np.abs(rounded_bias - exact_bias)
    terms = patches.shape[1] * original.taps + 8
    inner = sum(float(np.abs(norm.shift).max(initial=0.0)) for norm in exact.before)
    noise = _NOISE * terms * (per_output[1].max() * (reach + inner) + float(np.abs(exact_bias).max(initial=0.0)) + top)
    bound = float((per_output[0].reshape(y.shape[1], -1).max(axis=1) * reach + shift).max()) + float(noise)
    return Change(largest, largest / top if top else 0.0, bound)


def _apply(layer: Linear, bias: Array | None, patches: Array, groups: int) -> Array:
    """Return the outputs (N, outputs, 1), or (N, outputs, taps) of a transposed convolution of single elements."""
    table = layer.by_group(groups)
    x = patches.reshape(len(patches), groups, table.shape[2], -1)
    if layer.transposed:
        y = np.einsum("ngi,goik->ngok", x[..., 0], table, optimize=True)
    else:
        y = np.einsum("ngik,goik->ngo", x, table, optimize=True)[..., None]
    y = np.asarray(y).reshape(len(patches), -1, y.shape[-1])
    return y if bias is None else np.asarray(y + bias[:, None])


def random_patches(layer: Linear, groups: int, low: float | None = None, high: float | None = None) -> Array:
    """Return random inputs of a layer: of the normal distribution, or uniform in a range."""
    generator = np.random.Generator(np.random.PCG64(0))
    channels = layer.weight.shape[0] if layer.transposed else layer.weight.shape[1] * groups
    taps = 1 if layer.transposed else layer.taps
    shape = (min(256, max(4, (1 << 18) // (channels * taps))), channels, taps)
    if low is None or high is None:
        return np.asarray(generator.standard_normal(shape))
    return np.asarray(generator.uniform(low, high, shape))


def patches_of(x: Array, layer: Linear, groups: int) -> Array | None:
    """Return inputs of a layer cut from a tensor, at most 4,096; None if its shape does not fit."""
    channels = layer.weight.shape[0] if layer.transposed else layer.weight.shape[1] * groups
    kernel = () if layer.transposed else layer.weight.shape[2:]
    space = layer.weight.ndim - 2
    generator = np.random.Generator(np.random.PCG64(0))
    if not space:
        if x.ndim < 2 or x.shape[-1] != channels:
            return None
        rows = x.reshape(-1, channels)
        chosen = rows if len(rows) <= _PATCHES else rows[np.sort(generator.choice(len(rows), _PATCHES, replace=False))]
        return chosen.astype(np.float64)[:, :, None]
    if x.ndim != space + 2 or x.shape[1] != channels or any(n < k for n, k in zip(x.shape[2:], kernel, strict=False)):
        return None
    steps = [n - k + 1 for n, k in zip(x.shape[2:], kernel or (1,) * space, strict=True)]
    total = x.shape[0] * math.prod(steps)
    picks = np.arange(total) if total <= _PATCHES else generator.integers(0, total, _PATCHES)
    sample, *corner = np.unravel_index(picks, (x.shape[0], *steps))
    out = np.empty((len(picks), channels, math.prod(kernel)))
    for i in range(len(picks)):
        window = tuple(slice(c[i], c[i] + k) for c, k in zip(corner, kernel or (1,) * space, strict=True))
        out[i] = x[(sample[i], slice(None), *window)].reshape(channels, -1)
    return out
