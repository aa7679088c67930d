"""Folding the norms of a checkpoint: pairs of layers checked, folded in float64, rounded once and measured."""

import json
import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from normcli.errors import TensorError, UsageError
from normcli.options.field import parse_size
from normcli.options.tensor import FoldOptions
from normcli.storage.safetensors_format import bfloat16
from normcli.tensor import files
from normcli.tensor.checkpoint import TensorFile, open_checkpoint
from normcli.tensor.files import Array
from normcli.tensor.folding import arithmetic
from normcli.tensor.folding.arithmetic import Linear, NormMap
from normcli.tensor.folding.network import INPUT, Network, identity_of, is_next, numbers_left_out
from normcli.tensor.folding.proof import Outputs, departure, find_pairs

log = logging.getLogger("normcli.tensors")

_CENTERED = "mean-centering"


@dataclass(frozen=True, kw_only=True)
class FoldedPair:
    """One pair of layers that was folded.

    Attributes:
        pair: as it was requested or found, A:B.
        kind: the norm and the layer, such as "batch norm into the convolution before it".
        change: largest difference of the output from that of the unfolded pair, both in float64.
        relative: the same as a share of the largest output.
        bound: the most that rounding the folded weights can change, for inputs as large as those of the check.
        checked_on: `random input`, or the name of the file.
        proven: the outputs of the layers prove that they are adjacent.
        pad_value: values of each channel with which the folded network has to pad, if any.
    """

    pair: str
    kind: str
    change: float
    relative: float
    bound: float
    checked_on: str
    proven: bool
    pad_value: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the pair as plain data."""
        return asdict(self)


def fold(checkpoint: str | Path, output: str | Path, options: FoldOptions) -> list[FoldedPair]:
    """Fold norms into the weights next to them, and write the checkpoint without them.

    Args:
        checkpoint: file of the weights.
        output: file to write, in the format of its name.
        options: pairs and modes.

    Raises:
        UsageError: options that contradict each other.
        TensorError: layers that do not pair, are not adjacent, or cannot be folded exactly.
        OutputError: the output cannot be written.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_checkpoint(checkpoint))
        limit = parse_size("memory_limit", options.memory_limit)
        _check_output(source, str(output), limit)
        network = Network(source, options.transposed, options.eps, options.weight_offset, limit)
        if options.stats is not None:
            network.norms[INPUT] = _input_norm(Path(options.stats), options.input_range)
        x, outputs = _verification(stack, options)
        pairs = find_pairs(network, outputs or Outputs({})) if options.auto else list(options.pair)
        folder = _Folder(network, options, outputs)
        for pair in pairs:
            folder.fold(pair)
        changes = folder.changes()
        rows = folder.measured(changes, x)
        source.save_copy(str(output), changes)
    return rows


def _check_output(source: TensorFile, output: str, limit: int | None) -> None:
    """Reject an output that keeps all tensors in memory until it is written, where they do not fit."""
    if limit is not None and files.file_format(output) == ".npz":
        need = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in source.tensors.values())
        if need > limit:
            raise TensorError(
                f"{output}: a .npz keeps all tensors in memory, {need:,} bytes, the limit is {limit:,}: raise "
                "`memory_limit`, or write .safetensors"
            )


def _input_norm(path: Path, input_range: str) -> NormMap:
    """Return the normalization of the dataset as a norm of its own.

    Raises:
        TensorError: not a statistics file, or a std that is not positive.
        UsageError: a range for statistics in raw units.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        is_raw = document["range"] == "raw"
        mean, std = (np.array(document[key], np.float64) for key in ("mean", "std"))
    except OSError as error:
        raise TensorError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TensorError(f"{path}: not a statistics file with mean, std and range") from None
    if document.get("complete") is False or document.get("sample"):
        log.warning("%s: not the statistics of the complete dataset (`normcli show` prints what is missing)", path)
    if mean.ndim != 1 or mean.shape != std.shape or not (np.isfinite(mean).all() and (std > 0).all()):
        raise TensorError(f"{path}: mean and std must be one finite number per channel, and std positive")
    if is_raw and input_range != "0-1":
        raise UsageError(f"`input_range` cannot be combined with {path}, whose statistics are in raw units")
    low, high = (0.0, 1.0) if is_raw else parse_range(input_range)
    scale = 1.0 / ((high - low) * std)
    return NormMap(INPUT, scale, -low * scale - mean / std, True)


def parse_range(text: str) -> tuple[float, float]:
    """Return the ends of a range.

    >>> parse_range("0-255"), parse_range("-1,1")
    ((0.0, 255.0), (-1.0, 1.0))

    Raises:
        UsageError: not two numbers, the lower first.
    """
    parts = text.split(",") if "," in text else text.split("-")
    try:
        low, high = map(float, parts)
        if low < high:
            return low, high
    except ValueError:
        pass
    raise UsageError(f"`input_range`: must be 0-1, 0-255 or LOW,HIGH such as -1,1, not {text!r}")


def _verification(stack: ExitStack, options: FoldOptions) -> tuple[Array | None, Outputs | None]:
    """Return the input to check on, or the outputs of the layers."""
    if options.verify is None:
        return None, None
    limit = parse_size("memory_limit", options.memory_limit)
    tensors = stack.enter_context(files.open_tensors(str(options.verify), limit=limit))
    if list(tensors) in ([""], [files.split_key(str(options.verify))[1]]):
        if options.auto:
            raise UsageError("`auto` requires outputs of the layers in `verify`, each under its name, not one tensor")
        return files.read_array(next(iter(tensors.values()))), None
    return None, Outputs(tensors)


class _Folder:
    """The pairs that were folded so far."""

    def __init__(self, network: Network, options: FoldOptions, outputs: Outputs | None) -> None:
        self._network, self._options, self._outputs = network, options, outputs
        self._rows: list[tuple[FoldedPair, list[str]]] = []
        self._followed: set[str] = set()  # norms that were folded into the layer before them
        self._folded: dict[str, None] = {}

    def fold(self, pair: str) -> None:
        """Fold one pair.

        Raises:
            TensorError: the layers do not pair, or cannot be folded exactly.
        """
        first, colon, second = pair.partition(":")
        before, after = ([name.strip() for name in side.split(",") if name.strip()] for side in (first, second))
        if not colon or not before or not after:
            raise UsageError(f"`pair`: must be A:B, two layers in the order of the data, not {pair!r}")
        if INPUT in before and INPUT not in self._network.norms:
            raise UsageError(f"`pair` {pair} requires `stats`, the statistics file of the dataset")
        norms = [name for name in (*before, *after) if self._network.is_norm(name)]
        if len(norms) != 1 or (norms[0] in before and len(before) > 1) or (norms[0] in after and len(after) > 1):
            count = "no norm" if not norms else f"{len(norms)} norms" if len(norms) > 1 else "a norm among other layers"
            raise TensorError(f"{pair}: {count} in it: a pair is a layer and a norm, in the order of the data")
        norm = self._network.norm(norms[0])
        proven = self._prove(pair, before, after, norm)
        if norm.name in after:
            self._fold_behind(pair, before, norm, proven)
        else:
            self._fold_ahead(pair, norm, after, proven)

    def _fold_behind(self, pair: str, layers: list[str], norm: NormMap, proven: bool) -> None:
        """Fold a norm into the layers before it."""
        if norm.name in self._followed or norm.name in self._folded:
            raise TensorError(f"{pair}: {norm.name} is folded twice")
        if norm.running and len(layers) > 1:
            raise TensorError(f"{pair}: {norm.name} follows one layer, not {len(layers)}: fold each with its own norm")
        for name in layers:
            layer = self._network.layer(name, norm, after=True)
            if layer.after and norm.running:
                raise TensorError(f"{pair}: a norm behind {name} is folded already")
            folded = arithmetic.fold_after(layer, norm) if norm.running else arithmetic.center(layer, norm)
            self._network.layers[name] = folded
        if norm.running:
            self._folded[norm.name] = None
        self._followed.add(norm.name)
        what = "batch norm" if norm.running else _CENTERED
        kind = f"{what} into the {self._network.layers[layers[0]].kind} before it"
        self._add(pair, kind, layers, proven)

    def _fold_ahead(self, pair: str, norm: NormMap, layers: list[str], proven: bool) -> None:
        """Fold a norm into the layers behind it."""
        if norm.name in self._followed and norm.running:
            raise TensorError(f"{pair}: {norm.name} is folded twice")
        pad_value = None
        for name in layers:
            layer = self._network.layer(name, norm)
            if layer.after or layer.before:
                raise TensorError(f"{pair}: {name} has a fold already: name the pairs in the order of the data")
            pad_value = self._pad_value(pair, norm, layer) or pad_value
            self._network.layers[name] = arithmetic.fold_before(layer, norm)
        self._folded[norm.name] = None
        what = "input normalization" if norm.name == INPUT else "batch norm" if norm.running else "weight of the norm"
        self._add(pair, f"{what} into the {self._network.layers[layers[0]].kind} behind it", layers, proven, pad_value)

    def _add(
        self, pair: str, kind: str, layers: list[str], proven: bool, pad_value: tuple[float, ...] | None = None
    ) -> None:
        nan = float("nan")
        row = FoldedPair(
            pair=pair, kind=kind, change=nan, relative=nan, bound=nan, checked_on="", proven=proven, pad_value=pad_value
        )
        self._rows.append((row, layers))

    def _pad_value(self, pair: str, norm: NormMap, layer: Linear) -> tuple[float, ...] | None:
        """Return the values to pad with, or None if nothing is padded.

        Raises:
            TensorError: padding makes the fold inexact.
        """
        if layer.weight.ndim == 2 or layer.taps == 1 or not norm.shift.any() or layer.name in self._options.unpadded:
            return None
        if layer.transposed:
            raise TensorError(
                f"{pair}: the elements at the border of a transposed convolution's output get fewer taps, so the shift "
                "of the norm is no bias there: it cannot be folded exactly"
            )
        with np.errstate(all="ignore"):
            values = np.where(norm.shift == 0, 0.0, -norm.shift / norm.scale)
        shown = ", ".join(f"{value:.6g}" for value in values[:4]) + (", ..." if values.size > 4 else "")
        choice = self._options.pad_value
        if choice is None:
            raise TensorError(
                f"{pair}: {layer.name} has a kernel of {'x'.join(map(str, layer.weight.shape[2:]))} and may "
                f"pad: a 0 behind the norm is {shown} before it, so plain zeros would make the borders wrong "
                f"(--unpadded {layer.name} if it does not pad; --pad-value channel if the folded network pads with "
                "these values)"
            )
        if not np.isfinite(values).all():
            raise TensorError(f"{pair}: no value pads a channel whose scale is 0 (--unpadded, if nothing is padded)")
        if choice != "channel":
            try:
                number = float(choice)
            except ValueError:
                raise UsageError(f"`pad_value`: must be channel or a number, not {choice!r}") from None
            if not np.allclose(values, number, rtol=1e-6, atol=1e-9):
                raise TensorError(f"{pair}: --pad-value {choice} is not what was padded: before the norm it is {shown}")
        return tuple(values.tolist())

    def _prove(self, pair: str, before: list[str], after: list[str], norm: NormMap) -> bool:
        """Check that the layers are adjacent; return True where the outputs prove it.

        Raises:
            TensorError: other layers are between them, or the outputs contradict it.
        """
        shares: list[float | None] = []
        if self._outputs is not None:
            for one in before:
                for two in after:
                    layer = norm if two == norm.name else self._network.layer(two, norm)
                    shares.append(departure(self._outputs, one, two, layer))
        known = [share for share in shares if share is not None]
        if known and max(known) > 1:
            raise TensorError(
                f"{pair}: not adjacent: in {self._options.verify} the output of {after[0]} is not that of {before[0]} "
                "put through it (an activation or another layer is between them, or the run was not in eval mode)"
            )
        if known and len(known) == len(shares):
            return True
        if self._options.assume_adjacent or INPUT in before:
            return False
        if norm.running and norm.name in before and not all(is_next(norm.name, name) for name in after):
            raise TensorError(
                f"{pair}: not proven to be adjacent: behind a batch norm there mostly is an activation, across which "
                "it is never folded (--verify OUTPUTS proves it on data; --assume-adjacent if nothing is)"
            )
        # the order of layers of a transformer in a file is not that of the data; that in a sequence is
        find = self._network.between if norm.running else numbers_left_out
        between = [name for name in find(before[-1], after[0]) if name not in (*before, *after)]
        if between:
            listed = ", ".join(between[:4])
            raise TensorError(
                f"{pair}: not adjacent: {listed} between them in the file, and a norm is never folded across an "
                "activation (--verify OUTPUTS proves it on data; --assume-adjacent if nothing is)"
            )
        return False

    def changes(self) -> dict[str, Any]:
        """Return the tensors of the folded checkpoint that differ from the original.

        Raises:
            TensorError: a weight overflows its type.
        """
        network, options = self._network, self._options
        changes: dict[str, Any] = {}
        for name, layer in network.layers.items():
            if not layer.before and not layer.after:
                continue
            members = network.members(name)
            stored = network.source.named(members["weight"]).dtype
            dtype = stored if options.dtype is None else _dtype(options.dtype)
            changes[members["weight"]] = _rounded(name, layer.weight, dtype)
            if layer.bias is not None:
                changes[members.get("bias", f"{name}.bias")] = _rounded(name, layer.bias, dtype)
        for name in self._folded:
            if name != INPUT:
                drop = options.norms == "drop" or (options.norms == "auto" and network.norms[name].running)
                changes |= identity_of(network, name, drop, options.eps, options.weight_offset)
        return changes

    def measured(self, changes: Mapping[str, Any], x: Array | None) -> list[FoldedPair]:
        """Return the pairs with the difference that each makes.

        Raises:
            TensorError: no layer takes the tensor to check on.
        """
        low, high = parse_range(self._options.input_range)
        rows, used = [], x is None
        for row, layers in self._rows:
            differences = []
            checked_on = "random input"
            for name in layers:
                layer, original = self._network.layers[name], self._network.originals[name]
                groups = _groups(layer, x)
                patches = None if x is None else arithmetic.patches_of(x, layer, groups)
                if patches is not None:
                    used, checked_on = True, str(self._options.verify)
                else:
                    is_input = any(norm.name == INPUT for norm in layer.before)
                    ends = (low, high) if is_input else (None, None)
                    patches = arithmetic.random_patches(layer, groups, *ends)
                members = self._network.members(name)
                weight = changes[members["weight"]]
                bias = changes.get(members.get("bias", f"{name}.bias"))
                differences.append(arithmetic.measure(original, layer, weight, bias, patches, groups))
            worst = max(differences, key=lambda difference: difference.largest)
            rows.append(
                replace(
                    row,
                    change=worst.largest,
                    relative=max(difference.relative for difference in differences),
                    bound=max(difference.bound for difference in differences),
                    checked_on=checked_on,
                )
            )
        if not used and x is not None:
            raise TensorError(f"{self._options.verify}: no folded layer takes a tensor of shape {x.shape}")
        return rows


def _dtype(name: str) -> np.dtype[Any]:
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def _groups(layer: Linear, x: Array | None) -> int:
    """Return the groups of a layer, from the norms next to it or from the channels of its input."""
    before = next((norm.channels for norm in layer.before), None)
    after = next((norm.channels for norm in layer.after if norm is not None), None)
    if before is None and not layer.transposed and x is not None and x.ndim == layer.weight.ndim:
        before = x.shape[1]
    return layer.groups(before, after) or 1


def _rounded(name: str, values: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):
        rounded = values.astype(dtype)
    if not np.isfinite(rounded.astype(np.float64)).all():
        raise TensorError(f"{name}: folded weights up to {np.abs(values).max():g} overflow {dtype} (--dtype float32)")
    return rounded
