"""Results of apply, restore and verify: a line of what was done, notes, and tables."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli.cli.messages import Stopwatch, say, write
from normcli.cli.table import Table, print_table

if TYPE_CHECKING:
    from normcli.runs.apply_result import ApplyResult
    from normcli.runs.restore import RestoreResult
    from normcli.runs.verify import VerifyResult


def show_apply(result: "ApplyResult", output: Path | None, dry_run: bool, watch: Stopwatch) -> None:
    """Print the constants, notes, and the closing line of a run of apply."""
    from normcli.runs.map_constants import suspicious_numbers

    constants = result.constants
    if constants is not None:
        mean, std = (" ".join(f"{v:.4f}" for v in constants[key]) for key in ("mean", "std"))
        say(f"mean {mean}, std {std} ({constants['origin']}; {constants['convention'].replace('_', ' ')})")
        if (wrong := suspicious_numbers(constants)) is not None:
            say(f"note: {wrong}")
    for note in _notes(result):
        say(f"note: {note}")
    reused = result.reused
    settings = result.settings
    details = [f"{settings['to']} {settings['dtype']}"]
    if result.stack is not None:
        details[0] += f" {result.stack}"
    if result.shards:
        details.append(f"{len(result.shards):,} shard{'s' * (len(result.shards) != 1)}")
    if reused:
        details.insert(0, f"{reused:,} more done before")
    details.append(f"{result.bytes / 1e6:,.1f} MB")
    watch.closing("would write" if dry_run else f"wrote {output}", result.images - reused, *details)


def warn_failed(failed: Mapping[str, int]) -> None:
    """Print how many inputs failed and why; nothing where none did."""
    if failed:
        from normcli.summary.remarks import reasons

        say(f"{sum(failed.values()):,} failed: {reasons(dict(failed))}")


def _notes(result: "ApplyResult") -> Iterator[str]:
    """Yield what deserves attention about a run of apply."""
    from normcli.summary.remarks import reasons

    if result.failed:
        yield f"{sum(result.failed.values()):,} failed: {reasons(dict(result.failed))} (--failures FILE lists them)"
    if result.skipped:
        yield f"{sum(result.skipped.values()):,} skipped: {reasons(dict(result.skipped))}"
    if result.clipped:
        share = 100 * result.clipped / result.values
        yield f"{result.clipped:,} values clipped, {share:.3g}% (they cannot be restored)"
    if result.changed:
        yield "images changed after mean and std were computed; run it again"
    if result.looks_normalized:
        yield (
            f"{result.looks_normalized:,} float images have values of both signs within [-5,5]: "
            "were they normalized before?"
        )
    if count := result.remarks.get("above-range"):
        yield (
            f"{count:,} float images have values far above the range 0-1 of the constants: "
            "are they of range 0-255? (--max-value 255)"
        )
    if 0 < result.images == result.remarks.get("low-range"):
        yield "16-bit images that never exceed 4095: is this 12-bit data? (--max-value 4095)"
    if count := result.remarks.get("nodata"):
        yield f"{count:,} images with pixels of the GDAL nodata value, which were mapped like all others"
    widths: dict[str, int] = {}
    for kind, count in result.kinds.items():
        width = kind.split(" x ")[0]
        widths[width] = widths.get(width, 0) + count
    if len(widths) > 1:
        kinds = ", ".join(f"{count:,} with {width}" for width, count in widths.items())
        yield f"arrays have different numbers of channels: {kinds} (--color rgb or gray makes them equal)"
    if result.existing:
        yield f"{result.existing:,} existed before this run and are not described in the manifest"


def show_restored(result: "RestoreResult", output: Path, watch: Stopwatch) -> None:
    """Print why some images are not exact, and the closing line of a run of restore."""
    for reason, count in result.inexact.items():
        say(f"note: {count:,} not exact: {reason}")
    warn_failed(dict(result.failed))
    watch.closing(f"wrote {output}", result.images, f"{result.exact:,} bit for bit")


def show_verified(result: "VerifyResult") -> None:
    """Print mean and std per channel, and whether they are what the scheme promises."""
    rows = [
        [c.name, f"{c.mean:.3e}" if result.expected else f"{c.mean:.6f}", *_six(c.std, c.min, c.max)]
        for c in result.channels
    ]
    print_table(Table.of(["channel", "mean", "std", "min", "max"], rows))
    verdict = ""
    if result.expected and not result.problems:
        verdict = f", mean 0 and std 1 within {result.tolerance:g}: {'yes' if result.is_valid else 'NO'}"
    write(f"{result.images:,} images read again{verdict}\n")


def _six(*values: float) -> list[str]:
    return [f"{value:.6f}" for value in values]


def as_json(value: Any) -> str:
    """A result as JSON, for stdout."""
    import json

    return json.dumps(value, indent=1) + "\n"
