"""One self-contained page about a set of images: no network, no scripts, light and dark, narrow and wide.

The page shows a summary, as the exporters do; it is apart from them because it needs a library (jinja2) and files of
its own. Every text is escaped: a file name may contain markup.
"""

from normcli.report.page import FAILURES_SHOWN, render_page, require_jinja2
from normcli.report.pictures import Gallery

__all__ = ["FAILURES_SHOWN", "Gallery", "render_page", "require_jinja2"]
