"""Sources of a statistics file counted again, with the settings of the file, and compared."""

from collections.abc import Sequence

from normcli.constants.compare import Difference, diff
from normcli.errors import UsageError
from normcli.options.apply import VerifyStatisticsOptions
from normcli.options.stats import StatsOptions
from normcli.runs.compare import recorded_options, with_page
from normcli.runs.stats import stats
from normcli.summary import Summary
from normcli.summary.remarks import note_incomplete

_NOT_RECORDED = {
    "mask": "mask_dir",
    "sample": "sample",
    "mixture": "weights",
}  # setting -> option whose value the file does not hold


def verify_statistics(summary: Summary, sources: Sequence[str], options: VerifyStatisticsOptions) -> Difference:
    """Count the sources again with the settings of a statistics file, and compare.

    Args:
        summary: the statistics file.
        sources: as for `stats`.
        options: input, engine and callbacks; how images are decoded and counted comes from the file.

    Returns:
        The differences from the file to the sources; `identical` where the images are the same, byte for byte.

    Raises:
        UsageError: the file was made with masks or from a sample, which it does not record completely.
        NoInputError: no usable image.
    """
    for setting, option in _NOT_RECORDED.items():
        if setting in summary.settings:
            raise UsageError(f"statistics made with `{option}` cannot be verified (count again, and use normcli diff)")
    note_incomplete(summary, "statistics")
    keywords = options.as_dict()
    keywords |= recorded_options(summary)
    if summary.shards is not None:
        parts = summary.shards["parts"]
        if len(parts) != 1:
            raise UsageError("merged statistics with missing parts cannot be verified (verify each part)")
        keywords["shard"] = (parts[0], summary.shards["of"])
    counted = stats(sources, StatsOptions(**keywords))
    return with_page(diff(summary, counted), summary, counted, ("the file", "the sources"))
