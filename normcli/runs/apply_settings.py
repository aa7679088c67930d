"""Checks before the first image is mapped, and the settings that a manifest records."""

import os
from dataclasses import asdict, fields, replace

from normcli.errors import UsageError
from normcli.options.apply import ApplyOptions, ConstantsOptions, TransformOptions
from normcli.options.images import DecodeOptions, ValueOptions
from normcli.runs import build_transform, manifest
from normcli.runs import map_constants as numbers
from normcli.runs import names as naming
from normcli.runs.map_batch import MapJob
from normcli.runs.transform import Transform
from normcli.sinks import output_kind, resolve_output
from normcli.sinks.shards import DEFAULT, ShardSize
from normcli.sinks.sink import Record
from normcli.sources.parquet import parquet_modules
from normcli.summary import Summary

_TRANSFORM_SETTINGS = ("zero_std", "dtype", "output_layout", "channel_order", "max_value", "nan")


def shard_size(options: ApplyOptions) -> ShardSize | None:
    """Return the size of shards; None where none are written.

    Raises:
        UsageError: not such a size, or an option that this kind of output does not know.
        MissingExtraError: `to` is "parquet", and pyarrow is not installed.
    """
    if not output_kind(options.to).shard:
        if options.shard_size is not None:
            raise UsageError(f"`shard_size` requires `to` tar or parquet, not {options.to}")
        return None
    if options.skip_existing:
        raise UsageError(f"`skip_existing` cannot be combined with `to` {options.to}; use `resume`")
    if options.to == "parquet":
        parquet_modules()
    return ShardSize.of(DEFAULT if options.shard_size is None else options.shard_size)


def transform_for(options: ApplyOptions) -> Transform:
    """Return the transform that a kind of output asks for, without constants yet.

    Raises:
        UsageError: options that contradict each other.
    """
    dtype, layout, order = resolve_output(options.to, options.dtype, options.output_layout, options.channel_order)
    settings = {f.name: getattr(options, f.name) for group in (ConstantsOptions, ValueOptions) for f in fields(group)}
    transform_options = TransformOptions(
        **settings,
        dtype="uint8" if dtype == "uint16" else dtype,  # type: ignore[arg-type]
        output_layout=layout,  # type: ignore[arg-type]
        channel_order=order,  # type: ignore[arg-type]
        color=options.color,
    )
    return replace(build_transform.build_transform(options.scheme, transform_options), dtype=dtype)


def refuse_occupied(folder: str, allowed: bool) -> None:
    """Refuse an output folder that holds something.

    Raises:
        UsageError: it does, and nothing was said of it.
    """
    content = manifest.find_content(folder)
    if content is None or allowed:
        return
    if content == "an interrupted run":
        raise UsageError(f"{folder}: contains an interrupted run (`resume` completes it, `force` starts anew)")
    raise UsageError(
        f"{folder}: is not empty: {content} (`resume` or `skip_existing` write what is missing, `force` overwrites)"
    )


def refuse_constant(transform: Transform) -> None:
    """Tell of a zero std before the first image, where it is the dataset's.

    Raises:
        UsageError: naming the channels.
    """
    if transform.constants is None or transform.scheme != "contrast":
        return
    if transform.zero_std == "error":
        flat = [c for c, s in zip(transform.constants.channels, transform.constants.std, strict=True) if s == 0]
        if flat:
            raise UsageError(
                f"channel {', '.join(flat)} has std 0 over the complete dataset (`zero_std` one or eps:X maps it)"
            )


def kept_statistics(folder: str, options: ApplyOptions) -> Summary | None:
    """The statistics that the run which is resumed had computed; None where it had none.

    Raises:
        UsageError: they were made of images read in another way.
    """
    path = os.path.join(folder, naming.STATISTICS)  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        return None
    summary = Summary.load(path)
    settings = {**asdict(options.part(DecodeOptions)), "max_value": options.white_level}
    numbers.check_contract(summary, settings, path)
    return summary


def head(work: MapJob, no_suffix: bool, size: ShardSize | None) -> Record:
    """Return the settings and constants that must be equal for a run to be resumed."""
    transform, reading = work.transform, work.reading
    settings = {
        "scheme": transform.scheme,
        **dict(transform.settings),
        **{key: getattr(transform, key) for key in _TRANSFORM_SETTINGS},
        "clip": None if transform.clip is None else list(transform.clip),
        "to": work.to,
        "no_suffix": no_suffix,
        "orientation": work.orientation,
        **{key: getattr(reading, key) for key in ("color", "alpha", "strict", "resize", "center_crop")},
        **({} if size is None else {"shard_size": str(size)}),
    }
    constants = transform.constants
    return {
        "schema": manifest.SCHEMA,
        "settings": settings,
        "constants": None if constants is None else constants.record(),
        **({} if work.classes is None else {"classes": list(work.classes)}),
    }
