"""The settings of stats: what cannot be, and what the statistics file keeps of them."""

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from normcli.errors import NormcliError, UsageError, unknown
from normcli.images import Reading
from normcli.runs.sample import SamplePlan
from normcli.sources import Listing
from normcli.summary.conventions import WEIGHTS

if TYPE_CHECKING:
    from normcli.runs.count import WorkerOptions


def described(
    reading: Reading, listing: Listing, counting: "WorkerOptions", plan: SamplePlan | None, weight: str
) -> dict[str, Any]:
    """Everything that changes what the numbers mean."""
    settings = {**asdict(reading), "max_value": counting.range, "nan": counting.nan, "group_by": counting.by}
    for name in ("max_pixels", "max_file_bytes"):  # which inputs are used, not what they mean
        del settings[name]
    if listing.shard is not None:
        settings["shard"] = {"of": listing.shard[1], "parts": [listing.shard[0]]}
    if plan is not None:
        settings["sample"] = plan.settings()
    if counting.mask is not None:
        settings.update(counting.mask.settings())
    if weight not in WEIGHTS:
        raise unknown("weight", weight, WEIGHTS)
    if weight == "group" and counting.by is None:
        raise UsageError("weight group needs groups: --by folder, or --by REGEX")
    if weight != "pixel":
        if plan is not None:
            raise UsageError(
                f"an estimate's intervals are of pixels: --sample and --tolerance exclude --weight {weight}"
            )
        settings["weight"] = weight
    return settings


def check(range_: int | None, nan: str, by: str | None, on_error: str) -> None:
    """Refuse settings that cannot be.

    Raises:
        UsageError: one of them cannot be.
    """
    if range_ is not None and range_ < 1:
        raise UsageError(f"range must be a positive value such as 255, 4095 or 65535, not {range_}")
    if nan not in ("error", "skip"):
        raise UsageError(f"nan {nan!r}: choose from error, skip")
    if on_error not in ("skip", "fail"):
        raise UsageError(f"on-error {on_error!r}: choose from skip, fail")
    if by is not None and by != "folder":
        try:
            re.compile(by)
        except re.error as error:
            raise UsageError(f"by {by!r}: neither 'folder' nor a regular expression ({error})") from None


def check_ledger(updates: bool, shard: object, plan: object, resume: object, image: object, gallery: object) -> None:
    """Refuse what a ledger, or an update by one, does not go with.

    Raises:
        UsageError: one of them was given.
    """
    if plan is not None:
        raise UsageError("--ledger and --update count every image: they do not go with --sample or --tolerance")
    if shard is not None:
        raise UsageError(
            "--ledger and --update do not go with --shard, which deals images out by their number in the listing"
        )
    if resume is not None:
        raise UsageError("--resume does not go with --ledger or --update")
    if updates and image is not None:
        raise UsageError("--update reads only what changed: --per-image needs a run over everything")
    if updates and gallery is not None:
        raise UsageError("--update reads only what changed: make the --report with show afterwards")


def shard_of(setting: str | None) -> tuple[int, int] | None:
    """Read "I/N".

    Raises:
        UsageError: not such a part.
    """
    if setting is None:
        return None
    part, slash, of = setting.partition("/")
    if slash and part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of):
        return int(part), int(of)
    raise UsageError(f"shard {setting!r}: give I/N with I from 1 to N, such as 1/8")


def limit_of(setting: str | int | None) -> Callable[[int, int, bool], None] | None:
    """Make the check of `max_errors`: a number at any time, a share at the end."""
    if setting is None:
        return None
    setting = str(setting)
    share = setting.endswith("%")
    try:
        allowed = float(setting[:-1]) if share else int(setting)
    except ValueError:
        allowed = -1
    if not 0 <= allowed <= (100 if share else float("inf")):
        raise UsageError(f"max-errors {setting!r}: give a number, or a share such as 1%")

    def check(failed: int, found: int, at_end: bool) -> None:
        too_many = (at_end and failed * 100 > allowed * found) if share else failed > allowed
        if too_many:
            raise NormcliError(f"{failed} of {found} inputs failed, more than --max-errors {setting}")

    return check
