"""The site is built without a warning; its links lead somewhere, and every page is two clicks from the start."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.support import needs
from tests.support.command import ROOT

START = "index.html"


class Page(HTMLParser):
    """Links, ids, requests and paragraphs of a built page; `content` are the links of the article alone."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.content: list[str] = []
        self.requests: list[str] = []
        self.ids: set[str] = set()
        self.paragraphs: list[str] = []
        self.article = False
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        self.article = self.article or tag == "article"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
            self.content += [values["href"]] * self.article
        if tag in ("script", "img", "iframe") and "src" in values:
            self.requests.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.requests.append(values["href"])
        if tag == "p":
            self.paragraphs.append("")
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.article = self.article and tag != "article"
        self.open = self.open and tag != "p"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.paragraphs[-1] += data


def build(source: Path, output: Path) -> "subprocess.CompletedProcess[str]":
    """Build the site of a checkout with warnings as errors; `--quiet` would hide them, and not count them."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", source / "mkdocs.yml", "-d", output],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Every built page by its path on the site."""
    needs.modules("mkdocs", "material")
    output = tmp_path_factory.mktemp("site")
    done = build(ROOT, output)
    printed = (done.stdout + done.stderr).splitlines()
    assert (done.returncode, [line for line in printed if not line.startswith("INFO")]) == (0, [])
    paths = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    return {name: Page(path.read_text("utf-8") if name.endswith(".html") else "") for name, path in paths.items()}


def target(page: str, link: str) -> tuple[str, str]:
    """Return the file on the site that a link of a page leads to, and its fragment; "" for another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "", ""
    path = os.path.normpath(Path(page).parent / unquote(parts.path)) if parts.path else page
    return Path(START if path == "." else path).as_posix(), unquote(parts.fragment)


def pages(site: dict[str, Page]) -> list[str]:
    return [name for name in site if name.endswith(".html") and name != "404.html"]


def test_the_site_has_no_files_of_python(site: dict[str, Page]) -> None:
    assert [name for name in site if name.endswith((".py", ".pyc"))] == []


def test_every_link_leads_to_a_file_and_a_heading_of_the_site(site: dict[str, Page]) -> None:
    broken = []
    for name in pages(site):
        for link in site[name].links:
            path, fragment = target(name, link)
            if path and (path not in site or (fragment and fragment not in site[path].ids)):
                broken.append((name, link))
    assert broken == []


def test_every_page_is_two_clicks_from_the_start_by_links_of_the_text(site: dict[str, Page]) -> None:
    """So it is also for readers of the Markdown, who have no navigation."""
    near = {START}
    for _ in range(2):
        near |= {target(name, link)[0] for name in near & set(site) for link in site[name].content}
    assert set(pages(site)) - near == set()


def test_no_page_asks_another_server(site: dict[str, Page]) -> None:
    assert [(name, url) for name in pages(site) for url in site[name].requests if urlsplit(url).netloc] == []


def test_lists_and_tables_are_read_as_written(site: dict[str, Page]) -> None:
    """A list without an empty line before it, or a table that is none, is a paragraph for the site's parser."""
    lines = [(name, line) for name in pages(site) for text in site[name].paragraphs for line in text.splitlines()]
    assert [(name, line) for name, line in lines if line.startswith(("- ", "* ", "|", "1. ", "```"))] == []


def test_every_page_below_docs_is_in_the_navigation(site: dict[str, Page]) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert written <= set(site)
    assert {"api.html", "tutorial.html", "how-to/slurm.html", "project/CHANGELOG.html"} <= set(site)


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    needs.modules("mkdocs", "material")
    configuration = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    (tmp_path / "docs").mkdir()
    configuration.update(nav=[{"Start": "index.md"}], hooks=[], extra_css=[], exclude_docs="", plugins=[])
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(configuration))
    for text, code in (("# A\n\n[b](#a)\n", 0), ("# A\n\n[b](nowhere.md)\n", 1), ("# A\n\n[b](#nowhere)\n", 1)):
        (tmp_path / "docs/index.md").write_text(text)
        assert build(tmp_path, tmp_path / "out").returncode == code, text
