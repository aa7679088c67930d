"""What is settled before the first image is mapped: settings that go together, and what they are called."""

import os
from dataclasses import asdict, replace
from typing import Any

from normcli.errors import UsageError
from normcli.images import Reading
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


def check(orientation: str, on_error: str, again: int) -> None:
    """Refuse settings that cannot be.

    Raises:
        UsageError: one of them cannot be.
    """
    if orientation not in ("apply", "ignore"):
        raise UsageError(f"orientation {orientation!r}: choose from apply, ignore")
    if again > 1:
        raise UsageError("resume, force and skip-existing exclude each other")
    if on_error not in ("skip", "fail"):
        raise UsageError(f"on-error {on_error!r}: choose from skip, fail")


def shard_size(to: str, asked: str | int | None, skip_existing: bool) -> ShardSize | None:
    """The size of shards; None where none are written.

    Raises:
        UsageError: not such a size, or an option that does not go with what is written.
        MissingExtraError: --to parquet without pyarrow.
    """
    if not output_kind(to).shard:
        if asked is not None:
            raise UsageError(f"--shard-size goes with --to tar and --to parquet, not {to}")
        return None
    if skip_existing:
        raise UsageError(f"--skip-existing goes with one file for each image, and --to {to} is resumed: --resume")
    if to == "parquet":
        parquet_modules()
    return ShardSize.of(DEFAULT if asked is None else asked)


def transform_for(
    to: str, *, scheme: str, dtype: str | None, layout: str | None, order: str | None, **settings: Any
) -> Transform:
    """The transform that a kind of output asks for, without constants yet.

    Raises:
        UsageError: settings that cannot be.
    """
    dtype, layout, order = resolve_output(to, dtype, layout, order)
    kept = "uint8" if dtype == "uint16" else dtype
    made = build_transform.build_transform(scheme, dtype=kept, layout=layout, order=order, **settings)
    return replace(made, dtype=dtype)


def refuse_occupied(folder: str, allowed: bool) -> None:
    """Refuse an output folder that holds something.

    Raises:
        UsageError: it does, and nothing was said of it.
    """
    found = manifest.find_content(folder)
    if found is None or allowed:
        return
    if found == "an interrupted run":
        raise UsageError(f"{folder} holds an interrupted run: --resume completes it, --force starts anew")
    raise UsageError(
        f"{folder} is not empty ({found}): --resume or --skip-existing write what is missing, --force overwrites"
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
                f"channel {', '.join(flat)} has std 0 over the whole dataset: "
                "--zero-std one or eps:X maps it all the same"
            )


def kept_statistics(folder: str, reading: Reading, range: int | None) -> Summary | None:
    """The statistics that the run which is resumed had computed; None where it had none.

    Raises:
        UsageError: they were made of images read in another way.
    """
    path = os.path.join(folder, naming.STATISTICS)  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        return None
    found = Summary.load(path)
    numbers.check_contract(found, {**asdict(reading), "max_value": range}, path)
    return found


def head(work: MapJob, names: str, size: ShardSize | None) -> Record:
    """What must be the same for a run to be resumed: settings and numbers."""
    transform, reading = work.transform, work.reading
    settings = {
        "scheme": transform.scheme,
        **dict(transform.settings),
        **{key: getattr(transform, key) for key in ("zero_std", "dtype", "layout", "order", "range", "nan")},
        "clip": None if transform.clip is None else list(transform.clip),
        "to": work.to,
        "names": names,
        "orientation": work.orientation,
        **{key: getattr(reading, key) for key in ("color", "alpha", "cmyk", "integrity", "resize", "center_crop")},
        **({} if size is None else {"shard_size": str(size)}),
    }
    constants = transform.constants
    return {
        "schema": manifest.SCHEMA,
        "settings": settings,
        "constants": None if constants is None else constants.record(),
        **({} if work.classes is None else {"classes": list(work.classes)}),
    }
