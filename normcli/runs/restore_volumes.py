"""restore and verify of volumes: each array is read block by block, in its container, and mapped back to its type."""

import os
import time
from collections.abc import Iterator
from functools import partial
from math import prod

import numpy as np

from normcli.errors import InputError, UsageError
from normcli.options.apply import RestoreOptions
from normcli.options.shared import DecodeOptions, FailureOptions, InputOptions
from normcli.runs.loop import Batching, FailurePolicy, Loop
from normcli.runs.read_output import readable
from normcli.runs.restore import (
    RestoredBatch,
    RestoreJob,
    RestoreResult,
    output_folder,
    require_images,
    restore_each,
)
from normcli.runs.verify import ChannelSums, VerifiedBatch, channel_sums
from normcli.runs.volume_map import as_block, as_image, decode_block, invert
from normcli.sinks.files import temporary_name
from normcli.sinks.sink import Record, decode_name
from normcli.sinks.volume import ArrayPlan, VolumeOutput, container_bytes, open_output, output_errors, publish, remove
from normcli.sources.listing import Source
from normcli.sources.volume import BLOCK_VALUES, StoredVolume, blocks_of, letters_of, volumes_of
from normcli.sources.volume_details import attribute_of, number_of

BATCHING = Batching(seconds=0.0, most_items=1)


def restore_volumes(
    folder: str, settings: Record, records: Iterator[Record], output: str, options: RestoreOptions
) -> RestoreResult:
    """Restore the volumes that `apply` read, in the containers that they were in; see `normcli.restore`."""
    if options.to is not None:
        raise UsageError(f"`to` {options.to} cannot be combined with volumes, which are restored as they were")
    total = RestoreResult(unit="volume")

    def consume(result: RestoredBatch) -> None:
        total.images += result.images
        total.exact += result.exact
        total.inexact.update(result.inexact)
        total.failed.update(failure.reason for failure in result.failures)

    failures = FailurePolicy(FailureOptions(on_failure=options.on_failure))
    with output_folder(folder, output, force=options.force) as unfinished:
        job = RestoreJob(folder, settings, output, unfinished, None)
        loop = Loop(
            worker=partial(_restore_batch, job), consume=consume, engine=options, batching=BATCHING, failures=failures
        )
        loop.run(readable(records))
        require_images(folder, total, failures)
    return total


def _restore_batch(job: RestoreJob, records: list[Record]) -> RestoredBatch:
    return restore_each(records, partial(_restore, job), lambda record: _inexact_reason(record, job.settings))


def _restore(job: RestoreJob, record: Record) -> int:
    """Write a container as it was; return its bytes."""
    volumes = open_written(job.folder, job.settings, record)
    name = decode_name(record, "name")
    options = {}
    kind = job.settings["to"]
    if "header" in record:
        from normcli.sinks.nifti import single_file
        from normcli.sinks.nifti_record import header_bytes

        kind, options = "nifti", {"header": single_file(header_bytes(record["header"]))}
        name = _nifti_name(name, decode_name(record, "source"))
        volumes = [_in_planes(volume) for volume in volumes]
    plans = [
        ArrayPlan(
            volume,
            array["stored"],
            number_of(array["background"]),
            {key: attribute_of(value) for key, value in array["packing"].items()},
        )
        for volume, array in zip(volumes, record["arrays"], strict=True)
    ]
    temporary = f"{job.unfinished}/{temporary_name()}{'.gz' if name.endswith('.gz') else ''}"
    final = os.path.join(job.output, name)  # noqa: PTH118
    output: VolumeOutput | None = None
    try:
        with output_errors(final):
            output = open_output(kind, temporary, plans, **options)
        for number, (volume, array) in enumerate(zip(volumes, record["arrays"], strict=True)):
            stored = np.dtype(array["stored"]).newbyteorder("=")
            for place, block in blocks_of(volume):
                levels = invert(as_image(block, volume.channel), array)
                values = as_block(levels, block.shape, volume.channel).view(stored)
                with output_errors(final):
                    output.write(number, place, values)
        with output_errors(final):
            output.finish()
        size = container_bytes(temporary)
        publish(temporary, final, job.output)
    except BaseException:
        if output is not None:
            output.abandon()
        remove(temporary)
        raise
    return size


def _nifti_name(name: str, source: str) -> str:
    """Return the name of a NIfTI file again.

    >>> _nifti_name("a/ct.zarr", "/data/ct.nii.gz"), _nifti_name("b.nii", "b.img")
    ('a/ct.nii.gz', 'b.nii')
    """
    suffix = ".nii.gz" if source.lower().endswith(".gz") else ".nii"
    stem = name.removesuffix(".gz").removesuffix(".nii").removesuffix(".h5").removesuffix(".zarr")
    return stem + suffix


def _in_planes(volume: StoredVolume) -> StoredVolume:
    """Return a volume whose blocks are planes in the order of a NIfTI file."""
    inner = 2 + (volume.channel is not None)
    chunks = (1,) * (len(volume.shape) - inner) + volume.shape[-inner:]
    if len(volume.shape) > inner and len(volume.chunks) > inner:  # complete chunks, where that is not too much
        deep = volume.chunks[-inner - 1]
        if deep * prod(chunks) <= 8 * BLOCK_VALUES:
            chunks = (*chunks[: -inner - 1], deep, *chunks[-inner:])
    return volume._replace(chunks=chunks)


def open_written(folder: str, settings: Record, record: Record) -> list[StoredVolume]:
    """Return the arrays of a container that `apply` wrote.

    Raises:
        InputError: missing, damaged, or of another shape or type than recorded.
    """
    if record.get("found"):
        raise InputError("not-recorded", "existed before the run (--skip-existing): the manifest does not describe it")
    path = os.path.join(folder, decode_name(record, "name"))  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        raise InputError("missing", "no such file or folder")
    volumes = []
    for array in record["arrays"]:
        source = Source(path)
        source.open_options = {}
        shape, channel = tuple(array["shape"]), array["channel"]
        if settings["to"] != "nifti":
            variable = array["path"] or ("image" if settings["to"] == "hdf5" else None)  # None: the root of a Zarr
            source.open_options = {"axes": letters_of(len(shape), channel)}
            source.open_options |= {} if variable is None else {"variable": variable}
        try:
            (volume, *_) = volumes_of(source, InputOptions())
        except UsageError as error:
            raise InputError("damaged", str(error)) from None
        if volume.shape != shape or np.dtype(volume.dtype).newbyteorder("=") != settings["dtype"]:
            what = f"{np.dtype(volume.dtype).name} {volume.shape}, and {settings['dtype']} {shape} was written"
            raise InputError("damaged", f"{volume.path or 'the volume'} is {what}")
        volumes.append(volume._replace(channel=channel, source=path, kind=settings["to"]))
    return volumes


def verify_batch(folder: str, settings: Record, records: list[Record]) -> VerifiedBatch:
    """Read containers again and return the sums of their blocks, in a worker."""
    started = time.perf_counter()
    problems, size, has_invalid = [], 0, False
    sums: list[tuple[tuple[str, ...], list[ChannelSums]]] = []
    for record in records:
        name = decode_name(record, "name")
        own: list[tuple[tuple[str, ...], list[ChannelSums]]] = []
        try:
            volumes = open_written(folder, settings, record)
            actual = container_bytes(os.path.join(folder, name))  # noqa: PTH118
            if actual != record["bytes"]:
                raise InputError("damaged", f"has {actual} bytes, and {record['bytes']} were written")
            for volume, array in zip(volumes, record["arrays"], strict=True):
                rows = list(_sums_of(volume, array, settings))
                own += [] if array.get("level") else rows
                has_invalid |= bool(array["invalid"])
            size += record["bytes"]
            sums += own
        except InputError as error:
            problems.append((name, error.message))
    seconds = time.perf_counter() - started
    return VerifiedBatch(len(records) - len(problems), has_invalid, problems, sums, [], len(records), size, seconds)


def _sums_of(
    volume: StoredVolume, array: Record, settings: Record
) -> Iterator[tuple[tuple[str, ...], list[ChannelSums]]]:
    """Yield the names of the channels, and the sums of their valid samples, for each block."""
    names_of_channels = tuple(array["channels"])
    for _, block in blocks_of(volume):
        image = decode_block(as_image(block, volume.channel), volume, DecodeOptions())
        rows = []
        for c in range(image.pixels.shape[2]):
            plane = image.pixels[:, :, c]
            plane = plane.reshape(-1) if image.valid is None else plane[image.valid[:, :, c]]
            finite = np.isfinite(plane)
            if not finite.all() and settings["nan"] == "error" and settings.get("fill", "keep") == "keep":
                raise InputError("nan", "contains NaN or infinity")
            rows.append(channel_sums(plane[finite].astype(np.float64)))
        yield names_of_channels, rows


def _inexact_reason(record: Record, settings: Record) -> str:
    arrays = record["arrays"]
    if any(np.dtype(array["dtype"]).kind == "f" for array in arrays):
        return "float originals, restored within rounding"
    if any(array["clipped"] for array in arrays):
        return "clipped values"
    if any(array["invalid"] for array in arrays):
        return "invalid samples, which were filled"
    if any("outside" in array for array in arrays):
        return "samples inside of the mask that became 0, as those outside are"
    return f"{settings['to']} {settings['dtype']} has fewer levels than the original"
