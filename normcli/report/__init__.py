"""Self-contained pages about sets of images and tensors: no network, light and dark, narrow and wide.

A page shows results that the command line also prints; the pages are apart from it because they need a library
(jinja2) and files of their own. Every text is escaped: a file name may contain markup. The only script adds buttons
that copy; without it, everything can be read.
"""

from normcli.report.environment import Origin, require_jinja2
from normcli.report.page import FAILURES_SHOWN, render_page
from normcli.report.pictures import Gallery

__all__ = ["FAILURES_SHOWN", "Gallery", "Origin", "render_page", "require_jinja2"]
