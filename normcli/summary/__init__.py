"""Summaries: the statistics that a tally of images means, and the file that stores them.

Reading and printing a file loads no NumPy, because the numbers are in the file. Only merging and histograms
decode the state.
"""

from normcli.summary.file import SCHEMA, SCHEMA_FILE
from normcli.summary.summary import GroupSummary, Summary, SummarySource, load
from normcli.summary.sums import merge

__all__ = ["SCHEMA", "SCHEMA_FILE", "GroupSummary", "Summary", "SummarySource", "load", "merge"]
