"""Blocks of vectors, counted in a worker: every row is an input of its own."""

import numpy as np

from normcli.errors import UsageError
from normcli.options.shared import GEOMETRY
from normcli.runs.count import Failure, PartialResult, WorkerOptions
from normcli.sources import Vectors
from normcli.tally.vectors import BadRow, RowGroups, count_rows

_PER_IMAGE = {"per_image": "per_image", "rows": "sample", "mask": "mask_dir"}
_DECODING = (*GEOMETRY, "bands", "color", "alpha", "nodata")
_MESSAGES = {
    "not-finite": "component {name} is NaN or infinite (--nan skip leaves it out)",
    "nothing": "no component is finite",
    "unsupported": "component {name} is over 3.4e38, the largest float32",
}


def count_vectors(result: PartialResult, data: Vectors, options: WorkerOptions, group: str | None) -> None:
    """Add the rows of a block to a result; a row that fails is listed.

    Args:
        result: to add to.
        data: the rows.
        options: of the worker.
        group: the group of rows that have none of their own, if any.

    Raises:
        UsageError: an option that has no meaning for vectors.
    """
    _check_options(options)
    count, components = data.rows.shape
    names = data.names or tuple(map(str, range(components)))
    groups = None
    if options.group_by is not None:
        groups = RowGroups([group or ""], np.zeros(count, np.int64)) if data.groups is None else RowGroups(*data.groups)
    notes: tuple[str, ...] = ("format:vectors", "mode:vector", f"depth:{8 * data.rows.dtype.itemsize}", "bands")
    if data.names:
        notes = (*notes, f"names:{','.join(data.names)}")
    for bad in count_rows(result.tally, data.rows, nan=options.nan, notes=notes, groups=groups):
        result.tally.failed[bad.reason] += 1
        key = f"{data.path}/{data.first + bad.row}" if data.path else str(data.first + bad.row)
        result.failures.append(Failure(key, "count", bad.reason, _message(bad, names, options.nan)))
    result.kinds.setdefault(components, data.path)
    result.bands.setdefault(f"names:{','.join(data.names)}" if data.names else "", data.path)


def _message(bad: BadRow, names: tuple[str, ...], nan: str) -> str:
    kind = "nothing" if bad.reason == "not-finite" and nan == "skip" else bad.reason
    return _MESSAGES[kind].format(name=names[bad.component])


def _check_options(options: WorkerOptions) -> None:
    reading = options.reading
    default = type(reading)()
    unfit = [name for name in _DECODING if getattr(reading, name) != getattr(default, name)]
    unfit += [option for name, option in _PER_IMAGE.items() if getattr(options, name)]
    if unfit:
        raise UsageError(f"`{unfit[0]}` cannot be combined with vectors: it is for images")
