"""Partial results of counting: exact counts, failures and records of single inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from normcli.storage import path_fields
from normcli.tally import ImageMoments, Tally

if TYPE_CHECKING:  # a gallery is drawn only for a report, and costs 25 ms to load
    from normcli.runs.gallery import SeenImage

IntervalRow = tuple[float, list[float], list[float], float, float]


@dataclass(frozen=True)
class Failure:
    """One input that was not used.

    Attributes:
        key: its path, or container and member.
        stage: "list", "load", "decode" or "count"; "skip" for inputs that are no images.
        reason: one word, as counted.
        message: one line.
    """

    key: str
    stage: str
    reason: str
    message: str

    def record(self) -> dict[str, Any]:
        """Return the object for a line of --failures."""
        return {**path_fields(self.key), "stage": self.stage, "reason": self.reason, "message": self.message}


FileResult = tuple[int, bytes] | Failure | None  # of one item: its channels and packed counts, or why there are none


@dataclass
class PartialResult:
    """The accumulated results of consecutive batches.

    Attributes:
        tally: the exact counts.
        failures: inputs that were not used.
        records: of single images, where asked for.
        rows: of single images, for intervals: weight, E[x], E[x^2] per channel, lowest and highest value.
        seen: images as a gallery ranks them, where asked for.
        inputs: how many inputs these are.
        bytes: how many bytes were read.
        seconds: how long a worker took.
        kinds: the first image of each number of channels.
        file_results: of every item, what the file cache stores of it; empty where there is none.
    """

    tally: Tally = field(default_factory=Tally)
    failures: list[Failure] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    rows: list[IntervalRow] = field(default_factory=list)
    seen: "list[SeenImage]" = field(default_factory=list)
    inputs: int = 0
    bytes: int = 0
    seconds: float = 0.0
    kinds: dict[int, str] = field(default_factory=dict)
    file_results: list[FileResult] = field(default_factory=list)

    def add(self, other: "PartialResult") -> None:
        """Add the result of the next batch."""
        self.tally.add(other.tally)
        self.failures += other.failures
        self.records += other.records
        self.rows += other.rows
        self.seen += other.seen
        self.inputs += other.inputs
        self.bytes += other.bytes
        self.seconds += other.seconds
        self.kinds = {**other.kinds, **self.kinds}
        self.file_results += other.file_results

    def state(self) -> dict[str, Any]:
        """Return everything but the time as JSON values."""
        failures = [(f.key, f.stage, f.reason, f.message) for f in self.failures]
        counts = {"tally": self.tally.state(), "inputs": self.inputs, "bytes": self.bytes}
        return {**counts, "failures": failures, "records": self.records, "rows": self.rows, "kinds": self.kinds}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PartialResult":
        """Rebuild a result from its state."""
        failures = [Failure(*row) for row in state["failures"]]
        return cls(
            Tally.from_state(state["tally"]),
            failures,
            state["records"],
            [tuple(row) for row in state["rows"]],
            inputs=state["inputs"],
            bytes=state["bytes"],
            kinds={int(channels): key for channels, key in state.get("kinds", {}).items()},
        )


def row(moments: ImageMoments, unit: int, white: int | None) -> IntervalRow:
    """Return an image's row for the intervals, on the scale where full intensity is 1."""
    scale = white or 1
    seconds = [(std * std + mean * mean) / scale**2 for mean, std in zip(moments.mean, moments.std, strict=True)]
    means = [mean / scale for mean in moments.mean]
    return moments.weight / unit, means, seconds, min(moments.low) / scale, max(moments.high) / scale


def merge(parts: list[PartialResult]) -> PartialResult:
    """Return the sum of consecutive results."""
    total = PartialResult()
    for part in parts:
        total.add(part)
    return total
