"""apply to containers of volumes: each file or store becomes one of the same structure, block by block.

The unit of the run, of its checkpoint and of its manifest is a container: one that a killed run left unfinished is
written again, with the same bytes.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from normcli import schemes, sources, storage
from normcli.errors import NoInputError, NormcliError, UsageError
from normcli.options.apply import ApplyOptions
from normcli.options.field import Options, as_tuple, options_of, parse_pairs
from normcli.options.shared import GEOMETRY, DecodeOptions, EngineOptions, FailureOptions, InputOptions, ValueOptions
from normcli.options.stats import StatsOptions
from normcli.runs import build_transform
from normcli.runs import names as naming
from normcli.runs.apply_checkpoint import ApplyCheckpoint, changed_since, head_of
from normcli.runs.loop import Batching, FailurePolicy, Loop, Replay
from normcli.runs.map_batch import BatchResult
from normcli.runs.map_volumes import VolumeJob, VolumeTask, map_volumes
from normcli.sinks.sink import Record, name_fields
from normcli.sinks.volume import container_bytes, files_below, output_name, remove
from normcli.sources.volume import KINDS
from normcli.summary import Summary

BATCHING = Batching(seconds=0.0, most_items=1)


_OF_OTHERS = frozenset(("include", "exclude", "no_suffix", "shard_size"))  # of folders, and of shards


def check_options(options: ApplyOptions) -> None:
    """Reject options without a meaning for volumes, which keep their shape and their names.

    Raises:
        UsageError: naming the first.
    """
    options_set: dict[str, Any] = {
        **{key: getattr(options, key) is not None for key in (*GEOMETRY, "bands", "mask_dir", "shard_size")},
        **{key: getattr(options, key) is not None for key in ("output_layout", "channel_order")},
        "alpha": options.alpha != "drop",
        "color": options.color not in ("auto", "native"),
        "no_suffix": options.no_suffix,
        "scheme caffe": options.scheme.startswith("caffe"),
        "include": bool(as_tuple(options.include)),
        "exclude": bool(as_tuple(options.exclude)),
    }
    for name, is_given in options_set.items():
        if is_given:
            what = f"`{name}` cannot be combined with `to` {options.to}: volumes keep their shape and names"
            raise UsageError(what + ("" if name in _OF_OTHERS else " (use `to` npy, which writes each plane)"))
    scheme, settings = schemes.parse(options.scheme)
    if scheme == "reinhard" or (scheme == "nyul" and settings.get("over") == "image"):
        what = f"`scheme` {options.scheme} cannot be combined with `to` {options.to}: it maps each plane"
        raise UsageError(f"{what} (use `to` npy, which writes each plane)")


def check_open_options(options: ApplyOptions, tasks: list[VolumeTask]) -> None:
    """Reject open options that no volume here has, and those that leave out planes.

    Raises:
        UsageError: naming the first.
    """
    if options.open_options:
        sources.check_open_options(options.open_options, {sources.kind_of(task.source) for task in tasks})
        if dict(parse_pairs(options.open_options)).get("skip_empty") == "yes":
            raise UsageError(
                f"`open_options` skip_empty cannot be combined with `to` {options.to}: volumes are complete"
            )


def are_volumes(paths: Sequence[str], files: Any, to: str) -> bool:
    """Return True if sources are volumes, or can be nothing else in this kind of output; False for images."""
    named = [path for source in paths for path in sources.expand(source)] + list(as_tuple(files or ()))
    return to == "nifti" or any(sources.kind_of(path) in KINDS for path in named)


def containers(paths: Sequence[str], files: list[str] | None, to: str) -> list[VolumeTask]:
    """Return every container with the name of its output, below the folder that they have in common.

    Raises:
        UsageError: a source that is not a container of volumes, or two of one name.
    """
    sources.check_exist(paths)
    sources.check_distinct(paths, InputOptions(), files or ())
    named = [path for source in paths for path in sources.expand(source)] + (files or [])
    for path in named:
        kind = sources.kind_of(path)
        if kind not in KINDS:
            remedy = "name its volumes, as in 'folder/*.nii.gz'" if kind == "folder" else "--to npy or stack"
            raise UsageError(f"{path}: `to` {to} requires volumes: NIfTI, HDF5, NetCDF4 or Zarr ({remedy})")
        if kind == "zarr" and not os.path.isdir(path):  # noqa: PTH112
            raise UsageError(f"{path}: `to` zarr requires a store in a local folder")
        if kind not in ("nifti", to):
            raise UsageError(f"{path}: `to` {to} cannot be combined with volumes of {kind} (use `to` {kind})")
    if not named:
        raise NoInputError("no volume")
    parts = [_parts(path) for path in named]
    common = 0
    while all(len(one) > common + 1 and one[common] == parts[0][common] for one in parts):
        common += 1
    tasks, origins = [], dict[str, str]()
    for path, one in zip(named, parts, strict=True):
        name = output_name("/".join(one[common:]), sources.kind_of(path), to)
        if name in origins:
            raise UsageError(f"{origins[name]} and {path} would both be written as {name}")
        if name.split("/")[0] in (naming.WORK, naming.MANIFEST, naming.STATISTICS) or ".." in name.split("/"):
            raise UsageError(f"{path}: would be written as {name}, a name that normcli uses in OUT")
        origins[name] = path
        tasks.append(VolumeTask(path, name))
    return tasks


def _parts(path: str) -> list[str]:
    if storage.is_remote(path):
        return [part for part in path.partition("://")[2].split("/") if part]
    return [part for part in os.path.abspath(path).replace(os.sep, "/").split("/") if part]  # noqa: PTH100


def apply_volumes(paths: Sequence[str], output: str, options: ApplyOptions, engine: EngineOptions) -> Any:
    """Map every volume of the sources and write the results into a folder; see `normcli.apply`."""
    from normcli.runs.apply import ApplyResult, Totals

    check_options(options)
    options = options.replace(orientation="ignore")
    reading = options.part(DecodeOptions)
    transform = replace(build_transform.transform_for(options), output_layout="hwc")
    if not options.dry_run:
        naming.check_overlap(output, paths)
        naming.refuse_occupied(output, options.resume or options.force or options.skip_existing)
    files = None if options.files is None else list(as_tuple(options.files))
    tasks = containers(paths, files, options.to)
    check_open_options(options, tasks)
    constants, computed = build_transform.resolve_constants(transform, options, reading), None
    if build_transform.needs_pass(transform, constants):
        if options.resume or options.skip_existing:
            computed = build_transform.kept_statistics(output, options)
        computed = computed or _compute_statistics(paths, files, options)
        constants = build_transform.after_pass(computed, transform, options.convention, constants)
        if options.on_statistics is not None:
            options.on_statistics(computed)
    transform = replace(transform, constants=constants)
    build_transform.refuse_constant(transform)
    job = VolumeJob(
        transform=transform,
        reading=reading,
        listing=options.part(InputOptions),
        to=options.to,
        out=output,
        folder=os.path.join(output, naming.WORK),  # noqa: PTH118
        writing=not options.dry_run,
        stop=threading.Event() if engine.engine == "threads" else None,
    )
    head = head_of(job, False, None)
    totals = Totals(FailurePolicy(options.part(FailureOptions)), paths)
    loop = partial(Loop, worker=partial(map_volumes, job), engine=engine, batching=BATCHING, failures=totals.failures)
    if options.dry_run:
        loop(consume=totals.add).run(iter(tasks))
        return ApplyResult.of(totals.head(head, len(tasks), {}))
    checkpoint = ApplyCheckpoint(output, head)
    fresh = naming.find_content(output) is None
    checkpoint.open(resume=options.resume or options.skip_existing)
    try:
        if computed is not None:
            path = os.path.join(output, naming.STATISTICS)  # noqa: PTH118
            storage.atomic_write_buffers(f"{checkpoint.folder}/file-statistics", path, [computed.to_json().encode()])

        def consume(result: BatchResult) -> None:
            totals.add(result)
            checkpoint.add(result.records)

        loop(consume=consume).run(_steps(job, tasks, checkpoint, options.skip_existing))
        complete = totals.head(head, len(tasks), {})
        storage.sync_folders({os.path.dirname(os.path.join(output, task.name)) for task in tasks})  # noqa: PTH118, PTH120
        checkpoint.finish(complete, checkpoint.records(), fold=False)
    except BaseException as error:
        if job.stop is not None:
            job.stop.set()
        forget = fresh and not totals.images and isinstance(error, NormcliError)
        if forget and computed is not None:
            remove(os.path.join(output, naming.STATISTICS))  # noqa: PTH118
        checkpoint.close(forget=forget)
        raise
    return ApplyResult.of({**complete, "reused": totals.reused, "changed": False})


def _compute_statistics(paths: Sequence[str], files: list[str] | None, options: ApplyOptions) -> Summary:
    from normcli.runs import stats as counting

    groups: tuple[type[Options], ...] = (InputOptions, DecodeOptions, ValueOptions)
    shared = {f.name: getattr(options, f.name) for group in groups for f in options_of(group)}
    shared |= build_transform.counting_options(options.scheme)
    return counting.stats(
        paths,
        StatsOptions(
            files=files, engine=options.engine, workers=options.workers, on_progress=options.on_progress, **shared
        ),
    )


def _steps(
    job: VolumeJob, tasks: list[VolumeTask], checkpoint: ApplyCheckpoint, skip_existing: bool
) -> Iterator[VolumeTask | Replay[BatchResult]]:
    """Yield every container as a task, or a replay of an earlier run's record."""
    for task in tasks:
        path = os.path.join(job.out, task.name)  # noqa: PTH118
        known = checkpoint.done(task.name)
        if known is not None and not _is_up_to_date(known, path, task.source):
            known = None
        if known is None and skip_existing and os.path.exists(path):  # noqa: PTH110
            known = {**name_fields("name", task.name), **name_fields("source", task.source), "found": True}
        yield task if known is None else Replay(partial(_replay, known))


def _replay(record: Record) -> BatchResult:
    return BatchResult([record], [], Counter(), 1, reused=int(not record.get("found")))


def _is_up_to_date(record: Record, path: str, source: str) -> bool:
    """Return True if an output has its size, and is newer than every file of its source."""
    try:
        if record.get("found"):
            return os.path.exists(path)  # noqa: PTH110
        modified = max(os.lstat(one).st_mtime_ns for one in files_below(path))
        if container_bytes(path) != record["bytes"]:
            return False
    except (OSError, ValueError):
        return False
    if storage.is_remote(source) or not os.path.isdir(source):  # noqa: PTH112
        return not changed_since(source, modified)
    return not any(changed_since(one, modified) for one in files_below(source))
