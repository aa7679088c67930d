"""Names of normalizers for a partition and a statistic: the first, and others that are the same function."""

import math
from collections.abc import Iterator
from typing import Any

from normcli.tensor.identify.laws import Epsilon, Statistic
from normcli.tensor.identify.partition import Partition, Shape, layout_name

Title = tuple[str, dict[str, Any]]

NORM_ORDERS = {"l1": 1.0, "l2": 2.0, "l3": 3.0, "l4": 4.0, "linf": math.inf}


def titles(partition: Partition, shape: Shape, statistic: Statistic, eps: Epsilon) -> list[Title]:
    """Return names with their settings; the first is the usual one, the others are the same function.

    Args:
        partition: the sets.
        shape: of the tensor.
        statistic: the divisor of each set.
        eps: the number that is added to it.
    """
    if statistic.name == "std" and statistic.centered:
        named = [*_standard(partition, shape), *_standard_weight(partition, shape, statistic, eps)]
    elif statistic.name == "std":
        named = [("layer_norm", {"axes": _axes(partition), "rms_scaling": True})]
    elif statistic.name == "rms":
        named = _root_mean_square(partition, shape, eps)
    elif statistic.name in NORM_ORDERS:
        named = list(_norms(partition, shape, statistic, eps))
    else:
        formula, _, p = statistic.name.partition(" p=")
        named = [("lp_batch_norm", {**_layout(partition, shape), "formula": formula, **({"p": float(p)} if p else {})})]
    return named


def _layout(partition: Partition, shape: Shape) -> dict[str, Any]:
    return {} if partition.channel is None else {"layout": layout_name(len(shape), partition.channel)}


def _axes(partition: Partition) -> str:
    return ",".join(map(str, partition.axes))


def _groups(partition: Partition) -> dict[str, Any]:
    return {"groups": partition.groups, **({"order": "interleaved"} if partition.interleaved else {})}


def _standard(partition: Partition, shape: Shape) -> list[Title]:
    """Return the names of (x - mean) / std over a partition."""
    layout, axes = _layout(partition, shape), {"axes": _axes(partition)}
    by_axes = ("mean_variance_norm" if 0 in partition.axes else "layer_norm", axes)
    if partition.channel is None:
        if len(partition.axes) == len(shape):
            return [("tensor_norm", {}), by_axes]
        whole_sample = partition.axes == tuple(range(1, len(shape)))
        return [by_axes, *([("group_norm", {"groups": 1})] if whole_sample else []), *_instances(partition, shape)]
    if partition.split == 0:
        ghosts = "interleaved" if partition.interleaved else "contiguous"
        return [("ghost_batch_norm", {**layout, "batch": shape[0] // partition.groups, "ghosts": ghosts})]
    if partition.split is not None:
        return [("group_norm", {**layout, **_groups(partition)})]
    if 0 in partition.axes:
        renorm = ("batch_renorm", {**layout, "rmax": 1.0, "dmax": 0.0})
        others = [("mean_variance_norm", layout), renorm, ("batch_instance_norm", {**layout, "rho": 1.0})]
        return [("batch_norm", {**layout, "mode": "train"}), *others, ("lp_batch_norm", {**layout, "p": 2.0})]
    channels = shape[partition.channel]
    others = [("group_norm", {**layout, "groups": channels}), ("batch_instance_norm", {**layout, "rho": 0.0})]
    return [("instance_norm", layout), *others, by_axes]


def _instances(partition: Partition, shape: Shape) -> Iterator[Title]:
    """Yield the layouts in which reduced axes are all of space."""
    for channel in sorted({1, len(shape) - 1}) if len(shape) > 2 else ():
        if partition.axes == tuple(a for a in range(1, len(shape)) if a != channel):
            yield ("instance_norm", {"layout": layout_name(len(shape), channel)})


def _unit(partition: Partition, shape: Shape) -> dict[str, Any] | None:
    """Return the setting `dim` of a weight's normalizer, None if the other axes are not one."""
    rest = [a for a in range(len(shape)) if a not in partition.axes]
    if partition.split is not None or len(rest) > 1:
        return None
    return {"dim": rest[0] if rest else -1}


def _standard_weight(partition: Partition, shape: Shape, statistic: Statistic, eps: Epsilon) -> Iterator[Title]:
    unit = _unit(partition, shape)
    if unit is None or unit["dim"] < 0:
        return
    if statistic.variance == "unbiased" and eps.low <= 0:
        yield ("centred_weight_norm", {**unit, "divisor": "std"})
    variants = {("unbiased", "outside"): "torch", ("biased", "outside"): "tf", ("biased", "inside"): "timm"}
    variant = variants.get((statistic.variance or "", eps.place or "outside"))
    if variant is not None:
        yield ("weight_standardization", {**unit, "variant": variant})


def _root_mean_square(partition: Partition, shape: Shape, eps: Epsilon) -> list[Title]:
    layout, axes = _layout(partition, shape), {"axes": _axes(partition)}
    if partition.split is not None:
        return [("rms_norm", {**layout, **_groups(partition)})]
    if partition.channel is not None and 0 in partition.axes:
        return [("power_norm", {**layout, "groups": 0}), ("rms_norm", axes)]
    if partition.channel is not None:
        return [("filter_response_norm", layout), ("rms_norm", axes)]
    named: list[Title] = [("rms_norm", axes)]
    named += [("filter_response_norm", settings) for _, settings in _instances(partition, shape)]
    if len(partition.axes) == 1 and partition.axes[0] in (1, len(shape) - 1):
        named.append(("pixel_norm", axes))
        if eps.place in ("floor", None):
            named.append(("scale_norm", {**axes, "scale": math.sqrt(shape[partition.axes[0]])}))
    return named


def _norms(partition: Partition, shape: Shape, statistic: Statistic, eps: Epsilon) -> Iterator[Title]:
    unit = _unit(partition, shape)
    if statistic.centered:
        variant = {"inside": "scaled-timm", "floor of the square": "scaled"}.get(eps.place or "")
        if variant is not None and unit is not None:
            yield ("weight_standardization", {**unit, "variant": variant})
        else:
            yield ("centred_weight_norm", unit or {"axes": _axes(partition)})
            if unit is not None:
                yield ("weight_standardization", {**unit, "variant": "scaled"})
        return
    p = NORM_ORDERS[statistic.name]
    axes = {"axes": _axes(partition), "p": p}
    if len(partition.axes) == len(shape):
        yield ("tensor_norm", {"p": p})
    yield ("lp_normalize", axes if partition.split is None else {**axes, **_groups(partition)})
    if p == 2.0 and unit is not None:
        yield ("weight_norm", unit)
    if p == 2.0 and len(partition.axes) == 1:
        yield ("scale_norm", {"axes": _axes(partition), "scale": 1.0})
