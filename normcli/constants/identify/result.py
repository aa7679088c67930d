"""The result of `check`."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from normcli import storage
from normcli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Identification of constants: verdict, conventions, range, order and distances.

    Attributes:
        verdict: "match", "close", "uncertain", "mistake" or "none".
        conventions: the conventions that fit; several where neither digits nor data distinguish them.
        range: "0-1", "0-255", "0-65535" or "raw units".
        order: "RGB", "BGR", …; "RGB or BGR" where they are too alike to distinguish.
        preset: name of the published constants with these values, or "".
        mistake: the part that is in the wrong place, or "".
        distance: distance from the first convention named; None without any hypothesis.
        shift: per channel in the order of the constants, (mean - predicted mean) / predicted std.
        ratio: per channel, std / predicted std; None where no std was given.
        mean, std: this dataset's own in that convention, range and order.
        normalized: pooled mean and std, and the range, of this dataset's pixels once normalized by the constants: per
            channel in the order of the constants.
        remarks: sentences.
        advice: for or against the constants, with the pooled ones to use in their place.
        page: returns the HTML page of this result under a title; None where the dataset is not at hand.
    """

    verdict: str
    conventions: list[str] = field(default_factory=list)
    range: str = ""
    order: str = ""
    preset: str = ""
    mistake: str = ""
    distance: float | None = None
    shift: list[float] = field(default_factory=list)
    ratio: list[float] | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    normalized: dict[str, list[float | None]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    advice: str = ""
    page: "Callable[[CheckResult, str], str] | None" = field(default=None, repr=False, compare=False)

    @property
    def fits(self) -> bool:
        """Return True if the constants are this dataset's, in some convention, and not mistaken."""
        return self.verdict in ("match", "close", "uncertain")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = asdict(replace(self, page=None))
        del values["page"]
        return {"schema": "normcli/check/1", **values}

    def report(self, path: str | os.PathLike[str], *, title: str = "") -> None:
        """Write a self-contained HTML page, completely or not at all.

        Args:
            path: the file to write.
            title: name of the dataset; by default that of the file or source.

        Raises:
            UsageError: a result that `normcli.check` did not return.
            MissingExtraError: jinja2 is not installed.
            OutputError: the page cannot be written.
        """
        if self.page is None:
            raise UsageError("this result has no page: it was not returned by normcli.check")
        storage.write_file(os.fspath(path), self.page(self, title).encode("utf-8", "backslashreplace"))
