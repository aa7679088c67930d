"""The check of what apply wrote: everything read again, mean and std per channel over all pixels."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from normcli import engine as engines
from normcli.errors import InputError, NormcliError
from normcli.options.apply import VerifyOptions
from normcli.runs import manifest
from normcli.runs.read_output import batches, check_size, dequantize_affine, interleaved, load
from normcli.sinks.record import decode_name
from normcli.sinks.sink import Record


@dataclass
class Channel:
    """What the values of one channel say, over all images of the same channels."""

    name: str
    values: int
    mean: float
    std: float
    min: float
    max: float


@dataclass
class VerifyResult:
    """What the check found.

    Attributes:
        images: files read again.
        channels: for every set of channels that was written, their statistics.
        problems: name and message of what is missing or not as it was written.
        expected: mean and std are to be 0 and 1, within `tolerance`; None where no such thing is expected.
        tolerance: by the dtype.
    """

    images: int
    channels: list[Channel]
    problems: list[tuple[str, str]]
    expected: bool
    tolerance: float

    @property
    def sound(self) -> bool:
        """Everything is there, and as expected."""
        near = all(abs(c.mean) < self.tolerance and abs(c.std - 1) < self.tolerance for c in self.channels)
        return not self.problems and (near or not self.expected)


def verify(folder: str, options: VerifyOptions) -> VerifyResult:
    """Read everything that `apply` wrote and compute mean and std; see `normcli.verify`."""
    source = folder
    head, records = manifest.read(source)
    settings = head["settings"]
    sums: dict[tuple[str, ...], list[list[Any]]] = {}
    problems: list[tuple[str, str]] = []
    images = 0
    one = partial(_verify_batch, source, settings, head.get("shards", []))
    for done in engines.run(one, batches(records), **options.runner):
        images += done.images
        problems += done.problems
        for names, rows in done.sums:
            sums.setdefault(names, []).append(rows)
        if options.on_progress is not None:
            options.on_progress(done)
    channels = [
        _channel(name, [rows[j] for rows in all_rows])
        for names, all_rows in sums.items()
        for j, name in enumerate(names)
    ]
    constants = head["constants"] or {}
    expected = (
        settings["scheme"] == "contrast"
        and constants.get("pooled", False)
        and constants.get("digest") == head.get("digest")
        and "restore" not in (head.get("maps") or [{}])[0]
        and not head.get("clipped")
    )
    return VerifyResult(images, channels, problems, expected, 1e-3 if settings["dtype"] == "float16" else 1e-6)


class _Checked(NamedTuple):
    images: int
    problems: list[tuple[str, str]]
    sums: list[tuple[tuple[str, ...], list[Any]]]
    inputs: int
    bytes: int


def _verify_batch(source: str, settings: Record, shards: list[Record], records: list[Record]) -> _Checked:
    problems, sums, size = [], [], 0
    for record in records:
        name = decode_name(record, "name")
        try:
            written = load(source, settings, record)
            check_size(source, settings, record, shards)
        except InputError as error:
            problems.append((name, error.message))
            continue
        size += written.nbytes
        restore = dequantize_affine(record["map"])
        planes = interleaved(written, settings["output_layout"])
        rows = []
        for j in range(planes.shape[2]):
            y = planes[:, :, j].astype(np.float64)
            if restore is not None:
                y = y * restore.scale[0] + restore.shift[0]
            if not np.isfinite(y).all() and settings["nan"] == "error":
                problems.append((name, "holds NaN or infinity"))
                break
            y = y[np.isfinite(y)]
            middle = float(y.mean()) if y.size else 0.0
            spread = float(((y - middle) ** 2).sum())
            rows.append((int(y.size), middle, spread, float(y.min(initial=math.inf)), float(y.max(initial=-math.inf))))
        else:
            sums.append((tuple(record["map"]["channels"]), rows))
    return _Checked(len(records) - len(problems), problems, sums, len(records), size)


def _channel(name: str, rows: list[Any]) -> Channel:
    """One channel's mean and population std from those of the images; sums rounded once, in any order."""
    count = sum(row[0] for row in rows)
    if not count:
        raise NormcliError(f"channel {name} holds no finite value")
    mean = math.fsum(n * m for n, m, *_ in rows) / count
    spread = math.fsum(s + n * (m - mean) ** 2 for n, m, s, *_ in rows) / count
    return Channel(name, count, mean, math.sqrt(spread), min(row[3] for row in rows), max(row[4] for row in rows))
