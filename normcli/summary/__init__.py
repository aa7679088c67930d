"""Summaries: the statistics that a tally of images means, and the file that stores them.

Reading and printing a file loads no NumPy, because the numbers are in the file. Only merging, which is in
`sums`, and histograms decode the state.
"""

from normcli.summary.file import SCHEMA, SCHEMA_FILE
from normcli.summary.summary import GroupSummary, Summary, SummarySource, load

__all__ = ["SCHEMA", "SCHEMA_FILE", "GroupSummary", "Summary", "SummarySource", "load"]
