"""The commit protocol of `stats`: statistics, file cache and checkpoint change together, whatever ends the run."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normcli import storage
from normcli.errors import UsageError
from normcli.options.stats import StatsOptions
from normcli.runs.file_cache_format import beside, settle, upcoming
from normcli.summary import Summary


@dataclass(frozen=True)
class Target:
    """Where a run of `stats` writes.

    Attributes:
        output: the statistics file; None where they are only returned.
        checkpoint: log of the run, removed when it completes; None without `resume`.
        cache: per-file results that belong to the output; None without `incremental`.
        next_cache: where a new cache waits until the statistics are written.
        previous: statistics file of the run that is brought up to date; None where everything is counted.
    """

    output: Path | None = None
    checkpoint: Path | None = None
    cache: Path | None = None
    next_cache: Path | None = None
    previous: Path | None = None

    @classmethod
    def of(cls, options: StatsOptions) -> "Target":
        """Return the files of a run, checked before any work.

        Raises:
            UsageError: the output exists, or its folder does not.
            OutputError: it cannot be written.
        """
        if options.output is None or str(options.output) == "-":
            return cls()
        output = Path(os.fsdecode(options.output))
        checkpoint = output.with_name(output.name + ".checkpoint") if options.resume else None
        resumed = checkpoint is not None and checkpoint.exists()
        updated = options.incremental and output.exists() and not options.force
        check_output(output, overwrite=options.force or resumed or updated)
        if not options.incremental:
            return cls(output, checkpoint)
        if not updated:
            check_output(beside(output), overwrite=options.force)
        return cls(output, None, beside(output), upcoming(output), output if updated else None)

    def commit(self, summary: Summary) -> None:
        """Write the statistics, then give the new cache its name, then remove the checkpoint.

        Raises:
            OutputError: something cannot be written; the former files still fit each other.
        """
        if self.output is None:
            return
        summary.save(self.output)
        if self.cache is not None and self.next_cache is not None:
            settle(self.next_cache, self.cache)
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written, before the work.

    Raises:
        UsageError: it exists and must not be overwritten, or its folder does not exist.
        OutputError: it cannot be written.
    """
    if path.is_file() and not overwrite:
        raise UsageError(f"{path}: exists (`force` overwrites it)")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: folder {path.parent} does not exist")
    storage.require_writable(path)


def stamp() -> dict[str, Any]:
    """Return time, host and command line of this process."""
    import platform
    import shlex
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "host": platform.node(), "command": shlex.join(["normcli", *sys.argv[1:]])}
