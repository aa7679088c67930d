"""docs/conventions.md names every exporter and convention; its commands run in tests/test_docs.py.

`python -m tests.test_conventions_doc` writes the page anew, with what the commands print.
"""

from normcli.constants.exporters import EXPORTERS
from normcli.summary.remarks import CONVENTIONS
from tests.support import pages
from tests.support.command import ROOT

PAGE = "docs/conventions.md"


def test_every_dialect_and_convention_is_on_the_page() -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    assert [name for name in (*EXPORTERS, *CONVENTIONS) if f"`{name}`" not in text] == []


if __name__ == "__main__":
    pages.main([PAGE])
