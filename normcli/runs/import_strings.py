"""Import strings, `python:MODULE:NAME`, in runs: options that they reject, and options that they require."""

from collections.abc import Sequence

from normcli.errors import UsageError
from normcli.options.stats import StatsOptions
from normcli.sources import Source
from normcli.sources.listing import is_import

# option -> why it cannot be combined with an import string
_WITHOUT = {
    "incremental": "its samples have no version",
    "resume": "its samples have no version",
    "sample": "return a subset of the dataset instead",
    "margin": "return a subset of the dataset instead",
    "mask_dir": "its samples have no paths; normcli.Counter takes masks",
    "include": "its samples have no paths",
    "exclude": "its samples have no paths",
}


def prepare(sources: Sequence[str], options: StatsOptions) -> tuple[list[str], StatsOptions]:
    """Return sources and options of a run over import strings.

    Samples are read in this process: by one thread, or by as many as `workers` asks for.

    Raises:
        UsageError: an option that import strings cannot have.
    """
    source = next(filter(is_import, sources))
    for name, reason in _WITHOUT.items():
        if getattr(options, name):
            raise UsageError(f"`{name}` cannot be combined with {source}: {reason}")
    if options.engine not in ("auto", "serial", "threads"):
        raise UsageError(
            f"`engine` {options.engine} cannot be combined with {source}: the dataset is in this process "
            "(use serial, or threads where it allows them)"
        )
    if options.engine == "auto":
        options = options.replace(engine="threads" if options.workers > 1 else "serial")
    if options.group_by in ("folder", "label"):
        sources = [_with_labels(one) if is_import(one) else one for one in sources]
    return list(sources), options


def _with_labels(source: str) -> Source:
    labeled = Source(source)
    labeled.open_options = {"labels": "yes", **(source.open_options if isinstance(source, Source) else {})}
    return labeled
