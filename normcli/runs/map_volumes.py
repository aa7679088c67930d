"""The worker of `apply` to volumes: map containers block by block, write each, and record the map that restores it."""

import os
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from normcli import __version__
from normcli.errors import InputError, MissingExtraError, NormcliError, OutputError, UsageError
from normcli.options.shared import DecodeOptions, InputOptions
from normcli.runs import names as naming
from normcli.runs.count import Failure
from normcli.runs.map_batch import BatchResult
from normcli.runs.transform import Transform
from normcli.runs.volume_map import (
    MappedBlock,
    background_of,
    inexact_levels,
    map_block,
    map_record,
    missing_of,
    names_of,
    transform_of,
)
from normcli.sinks import volume as volume_files
from normcli.sinks.files import temporary_name
from normcli.sinks.sink import Record, name_fields
from normcli.sinks.volume import (
    RECORD,
    ArrayPlan,
    VolumeOutput,
    container_bytes,
    open_output,
    output_errors,
    remove,
)
from normcli.sources.volume import Array, StoredVolume, blocks_of, volumes_of
from normcli.sources.volume_details import background, packing_of, stored_dtype
from normcli.storage.files import digest
from normcli.tally import DIGEST_MODULUS

_AXES = "zyx"


class VolumeJob(NamedTuple):
    """Options of the worker function.

    Attributes:
        transform: mapping of the samples.
        reading: decoding of the samples.
        listing: open options of the containers.
        to: kind of output.
        out: output folder.
        folder: for containers that are being written.
        writing: False maps only, for the dry run.
        stop: set when the run is aborted.
        orientation, classes, mask, stacked: as of images, which volumes do not have.
    """

    transform: Transform
    reading: DecodeOptions
    listing: InputOptions
    to: str
    out: str
    folder: str
    writing: bool = True
    stop: threading.Event | None = None
    orientation: str = "ignore"
    classes: None = None
    mask: None = None
    stacked: bool = False


class VolumeTask(NamedTuple):
    """A container on its way to a worker: its path, and the name of its output."""

    source: str
    name: str


def map_volumes(job: VolumeJob, batch: list[VolumeTask]) -> BatchResult:
    """Map and write containers, in a worker; one that fails is recorded and left out."""
    started = time.perf_counter()
    result = BatchResult([], [], Counter(), len(batch))
    for task in batch:
        names = {**name_fields("name", task.name), **name_fields("source", task.source)}
        try:
            record = _map_container(job, task)
            result.records.append({**names, **record})
            result.bytes += record["bytes"]
        except (NormcliError, MemoryError) as error:
            if isinstance(error, MemoryError):
                error = InputError("memory", "not enough memory to map it")
            elif isinstance(error, OutputError | UsageError | MissingExtraError):
                raise
            elif not isinstance(error, InputError):
                error = InputError("unsupported", str(error))
            result.records.append({**names, "error": error.reason, "message": error.message, "stage": "map"})
            result.failures.append(Failure(task.source, "map", error.reason, error.message))
    result.seconds = time.perf_counter() - started
    return result


def _map_container(job: VolumeJob, task: VolumeTask) -> Record:
    """Map one container; return its record, without names."""
    volumes = volumes_of(task.source, job.listing)
    naming.check_name_length(task.name)
    transforms: list[Transform] = []
    for volume in volumes:
        is_level = volume.like is not None
        own = transforms[volume.like] if volume.like is not None else None
        transforms.append(own if is_level and own else transform_of(job.transform, volume, job.reading))
    plans = [_plan(job, volume, transform) for volume, transform in zip(volumes, transforms, strict=True)]
    temporary = f"{job.folder}/{temporary_name()}{'.gz' if task.name.endswith('.gz') else ''}"
    final = os.path.join(job.out, task.name)  # noqa: PTH118
    total = 0
    arrays: list[Record] = []
    output: VolumeOutput | None = None
    try:
        if job.writing:
            with output_errors(final):
                output = open_output(job.to, temporary, plans, **_note(job))
        for number, (volume, transform) in enumerate(zip(volumes, transforms, strict=True)):
            record, hashed = _map_array(job, number, volume, transform, output, final)
            arrays.append(record)
            total = (total + hashed) % DIGEST_MODULUS
        size = sum(record["values"] for record in arrays) * np.dtype(job.transform.dtype).itemsize
        if output is not None:
            with output_errors(final):
                output.finish()
                size = container_bytes(temporary)
            volume_files.publish(temporary, final, job.out)
    except BaseException:
        if output is not None:
            output.abandon()
        remove(temporary)
        raise
    record = {"digest": f"{total:032x}", "bytes": size, "exact": all(one["exact"] for one in arrays), "arrays": arrays}
    if volumes[0].kind == "nifti":
        from normcli.sinks.nifti_record import header_record

        record["header"] = header_record(task.source)
    return record


def _note(job: VolumeJob) -> dict[str, str]:
    return {"note": f"normcli {job.transform.scheme}"} if job.to == "nifti" else {}


def _plan(job: VolumeJob, volume: StoredVolume, transform: Transform) -> ArrayPlan:
    """Return the plan of an array: its background and its attributes."""
    attributes: dict[str, Any] = {}
    packing = packing_of(volume)
    if missing_of(volume, job.reading) and transform.fill == "keep":
        values = dict.fromkeys(np.array(volume.tags.no_data, transform.dtype).tolist())
        several = np.array(list(values), transform.dtype)
        if "_FillValue" in packing or "missing_value" not in packing:  # which is one value
            attributes["_FillValue"], several = several[0], several[1:]
        if several.size:
            attributes["missing_value"] = several if several.size > 1 else several[0]
    attributes[RECORD] = {"version": __version__, "scheme": transform.scheme, **dict(transform.settings)}
    if transform.constants is not None:
        attributes[RECORD] |= {"mean": list(transform.constants.mean), "std": list(transform.constants.std)}
    if volume.kind == "nifti" and job.to != "nifti":
        axes = ["c"] if volume.channel is not None else []
        lead = len(volume.shape) - len(axes) - 3
        names = [
            *(["t"] if lead == 1 else [f"a{i}" for i in range(lead)]),
            *_AXES[-min(3, len(volume.shape) - len(axes)) :],
        ]
        from normcli.sinks.nifti import affine_of

        attributes |= {"affine": affine_of(volume.source), "axes": [*names, *axes]}
    return ArrayPlan(
        volume, transform.dtype, background_of(transform, volume, job.reading, background(volume)), attributes
    )


def _map_array(
    job: VolumeJob, number: int, volume: StoredVolume, transform: Transform, output: VolumeOutput | None, final: str
) -> tuple[Record, int]:
    """Map the blocks of an array; return its record, and the digest of its stored samples."""
    record: Record = {
        "path": volume.path,
        "shape": list(volume.shape),
        "dtype": np.dtype(volume.dtype).str,
        "stored": stored_dtype(volume),
        "channel": volume.channel,
        "channels": names_of(volume),
        "missing": missing_of(volume, job.reading),
        "background": repr(background(volume)),
        "packing": packing_of(volume),
        "values": 0,
        "exact": True,
        "clipped": 0,
        "kept": 0,
        "invalid": 0,
        **({"level": True} if volume.like is not None else {}),  # smaller, of another std: no part of `verify`'s
    }
    total = 0
    inexact = inexact_levels(transform, volume, job.reading) if volume.tags.valid is None else None
    for place, stored in blocks_of(volume):
        if job.stop is not None and job.stop.is_set():
            raise InputError("interrupted", "the run was interrupted")
        block = map_block(transform, stored, volume, job.reading, inexact)
        total += digest(np.ascontiguousarray(stored).data.cast("B"))
        _count(record, block, stored, volume, job.reading)
        if output is not None:
            with output_errors(final):
                output.write(number, place, block.values)
    if "scale" not in record:
        raise InputError("not-finite", "no sample is finite")
    return record, total % DIGEST_MODULUS


def _count(record: Record, block: MappedBlock, stored: Array, volume: StoredVolume, reading: DecodeOptions) -> None:
    record["values"] += int(stored.size)
    record["kept"] += block.missing
    record["invalid"] += block.invalid
    record["exact"] = bool(record["exact"] and (block.exact or block.mapped is None))
    if block.mapped is not None:
        record["clipped"] += block.mapped.clipped
        if "scale" not in record:
            record |= map_record(block.mapped, volume, reading)
