"""Totals of a run of `apply`: the head of its manifest."""

from collections import Counter

from normcli.errors import NoInputError, RemoteError
from normcli.runs.loop import FailurePolicy
from normcli.runs.map_batch import REMARKS, BatchResult
from normcli.runs.stats import provenance
from normcli.sinks.sink import Record
from normcli.tally import DIGEST_MODULUS


class Totals:
    """The sums over all results of a run.

    Args:
        failures: of the run.
    """

    def __init__(self, failures: FailurePolicy) -> None:
        self.failures = failures
        self.reused = self.images = self.bytes = self.values = self.clipped = self.exact = self.found = 0
        self.digest = 0
        self.failed: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.looks_normalized = 0
        self.remarks: Counter[str] = Counter()

    def add(self, result: BatchResult) -> None:
        """Add the result of a batch."""
        self.skipped.update(result.skipped)
        self.reused += result.reused
        for record in result.records:
            self._count(record)

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
        remarks = record.get("remarks", [])
        self.remarks.update(name for name in REMARKS if isinstance(remarks, list) and name in remarks)

    def require_servers(self) -> None:
        """End a run in which every image's place depends on the others, when a server does not answer.

        Raises:
            RemoteError: some inputs are missing for that reason.
        """
        if count := self.failed["remote"]:
            first = self.failures.first_remote
            assert first is not None
            raise RemoteError(
                f"{count} input{'s' * (count != 1)} could not be read (--resume goes on): {first.key}: {first.message}"
            )

    def head(self, head: Record, count: int, outputs: Record) -> Record:
        """The manifest's head, complete.

        Raises:
            NoInputError: nothing could be used.
            NormcliError: too many failures.
        """
        self.failures.check(at_end=True)
        if not self.images:
            because = ""
            first = self.failures.first
            if first is not None:
                more = self.failed.total() - 1
                because = f": {first.key}: {first.message}"
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
            **({"remarks": dict(sorted(self.remarks.items()))} if self.remarks else {}),
            "kinds": dict(sorted(self.kinds.items())),
            "digest": f"{self.digest:032x}",
            "provenance": provenance(),
            **outputs,
        }
