"""What a run of apply adds up to: the head of its manifest."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from normcli.errors import NoInputError, NormcliError, RemoteError
from normcli.options.running import FailureOptions
from normcli.runs.map_batch import BatchResult
from normcli.runs.stats import Failure, provenance
from normcli.runs.stats_settings import failure_limit
from normcli.sinks.sink import Record
from normcli.tally import DIGEST_MODULUS


class Totals:
    """What a run adds up."""

    def __init__(self, options: FailureOptions, on_progress: Callable[[Any], None] | None) -> None:
        self.limit, self.stop_at_first = failure_limit(options.max_failures), options.max_failures == "0"
        self.on_failure, self.on_progress = options.on_failure, on_progress
        self.reused = self.images = self.bytes = self.values = self.clipped = self.exact = self.found = 0
        self.digest = 0
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.looks_normalized = 0
        self.first_failure: Failure | None = None
        self.first_remote: Failure | None = None

    def add(self, done: BatchResult) -> None:
        """Add what a batch gave.

        Raises:
            NormcliError: an input failed and that is to end the run, or too many did.
        """
        for failure in done.failures:
            if self.on_failure is not None:
                self.on_failure(failure)
            if failure.stage != "skip":
                self.first_failure = self.first_failure or failure
                if failure.reason == "remote":
                    self.first_remote = self.first_remote or failure
                if self.stop_at_first:
                    raise NormcliError(f"{failure.key}: {failure.message}")
        self.skipped.update(done.skipped)
        self.reused += done.reused
        for record in done.records:
            self._count(record)
        if self.limit is not None:
            self.limit(self.failed.total(), self.images + self.failed.total() + self.skipped.total(), False)
        if self.on_progress is not None:
            self.on_progress(done)

    def _count(self, record: Record) -> None:
        if "error" in record:
            self.failed[record["error"]] += 1
            return
        self.images += 1
        if record.get("found"):
            self.found += 1
            return
        self.bytes += record["bytes"]
        self.exact += record["exact"]
        self.clipped += record.get("clipped", 0)
        height, width, _ = record["shape"]
        self.values += height * width * len(record["map"]["channels"])
        self.digest = (self.digest + int(record["digest"], 16)) % DIGEST_MODULUS
        self.kinds[f"{len(record['map']['channels'])} x {record['dtype']}"] += 1
        self.looks_normalized += bool(record.get("looks_normalized"))

    def refuse_remote(self) -> None:
        """End a run in which every image's place depends on the others, when a server does not answer.

        Raises:
            RemoteError: some inputs are missing for that reason.
        """
        if count := self.failed["remote"]:
            assert self.first_remote is not None
            raise RemoteError(
                f"{count} input{'s' * (count != 1)} could not be read (--resume goes on): "
                f"{self.first_remote.key}: {self.first_remote.message}"
            )

    def head(self, head: Record, count: int, outputs: Record) -> Record:
        """The manifest's head, complete.

        Raises:
            NoInputError: nothing could be used.
            NormcliError: too many failures.
        """
        if self.limit is not None:
            self.limit(self.failed.total(), self.images + self.failed.total() + self.skipped.total(), True)
        if not self.images:
            because = ""
            if self.first_failure is not None:
                more = self.failed.total() - 1
                because = f": {self.first_failure.key}: {self.first_failure.message}"
                because += f" (and {more} more)" if more else ""
            elif self.skipped:
                because = f" ({', '.join(f'{n} {reason}' for reason, n in sorted(self.skipped.items()))})"
            if self.failed["remote"]:
                raise RemoteError(f"nothing could be read{because}")
            raise NoInputError(f"no usable image{because}")
        return {
            **head,
            "complete": not self.failed,
            "images": self.images,
            "failed": dict(sorted(self.failed.items())),
            "skipped": dict(sorted(self.skipped.items())),
            "bytes": self.bytes,
            "values": self.values,
            "clipped": self.clipped,
            "exact": self.exact,
            "found": self.found,
            "looks_normalized": self.looks_normalized,
            "kinds": dict(sorted(self.kinds.items())),
            "digest": f"{self.digest:032x}",
            "provenance": provenance(),
            **outputs,
        }
