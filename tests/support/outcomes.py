"""The outcome of every input of a source: used, failed or skipped."""

from collections import Counter
from pathlib import Path
from typing import Any

import normcli
from normcli.errors import NoInputError

Outcome = tuple[int, Counter[str], Counter[str]]


def outcome(source: Path, **options: Any) -> Outcome:
    """Return used, failed and skipped inputs by reason: any input ends as one of them."""
    return outcome_and_whole(source, **options)[0]


def outcome_and_whole(source: Path, **options: Any) -> tuple[Outcome, int]:
    """Return the same, and the number of failures of the archive itself."""
    failures: list[Any] = []
    try:
        summary = normcli.stats(source, engine="serial", on_failure=failures.append, **options)
        images = summary.images
    except NoInputError:
        images = 0
    failed = Counter(f.reason for f in failures if f.stage != "skip")
    whole = sum(f.key == str(source) for f in failures)
    return (images, failed, Counter(f.reason for f in failures if f.stage == "skip")), whole
