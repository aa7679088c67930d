"""Results of apply, restore and verify: a line of what was done, notes, and tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from normcli.cli.messages import say, write

if TYPE_CHECKING:
    from normcli.runs.restore import RestoreResult
    from normcli.runs.verify import VerifyResult


def show_apply(result: dict[str, Any], output: Path | None, dry_run: bool) -> None:
    """What was done, and everything about it that deserves a word."""
    from normcli.runs.map_constants import suspicious_numbers
    from normcli.summary.remarks import reasons

    settings, constants = result["settings"], result["constants"]
    if constants is not None:
        mean, std = (" ".join(f"{v:.4f}" for v in constants[key]) for key in ("mean", "std"))
        say(f"mean {mean}, std {std} ({constants['origin']}; {constants['convention'].replace('_', ' ')})")
        if (wrong := suspicious_numbers(constants)) is not None:
            say(f"note: {wrong}")
    verb = "would write" if dry_run else "wrote"
    before = result.get("reused", 0)
    shape = f" {tuple(result['stack'])}" if "stack" in result else ""
    if "shards" in result:
        shape = f" in {len(result['shards']):,} shard{'s' * (len(result['shards']) != 1)}"
    where = "" if dry_run else f" to {output}"
    say(
        f"{verb} {_images(result['images'] - before)}{where}{f', {before:,} were done before' if before else ''}: "
        f"{settings['to']} {settings['dtype']}{shape}, {result['bytes'] / 1e6:,.1f} MB"
    )
    if result["failed"]:
        say(f"note: {sum(result['failed'].values())} failed: {reasons(result['failed'])} (--failures FILE lists them)")
    if result["skipped"]:
        say(f"note: {sum(result['skipped'].values())} skipped: {reasons(result['skipped'])}")
    if result["clipped"]:
        share = 100 * result["clipped"] / result["values"]
        say(f"note: {result['clipped']:,} values clipped, {share:.3g}% (they cannot be restored)")
    if result.get("changed"):
        say("note: images changed after mean and std were computed of them; run it again")
    if result["looks_normalized"]:
        say(
            f"note: {result['looks_normalized']} float images lie within [-5,5] with both signs: "
            "were they normalized before?"
        )
    widths: dict[str, int] = {}
    for kind, count in result["kinds"].items():
        wide = kind.split(" x ")[0]
        widths[wide] = widths.get(wide, 0) + count
    if len(widths) > 1:
        kinds = ", ".join(f"{count} of {wide}" for wide, count in widths.items())
        say(f"note: arrays of different numbers of channels: {kinds} (--color rgb or gray makes them one)")
    if result["found"]:
        say(f"note: {result['found']} were there before and are not described in the manifest")


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def show_restored(found: "RestoreResult", output: Path) -> None:
    """How many images came back, and why some did not exactly."""
    from normcli.summary.remarks import reasons

    say(f"restored {found.images:,} images to {output}, {found.exact:,} bit for bit")
    for why, count in found.why_not.items():
        say(f"note: {count} not exact: {why}")
    if found.failed:
        say(f"note: {sum(found.failed.values())} failed: {reasons(dict(found.failed))}")


def show_verified(found: "VerifyResult") -> None:
    """Mean and std per channel, and whether they are what was expected."""
    rows = [["channel", "mean", "std", "min", "max"]]
    for c in found.channels:
        rows.append([c.name, f"{c.mean:.3e}" if found.expected else f"{c.mean:.6f}", *_six(c.std, c.min, c.max)])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        write("  ".join(cells).rstrip() + "\n")
    said = ""
    if found.expected and not found.problems:
        said = f", mean 0 and std 1 within {found.tolerance:g}: {'yes' if found.sound else 'NO'}"
    write(f"{found.images} images read again{said}\n")


def _six(*values: float) -> list[str]:
    return [f"{value:.6f}" for value in values]


def as_json(value: Any) -> str:
    """A result as JSON, for stdout."""
    import json

    return json.dumps(value, indent=1) + "\n"
